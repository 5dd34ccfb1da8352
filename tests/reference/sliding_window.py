"""Sliding windows as one would write them in Python: the exact one, and the counters by key."""

from bisect import bisect_left
from collections import deque

SUB_WINDOWS = 16


class SlidingWindow:
    """The times of the attempts that count."""

    def __init__(self, limit: int, window_ns: int) -> None:
        self.limit = limit
        self.window_ns = window_ns
        self.now_ns = 0
        self.times: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.times)

    def take(self, now_ns: int) -> int:
        """Count an attempt and return 0, or the nanoseconds until one is granted."""
        if not self.limit:
            return 0
        self.now_ns = max(self.now_ns, now_ns)
        while self.times and self.now_ns - self.times[0] >= self.window_ns:
            self.times.popleft()
        if len(self.times) >= self.limit:
            return self.times[0] + self.window_ns - self.now_ns
        self.times.append(self.now_ns)
        return 0

    def refund(self, taken_ns: int) -> bool:
        """Give back an attempt of that time."""
        at = bisect_left(self.times, taken_ns)
        if at == len(self.times) or self.times[at] != taken_ns:
            return False
        del self.times[at]
        return True


class SlidingWindows:
    """For each key its attempts by sub-window; the sub-window that is leaving counts whole."""

    def __init__(self, limit: int, window_ns: int) -> None:
        self.limit = limit
        self.sub_ns = -(-window_ns // SUB_WINDOWS)
        self.now_ns = 0
        self.counts: dict[str, dict[int, int]] = {}

    def take(self, key: str, now_ns: int) -> int:
        """Count an attempt and return 0, or the nanoseconds until one is granted."""
        if not self.limit:
            return 0
        counts = self.current(key, now_ns)
        sub = self.now_ns // self.sub_ns
        if sum(counts.values()) < self.limit:
            counts[sub] = counts.get(sub, 0) + 1
            return 0
        oldest = min(number for number, count in counts.items() if count)
        return (oldest + SUB_WINDOWS + 1) * self.sub_ns - self.now_ns

    def count(self, key: str, now_ns: int) -> int:
        """Return how many attempts of the key count."""
        return sum(self.current(key, now_ns).values())

    def refund(self, key: str, taken_ns: int) -> bool:
        """Give back an attempt of that time's sub-window."""
        sub = taken_ns // self.sub_ns
        counts = self.counts.get(key, {})
        if not counts.get(sub):
            return False
        counts[sub] -= 1
        return True

    def current(self, key: str, now_ns: int) -> dict[int, int]:
        self.now_ns = max(self.now_ns, now_ns)
        oldest = self.now_ns // self.sub_ns - SUB_WINDOWS
        counts = {number: n for number, n in self.counts.get(key, {}).items() if number >= oldest}
        self.counts[key] = counts
        return counts
