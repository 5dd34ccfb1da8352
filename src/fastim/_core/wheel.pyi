"""A hierarchical timing wheel for timers that are known by a small integer."""

from typing import NoReturn, Self, final

@final
class TimingWheel:
    """One timer for each key, all on one wheel; keys are small integers such as connection slots.

    A timer never fires early, and late by less than a tick when the wheel is advanced in time. What was
    scheduled into the past fires first, the rest in the order of their ticks. Deadlines may lie as far ahead
    as 64 bits of nanoseconds reach.

    Source: G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7.

    **Thread**: not synchronized; belongs to whoever calls it.
    **Cost**: 24 bytes a key up to the largest key ever used, and an eighth to spare.
    """

    def __new__(cls, tick_ns: int = 10_000_000) -> Self:
        """Make an empty wheel; its clock stands at 0.

        Args:
            tick_ns: What deadlines are rounded up to, in nanoseconds; default 10 ms.

        Raises:
            ValueError: tick_ns is 0.
        """
    def __len__(self) -> int:
        """Return how many timers are scheduled and have not been given out."""
    def __sizeof__(self) -> int:
        """Return the bytes it holds, tables included."""
    def __reduce__(self) -> NoReturn: ...
    def schedule(self, key: int, at_ns: int) -> None:
        """Let `key` fire at `at_ns`, instead of when it was to fire before.

        A time that has passed fires at the next advance and not before, so that keys may be scheduled again
        while due ones are taken.

        **Cost**: O(1), amortized over the growth of the table.

        Raises:
            ValueError: key is 2**32 - 1.
            OverflowError: key or at_ns is negative or too large for 32 and 64 bits.
            MemoryError: The table cannot grow; the wheel is unchanged.
        """
    def cancel(self, key: int) -> bool:
        """Take the timer of `key` off and return whether there was one. **Cost**: O(1)."""
    def advance(self, now_ns: int) -> list[int]:
        """Move the clock to `now_ns` and give out the keys whose time has come.

        A time before the last one counts as the last one.

        **Cost**: O(keys due), whatever the time that has passed; a timer moves down at most 10 levels in its
        life, one that is 30 s ahead in ticks of 10 ms moves once.
        """
    def move(self, now_ns: int) -> None:
        """Move the clock to `now_ns` as `advance` does, and leave what is due to `pop`."""
    def pop(self) -> int | None:
        """Give out one due key, None when no more is due.

        Due keys that were not given out may still be cancelled or scheduled again. **Cost**: O(1).
        """
    def next_due_ns(self) -> int:
        """Return a time before which no timer fires, 0 when there is none.

        It is exact for what fires within 64 ticks and a lower bound for what lies further ahead.
        """
