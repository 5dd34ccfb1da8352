"""What an application decides about those who come: who they are, and whether they may come in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fastim.errors import ConnectionRefused, ErrorCode, RequestError
from fastim.server.entrance.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastim.guard.tokens import Claims
    from fastim.server.application.app import FastIM
    from fastim.server.application.context import Context
    from fastim.server.application.handlers import Handler
    from fastim.server.application.namespaces import Namespace
    from fastim.server.front.opening import Handshake

__all__ = ["Decisions", "refusal_of"]


def refusal_of(error: Exception) -> Exception:
    """Return the ``ConnectionRefused`` that a function means by the builtin ``ConnectionRefusedError``.

    One with an ``errno`` is the system's, of another service that is down: a mistake, and none of a client's
    business.
    """
    if isinstance(error, ConnectionRefusedError) and error.errno is None:
        return ConnectionRefused(str(error) or "refused").with_traceback(error.__traceback__)
    return error


class Decisions:
    """Asks an application.

    Args:
        application: Whose functions decide; None: nothing is to be asked.
        timeout_s: That async ones have, each; 0: no bound.
    """

    def __init__(self, application: FastIM | None, timeout_s: float) -> None:
        self._authenticator = application.authenticator if application is not None else None
        self._timeout_s = timeout_s or None

    @property
    def authenticates(self) -> bool:
        """Whether the application says who somebody is, and no token of ours does."""
        return self._authenticator is not None

    def looks(self, namespace: Namespace) -> bool:
        """Whether the application may look at the handshake of who goes to a namespace."""
        return self.authenticates or bool(namespace.middlewares or namespace.connect_handlers)

    def wait(self, namespace: Namespace) -> bool:
        """Whether functions that are asked about who goes to a namespace may wait for something."""
        handlers = [*namespace.middlewares, *((self._authenticator,) if self._authenticator else ())]
        return any(handler.is_async for handler in handlers)

    async def identify(self, handshake: Handshake) -> Claims | None:
        """Ask who somebody is; None: nobody that the application knows.

        Raises:
            RequestError: The application refuses, or does not answer in time.
        """
        assert self._authenticator is not None
        found = await self._ask(self._authenticator, handshake)
        if isinstance(found, str):
            found = Identity(found)
        if found is None or isinstance(found, Identity):
            return found.claims() if found is not None else None
        raise TypeError(f"authenticate: a user's id, an Identity or None, not {type(found).__name__}")

    async def admit(self, middlewares: Sequence[Handler], context: Context) -> None:
        """Ask whether somebody may come in.

        Raises:
            RequestError: The application refuses, or does not answer in time.
        """
        for middleware in middlewares:
            if await self._ask(middleware, context) is False:
                raise ConnectionRefused

    async def _ask(self, handler: Handler, about: Any) -> Any:
        try:
            return await self._answer(handler, about)
        except ConnectionRefusedError as error:
            raise refusal_of(error) from None

    async def _answer(self, handler: Handler, about: Any) -> Any:
        if not handler.is_async:
            return handler.call(about)
        timeout = asyncio.timeout(self._timeout_s)
        try:
            async with timeout:
                return await handler.call(about)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise RequestError(ErrorCode.UNAVAILABLE, "the application did not decide in time") from None
