"""What arrives from the server, and the bounded queue it waits in."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

__all__ = ["Event", "EventQueue", "Sent"]


class Event(NamedTuple):
    """An event from the server; its body as plain values, bytes as ``bytes``.

    The name is an int only for an application's code over msgpack.
    """

    name: str | int
    body: Any


class Sent(NamedTuple):
    """A message that is durable at the server."""

    id: str
    conversation: str
    seq: int
    time: int
    client_id: str
    duplicate: bool


class EventQueue:
    """Events between the connection and the application, at most ``limit`` of them.

    One reader and several writers, all on one loop. After ``close`` what is queued can still be taken; then
    ``get`` raises what ``close`` was given.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("the limit must be positive")
        self.limit = limit
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        return len(self._events) >= self.limit

    def offer(self, event: Event) -> bool:
        """Append ``event`` if there is room; return whether there was."""
        if self.full or self._error is not None:
            return False
        self._events.append(event)
        self._readable.set()
        return True

    async def wait_for_room(self) -> None:
        """Wait until ``offer`` would take an event, or the queue is closed."""
        while self.full and self._error is None:
            self._writable.clear()
            await self._writable.wait()

    async def get(self) -> Event:
        """Take the oldest event; wait for one if there is none."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._readable.clear()
            await self._readable.wait()
        event = self._events.popleft()
        self._writable.set()
        return event

    def close(self, error: Exception) -> None:
        """Take no more events; wake everybody who waits."""
        if self._error is None:
            self._error = error
        self._readable.set()
        self._writable.set()
