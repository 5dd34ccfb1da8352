"""The cache: what a hit, a miss and an invalidation cost beside a plain dict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastim.store.cache import Cache, Key

ENTRIES = 10_000
KEYS: list[Key] = [("conversation", f"c{number}") for number in range(ENTRIES)]
ROUNDS = 1_000


async def found() -> str:
    return "value"


def make(count: int) -> Cache:
    cache = Cache(ENTRIES, 60_000_000_000, time.monotonic_ns)
    for key in KEYS[:count]:
        cache.put(key, "value")
    return cache


@pytest.fixture
def run() -> Any:
    with asyncio.Runner() as runner:
        yield runner.run


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_get_when_kept(benchmark: BenchmarkFixture, run: Run) -> None:
    """A thousand hits."""
    cache = make(ENTRIES)

    async def hits() -> None:
        for key in KEYS[:ROUNDS]:
            await cache.get(key, found)

    benchmark(lambda: run(hits()))


def test_get_when_not_kept(benchmark: BenchmarkFixture, run: Run) -> None:
    """A thousand misses in a full cache; the read costs nothing."""
    cache = make(ENTRIES)
    number = 0

    async def misses() -> None:
        nonlocal number
        for _ in range(ROUNDS):
            number += 1
            await cache.get(("conversation", number), found)

    benchmark(lambda: run(misses()))


def test_put_and_invalidate(benchmark: BenchmarkFixture) -> None:
    """A thousand writes."""
    cache = make(0)

    def writes() -> None:
        for key in KEYS[:ROUNDS]:
            cache.put(key, "value")
            cache.invalidate(key)

    benchmark(writes)


def test_dict(benchmark: BenchmarkFixture) -> None:
    """A thousand look-ups in a dict, for comparison."""
    plain = dict.fromkeys(KEYS, "value")

    def lookups() -> None:
        for key in KEYS[:ROUNDS]:
            plain.get(key)

    benchmark(lookups)
