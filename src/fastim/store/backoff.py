"""When a store that does not work is tried again."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """Delays that double from the first to a bound, each at random from its upper half.

    Without the random part, servers that share a disk, or a lock that comes and goes, would meet it in step.

    Args:
        first_s: The first delay, seconds.
        most_s: The longest one.
        chance: Returns numbers from 0 to below 1.

    Attributes:
        due_s: When the next attempt may be made, of the clock that ``failed`` was given.
        failures: Attempts that failed in a row.
    """

    __slots__ = ("_chance", "_first_s", "_most_s", "due_s", "failures")

    def __init__(self, first_s: float, most_s: float, chance: Callable[[], float] = random.random) -> None:
        if not 0 < first_s <= most_s:
            raise ValueError("the first delay is above 0 and not above the longest")
        self._first_s = first_s
        self._most_s = most_s
        self._chance = chance
        self.due_s = 0.0
        self.failures = 0

    def failed(self, now_s: float) -> None:
        """An attempt failed."""
        # Past 2**32 nothing is longer than the bound.
        delay_s = min(self._most_s, self._first_s * 2.0 ** min(self.failures, 32))
        self.failures += 1
        self.due_s = now_s + delay_s * (0.5 + 0.5 * self._chance())

    def worked(self) -> None:
        """An attempt worked: the next failure begins anew."""
        self.failures = 0
        self.due_s = 0.0
