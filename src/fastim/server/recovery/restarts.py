"""What a server may still say of connections that an earlier process of it had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastim.guard.pids import Pid
from fastim.server.recovery.offsets import Offset
from fastim.server.recovery.refusals import NotRecovered, Refusal

__all__ = ["EVERY_NAMESPACE", "Restarts"]

EVERY_NAMESPACE: Final = "*"
"""Stands for all namespaces, where an application sends to users and connections wherever they are."""


class Restarts:
    """The processes that the store has seen, in their order, and what they did in each namespace.

    A process that has ended took with it which rooms its connections were in, what applications kept with
    them, and the events that were not stored. Where there was none of that, a connection can go on with the
    messages that it missed alone.

    Args:
        starts: The processes by their epochs, counted up; this one is the last.
        used: The last process in which an application had its part in a namespace.
        until_ns: Connections of earlier processes come back until then.
    """

    __slots__ = ("_starts", "_this", "_until_ns", "_used")

    def __init__(self, starts: Mapping[str, int], used: Mapping[str, int], until_ns: int) -> None:
        self._starts = starts
        self._used = dict(used)
        self._until_ns = until_ns
        self._this = max(starts.values(), default=0)

    def use(self, namespace: str) -> None:
        """The application of this process has its part in a namespace from now on."""
        self._used[namespace] = self._this

    def check(self, pid: Pid) -> None:
        """Ask whether all that this process has sent in a connection's namespace were messages.

        Raises:
            NotRecovered: The application has had its part.
        """
        if self._last_use(pid) >= self._this:
            raise NotRecovered(Refusal.RESTART)

    def _last_use(self, pid: Pid) -> int:
        return max(self._used.get(name, 0) for name in (pid.namespace, EVERY_NAMESPACE))

    def position(self, pid: Pid, offset: Offset | None, now_ns: int) -> tuple[int, int]:
        """Return the last message and the last change that a connection of an earlier process has heard of.

        Raises:
            NotRecovered: Something else than messages may be missing, or the time is over.
        """
        first = self._starts.get(pid.epoch)
        if first is None or now_ns >= self._until_ns:
            raise NotRecovered(Refusal.UNKNOWN)
        key, change, last = pid.key, pid.change, first
        if offset is not None and self._starts.get(offset.epoch, 0) >= first:
            # Else it is from before this connection, which clients do not forget.
            key, change = max(key, offset.key), max(change, offset.change)
            last = self._starts[offset.epoch]
        if not (pid.complete and pid.session) or self._last_use(pid) >= last:
            raise NotRecovered(Refusal.RESTART)
        return key, change
