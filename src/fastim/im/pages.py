"""Large answers take turns: a client that asks for many pages at once is not closed for being slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastim.errors import ErrorCode, RequestError
from fastim.im.domain import Domain
from fastim.im.session import Session, SessionState

__all__ = ["Pages"]


def gone() -> RequestError:
    return RequestError(ErrorCode.UNAVAILABLE, "the connection is gone")


class Pages:
    """One page at a time for a connection, and the next once most of the one before was taken.

    Each page is bounded, a connection's outbox too; without turns a few pages asked for together would
    fill it.
    """

    __slots__ = ("_domain", "_drained", "_queues")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._queues: dict[Session, deque[asyncio.Future[None]]] = {}  # of connections a page is read for
        self._drained: dict[Session, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(self, session: Session) -> AsyncIterator[None]:
        """Wait for the connection's turn, and for room in its outbox.

        Raises:
            RequestError: the connection went away meanwhile.
        """
        queue = self._queues.get(session)
        if queue is None:
            self._queues[session] = deque()
        else:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue.append(future)
            await future
        try:
            await self._room(session)
            yield
        finally:
            self._next(session)

    async def _room(self, session: Session) -> None:
        hub, own_sent = self._domain.hub, False
        while self._domain.room_bytes(session, own_sent) < 0:
            future = self._drained[session] = asyncio.get_running_loop().create_future()
            hub.want_drained(session.handle)
            await future
            own_sent = True
        if session.state == SessionState.GONE:
            raise gone()

    def _next(self, session: Session) -> None:
        queue = self._queues.get(session)
        while queue:
            future = queue.popleft()
            if not future.done():
                future.set_result(None)
                return
        self._queues.pop(session, None)

    def on_drained(self, session: Session) -> None:
        """The connection has taken what was queued."""
        future = self._drained.pop(session, None)
        if future is not None and not future.done():
            future.set_result(None)

    def leave(self, session: Session) -> None:
        """The connection is gone: nobody waits for it any more."""
        self.on_drained(session)
        for future in self._queues.pop(session, ()):
            if not future.done():
                future.set_exception(gone())
