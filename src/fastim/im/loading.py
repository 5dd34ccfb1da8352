"""Users come in by batches: one read of the store for all who say hello in a tick."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastim.errors import RequestError
from fastim.im.domain import Domain
from fastim.store.base import MembershipRecord

__all__ = ["BATCH_USERS", "UserLoader"]

BATCH_USERS: Final = 500  # of one read

Enter = Callable[[int, Sequence[MembershipRecord]], Any]


class _Request:
    __slots__ = ("device", "enter", "future", "user_id")

    def __init__(self, user_id: str, device: str, enter: Enter, future: asyncio.Future[Any]) -> None:
        self.user_id = user_id
        self.device = device
        self.enter = enter
        self.future = future


class UserLoader:
    """Reads users with their memberships, many at a time."""

    __slots__ = ("_domain", "_requests", "_running")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._requests: deque[_Request] = deque()
        self._running = False

    async def load(self, user_id: str, device: str, enter: Enter) -> Any:
        """Read a user and return what ``enter(key, memberships)`` makes of it.

        What is reported as committed between the read and ``enter`` is kept for it (``Domain.missed``), so
        that there is no hole between what was read and the first live message.

        Raises:
            StoreError: not read.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.append(_Request(user_id, device, enter, future))
        if not self._running:
            self._running = True
            self._domain.spawn(self._run())
        try:
            return await future
        finally:
            del future  # the exception that it may hold refers to this frame: a circle

    async def _run(self) -> None:
        try:
            while self._requests:
                batch = [self._requests.popleft() for _ in range(min(len(self._requests), BATCH_USERS))]
                await self._read(batch)
        finally:
            self._running = False

    async def _read(self, batch: list[_Request]) -> None:
        domain = self._domain
        started = domain.load_begins()
        try:
            found = await domain.store.load_users({(r.user_id, r.device) for r in batch})
            for request in batch:
                if request.future.done():
                    continue
                if domain.changed_since(request.user_id, started):
                    # Members changed while we read: what was read may be the state before.
                    self._requests.append(request)
                    continue
                try:
                    request.future.set_result(request.enter(*found[request.user_id, request.device]))
                except RequestError as error:
                    # An answer, no mistake: without the traceback, which would keep the batch in a circle.
                    request.future.set_exception(error.with_traceback(None))
                except Exception as error:
                    request.future.set_exception(error)
        except BaseException as error:
            for request in batch:
                if not request.future.done():
                    if isinstance(error, Exception):
                        request.future.set_exception(error)
                    else:
                        request.future.cancel()
            if not isinstance(error, Exception):
                raise
        finally:
            domain.load_ends()
