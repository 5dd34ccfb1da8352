"""The histogram as one would write it in Python."""

from bisect import bisect_left
from collections.abc import Iterable


class Histogram:
    """Counts values by bucket; a bucket's upper bound belongs to it."""

    def __init__(self, bounds: Iterable[int]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0

    def observe(self, value: int) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> tuple[list[int], int]:
        """Return the counts and the sum."""
        return list(self.counts), self.total
