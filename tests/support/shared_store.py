"""One store for two servers in one process: what one of them writes, the other hears of.

It stands for what a bus between machines does, as far as a pair of servers in a test needs it: a message that
one server had stored reaches the other in commit order, without the context of whoever sent it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from fastim.im.delivery import Origin, Post
from fastim.store.base import Append, Store, Write

__all__ = ["SharedStore"]

OnCommit = Callable[[Sequence[Write]], None]


class SharedStore:
    """A store that several servers open, each by a door of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._doors: list[Door] = []
        self._origins: dict[int, Door] = {}  # by the identity of a write that is on its way

    def door(self) -> Store:
        """Return a store for one more server."""
        return cast(Store, Door(self))

    async def enter(self, door: Door) -> None:
        self._doors.append(door)
        if len(self._doors) == 1:
            await self.store.open(self._report)

    async def leave(self, door: Door) -> None:
        await self.store.flush()
        self._doors.remove(door)
        if not self._doors:
            await self.store.close()

    def submit(self, door: Door, write: Any) -> None:
        self._origins[id(write)] = door
        self.store.submit(write)

    def _report(self, writes: Sequence[Write]) -> None:
        origins = [self._origins.pop(id(write)) for write in writes]
        reports = [
            [write if origin is door else _news(write) for write, origin in zip(writes, origins, strict=True)]
            for door in self._doors
        ]
        for door, report in zip(self._doors, reports, strict=True):
            door.on_commit(report)


def _news(write: Write) -> Write:
    """A write as another server hears of it: nobody there waits for it."""
    news = _copy(write)
    context = write.context
    news.context = None
    if isinstance(write, Append):
        known = context if isinstance(context, Post) else None
        conversation_id = known.conversation_id if known else cast(Origin, context)[2].conversation.id
        news.context = Post(asyncio.get_running_loop().create_future(), conversation_id)
    return news


def _copy(write: Write) -> Write:
    copied = object.__new__(type(write))
    for kind in type(write).__mro__:
        for name in getattr(kind, "__slots__", ()):
            setattr(copied, name, getattr(write, name))
    return copied


class Door:
    """What a server takes for its store."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self.on_commit: OnCommit = lambda writes: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared.store, name)

    async def open(self, on_commit: OnCommit) -> None:
        self.on_commit = on_commit
        await self._shared.enter(self)

    async def close(self) -> None:
        await self._shared.leave(self)

    def submit(self, write: Any) -> None:
        self._shared.submit(self, write)
