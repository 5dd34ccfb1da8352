"""The cache: what is kept, for how long, and what reads and writes that race leave behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim.errors import StoreError
from fastim.store.cache import MISSING, Cache, Key, SecondLevel

LIFE_NS = 1_000


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Source:
    """What the cache stands before; reads wait until they are let go."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.reads = 0
        self.gate = asyncio.Event()

    async def read(self) -> Any:
        self.reads += 1
        value = self.value
        await self.gate.wait()
        return value


def key(name: object) -> Key:
    return ("thing", name)


async def value(value: Any) -> Any:
    return value


async def read_value(cache: Cache, name: object, found: Any) -> Any:
    return await cache.get(key(name), lambda: value(found))


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(100, LIFE_NS, clock)


# -- against a model

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 7)),
        st.tuples(st.just("write"), st.integers(0, 7), st.one_of(st.none(), st.integers(0, 99))),
        st.tuples(st.just("wait"), st.integers(0, LIFE_NS)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, entries=st.sampled_from([0, 1, 3, 100]))
def test_get_when_things_are_written_then_it_is_what_a_dict_with_deadlines_says(
    steps: list[tuple[Any, ...]], entries: int
) -> None:
    """What is written is seen at once; between writes nothing is read twice within its life, room given."""

    async def run() -> None:
        clock = Clock()
        cache = Cache(entries, LIFE_NS, clock)
        stored: dict[int, Any] = {}
        kept: dict[int, int] = {}  # name → until when it must not be read again
        for step, *arguments in steps:
            if step == "wait":
                clock.ns += arguments[0]
            elif step == "write":
                stored[arguments[0]] = arguments[1]
                kept.pop(arguments[0], None)
                cache.invalidate(key(arguments[0]))
            else:
                name = arguments[0]
                source = Source(stored.get(name))
                source.gate.set()
                assert await cache.get(key(name), source.read) == stored.get(name)
                if entries == 100:
                    assert source.reads == (kept.get(name, 0) <= clock.ns)
                if source.reads:
                    kept[name] = clock.ns + LIFE_NS
            stats = cache.stats()
            assert stats["entries"] <= entries
            assert stats["negative_entries"] <= max(1, entries // 10) * bool(entries)

    asyncio.run(run())


# -- life and room


async def test_get_when_the_life_is_over_then_read_again(cache: Cache, clock: Clock) -> None:
    assert await read_value(cache, 1, "old") == "old"
    clock.ns = LIFE_NS - 1
    assert await read_value(cache, 1, "new") == "old"
    clock.ns = LIFE_NS
    assert await read_value(cache, 1, "new") == "new"
    assert cache.stats()["expired_total"] == 1


async def test_get_when_full_then_the_longest_unused_goes(clock: Clock) -> None:
    cache = Cache(2, LIFE_NS, clock)
    for name in ("a", "b"):
        await read_value(cache, name, name)
    await read_value(cache, "a", "?")
    await read_value(cache, "c", "c")
    assert [cache.peek(key(name)) for name in ("a", "b", "c")] == ["a", MISSING, "c"]
    assert cache.stats()["evicted_total"] == 1


async def test_get_when_off_then_each_reads(clock: Clock) -> None:
    cache = Cache(0, LIFE_NS, clock)
    assert [await read_value(cache, 1, number) for number in range(3)] == [0, 1, 2]
    cache.put(key(1), 9)
    assert (len(cache), cache.peek(key(1))) == (0, MISSING)


async def test_nothing_when_read_then_kept_apart_from_not_known(cache: Cache) -> None:
    """Misses stored as hits, elsewhere: nothing and not known are two answers here."""
    assert cache.peek(key("no")) is MISSING
    assert await read_value(cache, "no", None) is None
    assert cache.peek(key("no")) is None
    assert await read_value(cache, "no", "something") is None
    stats = cache.stats()
    assert (stats["misses_total"], stats["hits_total"], stats["negative_hits_total"]) == (1, 1, 1)
    assert (stats["entries"], stats["negative_entries"]) == (0, 1)


async def test_nothing_when_many_ask_for_what_is_not_there_then_what_is_there_stays(cache: Cache) -> None:
    await read_value(cache, "real", 1)
    for number in range(1_000):
        await read_value(cache, f"invented-{number}", None)
    assert cache.peek(key("real")) == 1
    assert cache.stats()["negative_entries"] == 10


async def test_nothing_when_it_comes_into_being_then_seen(cache: Cache) -> None:
    await read_value(cache, 1, None)
    cache.invalidate(key(1))
    assert await read_value(cache, 1, "now") == "now"
    cache.put(key(1), None)
    assert await read_value(cache, 1, "?") is None
    assert len(cache) == 1


# -- one flight a key


async def test_get_when_many_ask_at_once_then_one_reads(cache: Cache) -> None:
    source = Source("v")
    asking = [asyncio.create_task(cache.get(key(1), source.read)) for _ in range(50)]
    await settle()
    source.gate.set()
    assert await asyncio.gather(*asking) == ["v"] * 50
    assert source.reads == 1
    assert cache.stats()["joined_total"] == 49


async def test_get_when_the_read_fails_then_all_are_told_and_nothing_is_kept(cache: Cache) -> None:
    async def fail() -> Any:
        await asyncio.sleep(0)
        raise StoreError("away", temporary=True)

    asking = [asyncio.create_task(cache.get(key(1), fail)) for _ in range(3)]
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(result) for result in results] == [StoreError] * 3
    assert await read_value(cache, 1, "back") == "back"


async def test_get_when_the_one_who_reads_is_cancelled_then_another_reads(cache: Cache) -> None:
    source = Source("v")
    first = asyncio.create_task(cache.get(key(1), source.read))
    await settle()
    second = asyncio.create_task(cache.get(key(1), source.read))
    await settle()
    first.cancel()
    await settle()
    source.gate.set()
    assert await second == "v"
    assert source.reads == 2
    assert first.cancelled()


# -- races


async def test_write_when_a_read_is_under_way_then_the_old_value_is_not_put_back(cache: Cache) -> None:
    source = Source("old")
    asking = asyncio.create_task(cache.get(key(1), source.read))
    await settle()
    source.value = "new"
    cache.invalidate(key(1))
    late = asyncio.create_task(cache.get(key(1), source.read))  # asked after the write: not the old flight's
    await settle()
    source.gate.set()
    assert await asking == "old"
    assert await late == "new"
    assert await cache.get(key(1), source.read) == "new"
    assert source.reads == 2


async def test_put_when_a_read_is_under_way_then_what_was_put_stays(cache: Cache) -> None:
    source = Source("old")
    asking = asyncio.create_task(cache.get(key(1), source.read))
    await settle()
    cache.put(key(1), "new")
    source.gate.set()
    await asking
    assert cache.peek(key(1)) == "new"


# -- a second level


class Shared(SecondLevel):
    """A second level in a dict, which may be away, and whose answers may be held back."""

    def __init__(self) -> None:
        self.values: dict[Key, object] = {}
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.subscribers: list[Callable[[Key], None]] = []

    def subscribe(self, forget: Callable[[Key], None]) -> None:
        self.subscribers.append(forget)

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.away:
            raise StoreError("away", temporary=True)

    async def get(self, key: Key) -> object:
        await self._pass()
        return self.values.get(key, MISSING)

    async def set(self, key: Key, value: object, life_ns: int) -> None:
        await self._pass()
        self.values[key] = value

    async def invalidate(self, key: Key) -> None:
        await self._pass()
        self.values.pop(key, None)
        for forget in self.subscribers:
            forget(key)


def two_levels(clock: Clock, shared: Shared) -> Cache:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    return Cache(100, LIFE_NS, clock, shared, spawn)


async def test_second_level_when_one_process_has_read_then_the_other_reads_nothing(clock: Clock) -> None:
    shared = Shared()
    one, other = two_levels(clock, shared), two_levels(clock, shared)
    await read_value(one, 1, "v")
    await read_value(one, 2, None)
    assert await read_value(other, 1, "?") == "v"
    assert await read_value(other, 2, "?") is None
    assert other.stats()["second_hits_total"] == 2


async def test_second_level_when_invalidated_then_nobody_finds_the_old_value_there(clock: Clock) -> None:
    shared = Shared()
    one, other = two_levels(clock, shared), two_levels(clock, shared)
    await read_value(one, 1, "old")
    shared.gate.clear()
    one.invalidate(key(1))
    assert await read_value(one, 1, "new") == "new"  # the invalidation is still on its way: not asked
    shared.gate.set()
    await settle()
    assert await read_value(other, 1, "new") == "new"


async def test_second_level_when_one_process_writes_then_the_other_forgets_what_it_has_itself(
    clock: Clock,
) -> None:
    """A cache that invalidated only its own process, elsewhere."""
    shared = Shared()
    one, other = two_levels(clock, shared), two_levels(clock, shared)
    for cache in (one, other):
        await read_value(cache, 1, "old")
    one.invalidate(key(1))
    await settle()
    assert await read_value(other, 1, "new") == "new"


async def test_second_level_when_written_while_it_is_set_then_what_was_set_is_taken_back(
    clock: Clock,
) -> None:
    shared = Shared()
    cache = two_levels(clock, shared)
    source = Source("old")
    asking = asyncio.create_task(cache.get(key(1), source.read))
    await settle()
    shared.gate.clear()
    source.gate.set()
    await settle()  # the read is back and the second level is being set
    cache.invalidate(key(1))
    shared.gate.set()
    await asking
    await settle()
    assert shared.values == {}
    assert cache.peek(key(1)) is MISSING


async def test_second_level_when_away_then_read_and_counted(clock: Clock) -> None:
    shared = Shared()
    cache = two_levels(clock, shared)
    shared.away = True
    assert await read_value(cache, 1, "v") == "v"
    cache.invalidate(key(1))
    await settle()
    assert cache.stats()["second_errors_total"] == 3


def test_second_level_when_nothing_can_run_it_then_refused(clock: Clock) -> None:
    with pytest.raises(ValueError, match="spawn"):
        Cache(1, LIFE_NS, clock, Shared())
