"""Bare Engine.IO for an application: messages of text and bytes, with no protocol above them."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastim.errors import CloseCode
from fastim.server.application.handlers import is_async

if TYPE_CHECKING:
    from fastim.server.engineio.session import EngineSession
    from fastim.server.service import Service

__all__ = ["EngineConnection", "EngineHook", "HookProtocol"]

log = logging.getLogger("fastim.engineio")

MAX_BACKLOG = 16  # messages that wait for an async handler before the client is read no more


class EngineHook:
    """An application's handler of an endpoint.

    Args:
        path: Of the endpoint, with a slash at its end or without.
        call: Takes ``(connection, data)``; plain or async.

    Raises:
        TypeError: It does not take two arguments.
        ValueError: The path is none.
    """

    def __init__(self, path: str, call: Callable[[EngineConnection, str | bytes], Any]) -> None:
        if not path.startswith("/") or not path.strip("/"):
            raise ValueError(f"{path!r} is no path of an endpoint")
        try:
            inspect.signature(call).bind(None, None)
        except TypeError:
            raise TypeError(f"the handler of {path} must take (connection, data)") from None
        self.path = f"{path.rstrip('/')}/"
        self.call = call
        self.is_async = is_async(call)


class EngineConnection:
    """A session, as an application's handler sees it.

    **Thread**: its methods may be called from any thread; from another than the loop's they are queued there.
    **Lifetime**: valid for as long as one likes; once the session is gone its methods do nothing.

    Attributes:
        state: A place for the application's own values.
    """

    __slots__ = ("_backlog", "_running", "_service", "_session", "state")

    def __init__(self, service: Service, session: EngineSession) -> None:
        self.state: dict[str, Any] = {}
        self._service = service
        self._session = session
        self._backlog: deque[str | bytes] = deque()
        self._running = False

    @property
    def sid(self) -> str:
        """The session's id: a secret of its client."""
        return self._session.sid

    @property
    def transport(self) -> str:
        """What carries it now: ``polling`` or ``websocket``."""
        return self._session.transport

    def send(self, data: str | bytes) -> None:
        """Send a message, as text or as bytes."""
        if isinstance(data, str):
            self._service.runtime.on_loop(self._session.send, data.encode(), False)
        else:
            self._service.runtime.on_loop(self._session.send, bytes(data), True)

    def close(self) -> None:
        """End the session, after what was sent to it before."""
        self._service.runtime.on_loop(self._session.close, CloseCode.NORMAL, "")


class HookProtocol:
    """Serves an ``EngineHook``.

    The messages of a session are handled in the order they came. While an async handler runs the next ones
    wait, and when some do, the client is not read.
    """

    def __init__(self, service: Service, hook: EngineHook) -> None:
        self._service = service
        self._hook = hook

    def opened(self, session: EngineSession, now_ns: int) -> None:
        session.forget_head()
        session.sockets = EngineConnection(self._service, session)
        self._service.hub.authenticated(session.handle)

    def received(self, session: EngineSession, data: bytes, binary: bool, now_ns: int) -> int:
        connection = session.sockets
        if not isinstance(connection, EngineConnection):
            return 1
        message: str | bytes = data if binary else data.decode()
        if connection._running:
            connection._backlog.append(message)
            if len(connection._backlog) == MAX_BACKLOG:
                self._service.hub.pause(session.handle)
        elif self._hook.is_async:
            connection._running = True
            self._service.spawn(self._run(connection, message))
        else:
            self._call(connection, message)
        return 1

    def on_timer(self, session: EngineSession, now_ns: int) -> None:
        """No timer is set."""

    def moved(self, session: EngineSession, now_ns: int) -> None:
        """What carries a session makes no difference here."""

    def carries(self, session: EngineSession) -> bool:
        return False

    def closed(self, session: EngineSession, code: int, reason: str, clean: bool) -> None:
        connection, session.sockets = session.sockets, None
        if isinstance(connection, EngineConnection):
            connection._backlog.clear()

    def _call(self, connection: EngineConnection, message: str | bytes) -> None:
        try:
            self._hook.call(connection, message)
        except Exception:
            self._failed()

    async def _run(self, connection: EngineConnection, message: str | bytes) -> None:
        """Run an async handler for a message, and for those that have come meanwhile."""
        backlog = connection._backlog
        try:
            while True:
                try:
                    await self._hook.call(connection, message)
                except Exception:
                    self._failed()
                if not backlog:
                    return
                if len(backlog) == MAX_BACKLOG:
                    self._service.hub.resume(connection._session.handle)
                message = backlog.popleft()
        finally:
            connection._running = False

    def _failed(self) -> None:
        log.exception("a handler of %s failed", self._hook.path)
