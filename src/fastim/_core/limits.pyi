"""Token buckets and sliding windows, one for all or one for each key.

Time comes in as ``now_ns``; one that is earlier than the last counts as the last. Attempts answer 0 when they
are granted, and otherwise the nanoseconds after which one would be; those that are refused do not count. A
limit of 0 is no limit. **Thread**: not synchronized; each belongs to whoever calls it.
"""

from typing import NoReturn, Self, final

from typing_extensions import disjoint_base

from fastim._core.keytable import KeyTable

@final
class TokenBucket:
    """A bucket that is full at first and refilled steadily: a rate in the long run, a burst at once.

    In integers and exact: nothing drifts, whatever the rate. **Cost**: O(1), no allocation.
    """

    def __new__(cls, rate: int, burst: int, period_ns: int = 1_000_000_000) -> Self:
        """Make a full bucket.

        Args:
            rate: Tokens that come in every `period_ns`; 0: no limit.
            burst: Tokens it holds.
            period_ns: What the rate refers to, in nanoseconds; default 1 s.

        Raises:
            ValueError: burst or period_ns is 0, or burst * period_ns is 2**63 or more.
            TypeError: One of them is a float: give 12.5/s as 25 in 2 s.
        """
    def __reduce__(self) -> NoReturn: ...
    def take(self, count: int, now_ns: int) -> int:
        """Take `count` tokens and return 0, or take none and return the nanoseconds to wait for them.

        Raises:
            ValueError: count is larger than the burst.
        """
    def refund(self, count: int, now_ns: int) -> None:
        """Put back `count` tokens that were taken for nothing; the bucket never holds more than its burst.

        Raises:
            ValueError: count is larger than the burst.
        """
    def available(self, now_ns: int) -> int:
        """Return how many whole tokens are in it, 2**64 - 1 where there is no limit."""

@disjoint_base
class LimitTable(KeyTable):
    """The common part of the limits by key.

    A key is a str (its UTF-8) or bytes, known by its SipHash under a random key. Each attempt looks at two
    more rows and forgets them if they are idle, that is as good as new. A full table forgets the idlest of a
    few rows before its time: `forgotten_early` counts those, and as long as it is 0 every limit was kept.
    """

    def forget(self, key: str | bytes) -> bool:
        """Forget a key, so that it begins anew, and return whether it was known."""
    def sweep(self, now_ns: int, look_at: int) -> int:
        """Look at that many more rows, forget the idle ones and return how many. **Cost**: O(look_at)."""
    def clear(self) -> None:
        """Forget all keys."""
    @property
    def forgotten_early(self) -> int:
        """How many keys were forgotten for lack of room while they still counted."""

@final
class TokenBuckets(LimitTable):
    """A token bucket for each key. **Cost**: O(1); 24 bytes a key and at most 11 of index."""

    def __new__(
        cls,
        rate: int,
        burst: int,
        period_ns: int = 1_000_000_000,
        *,
        max_keys: int = 1_048_576,
        hash_key: bytes | None = None,
    ) -> Self:
        """Make an empty table.

        Args:
            rate: Tokens that come in every `period_ns`; 0: no limit.
            burst: Tokens a bucket holds.
            period_ns: What the rate refers to, in nanoseconds; default 1 s.
            max_keys: Keys it knows at a time; at most 16,777,215.
            hash_key: 16 bytes that key the digests; None: random ones.

        Raises:
            ValueError: As for TokenBucket, or max_keys or hash_key is out of range.
        """
    def take(self, key: str | bytes, count: int, now_ns: int) -> int:
        """Take `count` tokens and return 0, or take none and return the nanoseconds to wait for them.

        Raises:
            ValueError: count is larger than the burst.
            MemoryError: There is none for a new key.
        """
    def refund(self, key: str | bytes, count: int, now_ns: int) -> None:
        """Put back `count` tokens that were taken for nothing; the bucket never holds more than its burst.

        Raises:
            ValueError: count is larger than the burst.
        """
    def available(self, key: str | bytes, now_ns: int) -> int:
        """Return how many whole tokens the key has, 2**64 - 1 where there is no limit."""

@final
class SlidingWindow:
    """At most `limit` attempts in any interval of `window_ns`, exactly.

    An attempt leaves the window `window_ns` after it was granted.

    **Cost**: O(1) an attempt; 16 bytes for each distinct time in the window, at most 64 times the limit.
    """

    def __new__(cls, limit: int, window_ns: int) -> Self:
        """Make an empty window.

        Args:
            limit: Attempts granted in a window; 0: no limit.
            window_ns: The window's length in nanoseconds.

        Raises:
            ValueError: window_ns is 0 or limit is 2**56 or more.
        """
    def __len__(self) -> int:
        """Return how many attempts counted at the last one."""
    def __sizeof__(self) -> int:
        """Return the bytes it holds."""
    def __reduce__(self) -> NoReturn: ...
    def take(self, now_ns: int) -> int:
        """Count an attempt and return 0, or count nothing and return the nanoseconds until one is granted.

        Raises:
            MemoryError: There is none for the attempt; it was not counted.
        """
    def refund(self, taken_ns: int) -> bool:
        """Give back an attempt granted at `taken_ns`; False if none of that time counts.

        **Cost**: O(log n) in the distinct times.
        """

@final
class SlidingWindows(LimitTable):
    """At most `limit` attempts of each key in any interval of `window_ns`, never more, now and then less.

    A window is 16 sub-windows with a counter each and one more for the one that is leaving, which is counted
    whole: an attempt counts for the window at least, and at most 1/16 longer.

    **Cost**: O(1) an attempt; 48 bytes a key and at most 11 of index.
    """

    def __new__(
        cls, limit: int, window_ns: int, *, max_keys: int = 1_048_576, hash_key: bytes | None = None
    ) -> Self:
        """Make an empty table.

        Args:
            limit: Attempts granted to a key in a window, at most 65,535; 0: no limit.
            window_ns: The window's length in nanoseconds, at least 16 ms.
            max_keys: Keys it knows at a time; at most 16,777,215.
            hash_key: 16 bytes that key the digests; None: random ones.

        Raises:
            ValueError: One of them is out of range.
        """
    def take(self, key: str | bytes, now_ns: int) -> int:
        """Count an attempt and return 0, or count nothing and return the nanoseconds until one is granted.

        Raises:
            MemoryError: There is none for a new key.
        """
    def count(self, key: str | bytes, now_ns: int) -> int:
        """Return how many attempts of the key count."""
    def refund(self, key: str | bytes, taken_ns: int) -> bool:
        """Give back an attempt granted at `taken_ns`; False if none of that time counts."""
