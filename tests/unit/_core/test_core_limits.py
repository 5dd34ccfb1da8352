"""Edges of the token buckets and sliding windows."""

import copy
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastim._core.limits import SlidingWindow, SlidingWindows, TokenBucket, TokenBuckets

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


def test_bucket_after_its_burst_grants_at_the_rate() -> None:
    bucket = TokenBucket(10, 3)
    now_ns = 7 * SECOND_NS
    assert [bucket.take(1, now_ns) for _ in range(4)] == [0, 0, 0, 100_000_000]
    assert bucket.take(1, now_ns + 99_999_999) == 1
    assert bucket.take(1, now_ns + 100_000_000) == 0
    assert bucket.take(3, now_ns + 100_000_000) == 300_000_000


def test_bucket_polled_every_nanosecond_does_not_drift() -> None:
    bucket = TokenBucket(7, 2, 100)  # a token every 14.28… ns
    granted = sum(bucket.take(1, now_ns) == 0 for now_ns in range(10_001))
    assert granted == 2 + 700


def test_bucket_when_the_clock_goes_back_neither_gains_nor_loses() -> None:
    bucket = TokenBucket(1, 2)
    assert bucket.take(2, 10 * SECOND_NS) == 0
    assert bucket.take(1, 3 * SECOND_NS) == SECOND_NS
    assert bucket.take(1, 11 * SECOND_NS) == 0


def test_bucket_after_a_huge_jump_is_full_and_no_more() -> None:
    bucket = TokenBucket(2**40, 5)
    assert bucket.take(5, 1) == 0
    assert bucket.available(2**64 - 1) == 5


def test_limit_zero_is_no_limit_and_keeps_nothing() -> None:
    bucket, buckets = TokenBucket(0, 0), TokenBuckets(0, 0)
    window, windows = SlidingWindow(0, 1), SlidingWindows(0, MINUTE_NS)
    for _ in range(1_000):
        assert bucket.take(10**9, 5) == buckets.take("a", 10**9, 5) == 0
        assert window.take(5) == windows.take("a", 5) == 0
    assert len(buckets) == len(window) == len(windows) == 0
    assert bucket.available(5) == buckets.available("a", 5) == 2**64 - 1


def test_buckets_of_different_keys_do_not_touch_each_other() -> None:
    buckets = TokenBuckets(1, 2)
    assert [buckets.take("attacker", 1, 0) for _ in range(1_000)].count(0) == 2
    assert buckets.take("neighbour", 2, 0) == 0
    assert buckets.take(b"attacker", 1, 0) > 0


@pytest.mark.parametrize("table", [TokenBuckets, SlidingWindows])
def test_table_of_many_keys_grows_stays_small_and_gives_memory_back(table: Any) -> None:
    limits = table(2, 2 if table is TokenBuckets else MINUTE_NS)
    take = limits.take if table is SlidingWindows else lambda key, now_ns: limits.take(key, 1, now_ns)
    keys = [f"10.0.{number >> 8}.{number & 255}" for number in range(20_000)]
    for key in keys:
        assert take(key, SECOND_NS) == 0
    assert len(limits) == 20_000
    assert sys.getsizeof(limits) <= 64 * 20_000
    for key in keys:  # growth has lost nobody
        assert take(key, SECOND_NS) == 0
        assert take(key, SECOND_NS) > 0
    for key in keys[::2]:
        assert limits.forget(key)
        assert not limits.forget(key)
    for number, key in enumerate(keys):  # and neither have deletions
        assert (take(key, SECOND_NS) == 0) == (number % 2 == 0)
    assert limits.sweep(SECOND_NS, 100_000) == 0
    assert limits.sweep(10 * MINUTE_NS, 100_000) == 20_000
    assert len(limits) == 0
    assert sys.getsizeof(limits) < 40_000


@pytest.mark.parametrize(("table", "count"), [(TokenBuckets, 100_000), (SlidingWindows, 440_000)])
def test_table_of_very_many_keys_lies_in_huge_pages_stays_small_and_gives_them_back(
    table: Any, count: int
) -> None:
    limits = table(2, 2 if table is TokenBuckets else MINUTE_NS)
    take = limits.take if table is SlidingWindows else lambda key, now_ns: limits.take(key, 1, now_ns)
    before = 0
    for number in range(count):
        assert take(str(number), SECOND_NS) == 0
        if number % 1_000 == 999:
            size = sys.getsizeof(limits)
            assert size <= 64 * number + 8_192
            if size - before >= 2 << 20:
                break
            before = size
    else:
        raise AssertionError("no huge page was taken")
    for other in range(0, number, 97):
        assert take(str(other), SECOND_NS) == 0
    assert limits.sweep(10 * MINUTE_NS, 2 * count) == number + 1
    assert sys.getsizeof(limits) < 1 << 17


def test_table_under_changing_keys_forgets_the_idle_ones_by_itself() -> None:
    windows = SlidingWindows(5, MINUTE_NS)
    for number in range(100_000):  # 1,000 a window
        windows.take(str(number), number * MINUTE_NS // 1_000)
    assert len(windows) <= 2_500
    assert windows.forgotten_early == 0


def test_table_when_full_forgets_the_idlest_it_sees_and_says_so() -> None:
    windows = SlidingWindows(1, MINUTE_NS, max_keys=8)
    for number in range(8):
        windows.take(str(number), number * SECOND_NS * 4)
    assert windows.take("new", 29 * SECOND_NS) == 0
    assert len(windows) == 8
    assert windows.forgotten_early == 1
    assert windows.count("0", 29 * SECOND_NS) == 0
    assert windows.count("7", 29 * SECOND_NS) == 1
    for number in range(1_000):
        windows.take(f"flood {number}", 30 * SECOND_NS)
    assert len(windows) == 8


def test_table_cleared_begins_anew() -> None:
    buckets = TokenBuckets(1, 1)
    assert buckets.take("a", 1, 0) == 0
    buckets.clear()
    assert len(buckets) == 0
    assert buckets.take("a", 1, 0) == 0


def test_window_grants_again_when_an_attempt_has_left() -> None:
    window = SlidingWindow(2, 100)
    assert [window.take(now_ns) for now_ns in (10, 50, 60, 109)] == [0, 0, 50, 1]
    assert window.take(110) == 0
    assert window.take(5) == 40  # the clock went back: it is still 110


def test_window_full_of_one_moment_is_one_entry() -> None:
    window = SlidingWindow(60_000, MINUTE_NS)
    assert all(window.take(5) == 0 for _ in range(60_000))
    assert window.take(5) == MINUTE_NS
    assert sys.getsizeof(window) < 600


def test_window_refund_gives_the_slot_back_once() -> None:
    window = SlidingWindow(2, 100)
    assert [window.take(now_ns) for now_ns in (10, 20)] == [0, 0]
    assert window.refund(10)
    assert not window.refund(10)
    assert not window.refund(15)
    assert window.take(30) == 0
    assert window.take(30) == 90
    assert not window.refund(25)


def test_windows_refund_gives_the_slot_back_while_it_counts() -> None:
    windows = SlidingWindows(1, MINUTE_NS)
    assert windows.take("office", SECOND_NS) == 0
    assert not windows.refund("nobody", SECOND_NS)
    assert windows.refund("office", SECOND_NS)
    assert not windows.refund("office", SECOND_NS)
    assert windows.take("office", SECOND_NS) == 0
    assert windows.count("office", 2 * MINUTE_NS) == 0
    assert not windows.refund("office", SECOND_NS)
    assert not windows.refund("office", 3 * MINUTE_NS)


def test_windows_wait_names_when_the_oldest_has_left() -> None:
    windows = SlidingWindows(1, 16 * SECOND_NS)
    assert windows.take("a", 10 * SECOND_NS + 5) == 0
    wait_ns = windows.take("a", 11 * SECOND_NS)
    assert wait_ns == 16 * SECOND_NS  # the sub-window from 10 s to 11 s counts until 27 s
    assert windows.take("a", 11 * SECOND_NS + wait_ns - 1) == 1
    assert windows.take("a", 11 * SECOND_NS + wait_ns) == 0


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: TokenBucket(1, 0), "burst"),
        (lambda: TokenBucket(1, 1, 0), "period_ns"),
        (lambda: TokenBucket(1, 2**62), "too large"),
        (lambda: TokenBucket(1, 5).take(6, 0), "burst"),
        (lambda: TokenBuckets(1, 5).take("a", 6, 0), "burst"),
        (lambda: TokenBuckets(1, 5, max_keys=0), "max_keys"),
        (lambda: TokenBuckets(1, 5, hash_key=b"short"), "hash_key"),
        (lambda: SlidingWindow(1, 0), "window_ns"),
        (lambda: SlidingWindow(2**60, 1), "limit"),
        (lambda: SlidingWindows(65_536, MINUTE_NS), "65,535"),
        (lambda: SlidingWindows(1, 1_000), "window_ns"),
    ],
)
def test_misuse_raises_value_error(make: Callable[[], object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("key", [None, 5, bytearray(b"a"), ("a",)])
def test_key_of_another_type_raises(key: Any) -> None:
    with pytest.raises(TypeError, match="key"):
        SlidingWindows(1, MINUTE_NS).take(key, 0)


def test_rate_as_float_raises() -> None:
    rate: Any = 12.5
    with pytest.raises(TypeError):
        TokenBucket(rate, 1)


def test_key_with_a_lone_surrogate_raises_and_changes_nothing() -> None:
    windows = SlidingWindows(1, MINUTE_NS)
    with pytest.raises(UnicodeEncodeError):
        windows.take("\ud800", 0)
    assert len(windows) == 0


@pytest.mark.parametrize(
    "limit", [TokenBucket(1, 1), TokenBuckets(1, 1), SlidingWindow(1, 1), SlidingWindows(1, MINUTE_NS)]
)
def test_copy_raises(limit: object) -> None:
    with pytest.raises(TypeError, match="copied"):
        copy.copy(limit)
