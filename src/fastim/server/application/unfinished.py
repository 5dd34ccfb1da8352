"""Handlers that do not return: which they are, and whom they hold up."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final

from fastim.server.application.tables import Event
from fastim.server.connection import Connection, Phase, Work

__all__ = ["Unfinished", "counted"]

log = logging.getLogger("fastim.dispatch")

HELD_S: Final = 5.0  # until a warning: handlers that are merely slow have let packets through by then
MAX_NAMED: Final = 10


class Unfinished:
    """The async and threaded handlers that have begun, and the connections that wait for them.

    A connection is held up while nothing of it is read, or its ``on_connect`` handlers run for long. The log
    is told once of each that has been for some seconds.

    Args:
        loop: Its clock says how long.

    Attributes:
        handlers: How many have begun and not returned, by event.
        held_s: How long one is held up before the log is told; seconds.
        held: Connections that are not read for it.
        held_total: How often one was.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.handlers: Counter[Event] = Counter()
        self.count = 0
        self.held_s = HELD_S
        self.held = 0
        self.held_total = 0
        self._loop = loop
        self._warned: set[Connection] = set()

    def begin(self, work: Work, event: Event) -> None:
        """A handler begins."""
        self.count += 1
        self.handlers[event] += 1
        work.running[event] = work.running.get(event, 0) + 1

    def end(self, work: Work, event: Event) -> None:
        """A handler is done."""
        self.count -= 1
        _less(self.handlers, event)
        _less(work.running, event)

    def hold(self, connection: Connection, work: Work) -> None:
        """A connection is read no further until its handlers are done."""
        work.paused = True
        self.held += 1
        self.held_total += 1
        self._loop.call_later(self.held_s, self._warn_held, connection, work, work.holds)

    def release(self, work: Work) -> None:
        """It is read again, or gone."""
        if work.paused:
            work.paused = False
            work.holds += 1
            self.held -= 1

    def gone(self, connection: Connection, work: Work | None) -> None:
        """A connection is gone."""
        self._warned.discard(connection)
        if work is not None:
            self.release(work)

    def _warn_held(self, connection: Connection, work: Work, holds: int) -> None:
        if work.paused and work.holds == holds and connection.work is work:
            self._warn(connection, f"is not read: handlers have not returned: {counted(work.running)}")

    def watch_start(self, connection: Connection, name: Callable[[], str]) -> asyncio.TimerHandle:
        """Warn if a connection's ``on_connect`` handlers are not over soon; the caller cancels it then.

        Args:
            name: Returns that of the handler that runs.
        """
        return self._loop.call_later(self.held_s, self._warn_starting, connection, name)

    def _warn_starting(self, connection: Connection, name: Callable[[], str]) -> None:
        if connection.phase == Phase.STARTING:
            self._warn(connection, f"waits to be let in: the on_connect handler {name()} has not returned")

    def _warn(self, connection: Connection, what: str) -> None:
        if connection in self._warned:
            return
        self._warned.add(connection)
        where, user, sid = connection.namespace, connection.user_id, connection.sid
        log.warning("the connection of user %r, sid %s, in %r %s", user, sid, where, what)

    def stats(self) -> dict[str, int]:
        """Return the gauges and counters."""
        return {
            "unfinished": self.count,
            "held_connections": self.held,
            "held_connections_total": self.held_total,
        }


def counted(handlers: dict[Any, int]) -> str:
    """Write which handlers there are: the most frequent first, and not all of many."""
    most: Iterable[tuple[Any, int]] = sorted(handlers.items(), key=lambda each: -each[1])[:MAX_NAMED]
    named = ", ".join(f"{event!r} ({count})" for event, count in most)
    return named + (", …" if len(handlers) > MAX_NAMED else "")


def _less(handlers: dict[Event, int], event: Event) -> None:
    handlers[event] -= 1
    if not handlers[event]:
        del handlers[event]
