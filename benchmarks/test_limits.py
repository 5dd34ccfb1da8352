"""Token buckets and sliding windows beside their twins.

Each round is a thousand attempts from Python, so a median in microseconds reads as nanoseconds an attempt,
the loop included. Keys come in random order and as fresh strings, as those of a packet or an accept do.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fastim._core.limits import SlidingWindow, SlidingWindows, TokenBucket, TokenBuckets
from tests.reference import sliding_window, token_bucket

HOUR_NS = 3_600_000_000_000
ATTEMPTS = 1_000
IMPLEMENTATIONS = ["compiled", "reference"]


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


def measure_keyed(benchmark: Any, take: Callable[[str, int], int], key_count: int) -> None:
    """Measure attempts over a warm table; the clock moves by a microsecond an attempt."""
    for number in range(key_count):
        take(address(number), HOUR_NS)
    now_ns = HOUR_NS
    chooser = random.Random(1)

    def setup() -> tuple[tuple[list[str]], dict[str, Any]]:
        return ([address(chooser.randrange(key_count)) for _ in range(ATTEMPTS)],), {}

    def attempt(chosen: list[str]) -> None:
        nonlocal now_ns
        at_ns = now_ns
        for key in chosen:
            at_ns += 1_000
            take(key, at_ns)
        now_ns = at_ns

    benchmark.pedantic(attempt, setup=setup, rounds=300, warmup_rounds=20)


@pytest.mark.parametrize("key_count", [1_000, 1_000_000])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sliding_windows_by_key(benchmark: Any, implementation: str, key_count: int) -> None:
    table = SlidingWindows if implementation == "compiled" else sliding_window.SlidingWindows
    windows = table(300, 2 * HOUR_NS)
    measure_keyed(benchmark, windows.take, key_count)
    if isinstance(windows, SlidingWindows):
        benchmark.extra_info["bytes_per_key"] = round(sys.getsizeof(windows) / key_count, 1)
        assert sys.getsizeof(windows) <= 64 * key_count + 8_192


@pytest.mark.parametrize("key_count", [1_000, 1_000_000])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_token_buckets_by_key(benchmark: Any, implementation: str, key_count: int) -> None:
    table = TokenBuckets if implementation == "compiled" else token_bucket.TokenBuckets
    buckets = table(300, 3_000, 2 * HOUR_NS // 1_000)
    take = buckets.take
    measure_keyed(benchmark, lambda key, now_ns: take(key, 1, now_ns), key_count)
    if isinstance(buckets, TokenBuckets):
        benchmark.extra_info["bytes_per_key"] = round(sys.getsizeof(buckets) / key_count, 1)
        assert sys.getsizeof(buckets) <= 64 * key_count + 8_192


@pytest.mark.parametrize("step_ns", [0, 1_000], ids=["one_moment", "distinct_times"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_sliding_window_of_the_server(benchmark: Any, implementation: str, step_ns: int) -> None:
    window = (SlidingWindow if implementation == "compiled" else sliding_window.SlidingWindow)(
        60_000, HOUR_NS
    )
    now_ns = HOUR_NS

    def attempt() -> None:
        nonlocal now_ns
        take = window.take
        at_ns = now_ns
        for _ in range(ATTEMPTS):
            at_ns += step_ns
            take(at_ns)
        now_ns = at_ns

    benchmark(attempt)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_token_bucket_of_the_server(benchmark: Any, implementation: str) -> None:
    bucket = (TokenBucket if implementation == "compiled" else token_bucket.TokenBucket)(10_000, 500)
    now_ns = HOUR_NS

    def attempt() -> None:
        nonlocal now_ns
        take = bucket.take
        at_ns = now_ns
        for _ in range(ATTEMPTS):
            at_ns += 50_000
            take(1, at_ns)
        now_ns = at_ns

    benchmark(attempt)
