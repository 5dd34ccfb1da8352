"""The timing wheel as one would write it in Python: a heap of deadlines, stale entries left in it."""

from heapq import heappop, heappush


class TimingWheel:
    """Keys with a deadline each; a deadline is rounded up to a whole tick and fires once that is over."""

    def __init__(self, tick_ns: int = 10_000_000) -> None:
        self.tick_ns = tick_ns
        self.now_ns = 0
        self.due_tick: dict[int, int] = {}
        self.late: dict[int, int] = {}
        self.heap: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.due_tick) + len(self.late)

    def schedule(self, key: int, at_ns: int) -> None:
        """Let `key` fire at `at_ns`; at the next advance where that has passed."""
        self.cancel(key)
        if at_ns <= self.now_ns:
            self.late[key] = 0
            return
        self.due_tick[key] = tick = -(-at_ns // self.tick_ns)
        heappush(self.heap, (tick, key))

    def cancel(self, key: int) -> bool:
        """Forget the deadline of `key`; its entry in the heap is skipped when it comes up."""
        return self.due_tick.pop(key, None) is not None or self.late.pop(key, None) is not None

    def advance(self, now_ns: int) -> list[int]:
        """Return the keys whose tick is over, in the order of their ticks."""
        self.move(now_ns)
        due: list[int] = []
        while (key := self.pop()) is not None:
            due.append(key)
        return due

    def move(self, now_ns: int) -> None:
        """Set the clock. What is scheduled into the past from here on waits for the next time."""
        self.now_ns = max(self.now_ns, now_ns)
        self.due_tick.update(self.late)
        for key in self.late:
            heappush(self.heap, (0, key))
        self.late.clear()

    def pop(self) -> int | None:
        """Return one key whose tick is over."""
        while self.heap and self.heap[0][0] <= self.now_ns // self.tick_ns:
            tick, key = heappop(self.heap)
            if self.due_tick.get(key) == tick:
                del self.due_tick[key]
                return key
        return None

    def next_due_ns(self) -> int:
        """Return when the first timer fires, 0 when there is none."""
        if self.late:
            return max(self.now_ns, 1)
        return max(min(self.due_tick.values()) * self.tick_ns, self.now_ns, 1) if self.due_tick else 0
