"""Requests that could not be finished at once, and are looked at again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastim.server.engineio.polling import Polling

__all__ = ["Waiting"]

TURN_NS: Final = 10_000_000  # for those that go on; the loop's other callbacks come before the rest
LOOK_NS: Final = 10_000_000
# A look at one takes 0.5 µs: however many wait, looking is a twentieth of the time.
LOOK_EACH_NS: Final = 10_000


class Waiting:
    """Who waits: for the next turn of the loop, or for something that comes in its own time.

    **Cost**: O(those that wait), as often as that is cheap.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._soon: dict[Polling, None] = {}  # a set, in the order of their turns
        self._later: set[Polling] = set()
        self._look_ns = 0

    def __len__(self) -> int:
        return len(self._soon.keys() | self._later)

    def soon(self, polling: Polling) -> None:
        """Look at it after the next poll of the hub."""
        self._soon[polling] = None

    def later(self, polling: Polling) -> None:
        """Look at it in a while, again and again until it comes here no more."""
        self._later.add(polling)

    def look(self) -> bool:
        """Let those go on whose turn it is; who has to wait on comes here again.

        Returns:
            Whether the turn was over before all had theirs; those who had none are first in the next.
        """
        begin_ns = now_ns = self._clock_ns()
        if self._later and now_ns >= self._look_ns:
            self._look_ns = now_ns + max(LOOK_NS, LOOK_EACH_NS * len(self._later))
            self._soon.update(dict.fromkeys(self._later))
            self._later.clear()
        for polling in tuple(self._soon):
            if now_ns - begin_ns > TURN_NS:
                return True
            del self._soon[polling]
            polling.go_on(now_ns)
            now_ns = self._clock_ns()
        return False
