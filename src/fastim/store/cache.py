"""A cache in the process, before what is read through: bounded, with a life, one read a key at a time.

Reads and writes race: a read that began before a write may return after it with the value from before. So a
write *invalidates* once it is reported, which also cuts off the reads that are under way: whoever asked for
them gets what they find, but it is not kept, and who asks from then on reads anew.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Final, TypeVar

from fastim.errors import StoreError

__all__ = ["MISSING", "Cache", "Key", "SecondLevel"]

T = TypeVar("T")
Key = tuple[Hashable, ...]
"""What a value is found by; the first item is its kind, for the statistics."""


class _Missing:
    """The one that is no value, not even None."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
NEGATIVE_SHARE: Final = 10  # one of so many entries may say "there is none"


class SecondLevel(ABC):
    """A cache that several processes share, behind the one in each process.

    **Failure**: a StoreError from ``get`` counts as a miss, from ``set`` and ``invalidate`` it is counted
    and left at that: the values' life bounds how long a process can be wrong.
    """

    @abstractmethod
    def subscribe(self, forget: Callable[[Key], None]) -> None:
        """Have ``forget`` called, on the loop's thread, with each key that another process invalidates."""

    @abstractmethod
    async def get(self, key: Key) -> object:
        """Return the value, None for what is known not to exist, or MISSING."""

    @abstractmethod
    async def set(self, key: Key, value: object, life_ns: int) -> None:
        """Keep a value."""

    @abstractmethod
    async def invalidate(self, key: Key) -> None:
        """Forget a value, here and in the other processes."""


class Cache:
    """Values by key, the longest unused forgotten first.

    None is a value: it says that there is nothing. Such negative entries have a room of their own, a tenth of
    the other's, so that asking for what does not exist pushes out nothing that does.

    **Thread**: the event loop's. **Cost**: O(1) an operation.

    Args:
        entries: At most so many; 0: nothing is kept, and each ``get`` reads.
        life_ns: How long a value counts.
        clock_ns: Monotonic time.
        second: A cache behind this one; None: there is none.
        spawn: Runs a coroutine in the background; needed with ``second`` alone.
    """

    __slots__ = (
        "_clock_ns",
        "_counts",
        "_flights",
        "_invalidating",
        "_kinds",
        "_life_ns",
        "_negative",
        "_positive",
        "_second",
        "_spawn",
        "entries",
    )

    def __init__(
        self,
        entries: int,
        life_ns: int,
        clock_ns: Callable[[], int],
        second: SecondLevel | None = None,
        spawn: Callable[[Coroutine[Any, Any, None]], object] | None = None,
    ) -> None:
        if second is not None and spawn is None:
            raise ValueError("a second level needs spawn")
        self.entries = entries
        self._life_ns = life_ns
        self._clock_ns = clock_ns
        self._second = second
        self._spawn = spawn
        if second is not None:
            second.subscribe(self._forget)
        self._positive: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        self._negative: OrderedDict[Key, tuple[None, int]] = OrderedDict()
        self._flights: dict[Key, asyncio.Future[Any]] = {}  # reads under way
        self._invalidating: dict[Key, int] = {}  # on its way to the second level
        self._counts = dict.fromkeys(
            ("evicted", "expired", "invalidated", "joined", "negative_hits", "second_errors", "second_hits"),
            0,
        )
        self._kinds: dict[str, list[int]] = {}  # kind → hits, misses

    def __len__(self) -> int:
        return len(self._positive) + len(self._negative)

    # -- reading

    def peek(self, key: Key) -> Any:
        """Return what is kept of a key, or MISSING; not counted."""
        for room in (self._positive, self._negative):
            entry = room.get(key)
            if entry is not None:
                if entry[1] > self._clock_ns():
                    room.move_to_end(key)
                    return entry[0]
                del room[key]
                self._counts["expired"] += 1
        return MISSING

    async def get(self, key: Key, read: Callable[[], Awaitable[T]]) -> T:
        """Return the value of a key: kept, or read by whoever asked first.

        Raises:
            Exception: What ``read`` raised, for all who waited for it; nothing is kept then.
        """
        if not self.entries:
            return await read()
        counts = self._kinds.setdefault(str(key[0]), [0, 0])
        while True:
            value = self.peek(key)
            if value is not MISSING:
                counts[0] += 1
                self._counts["negative_hits"] += value is None
                return value  # type: ignore[no-any-return]
            flight = self._flights.get(key)
            if flight is None:
                break
            self._counts["joined"] += 1
            found = await asyncio.shield(flight)
            if found is not MISSING:
                return found  # type: ignore[no-any-return]
            # Whoever read for us was cancelled.
        counts[1] += 1
        return await self._fly(key, read)

    async def _fly(self, key: Key, read: Callable[[], Awaitable[T]]) -> T:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            value = await self._read(key, read)
        except Exception as error:
            flight.set_exception(error)
            flight.exception()  # that nobody waits for it is no mistake
            raise
        except BaseException:
            flight.set_result(MISSING)
            raise
        else:
            flight.set_result(value)
            if self._flights.get(key) is flight:
                self._keep(key, value)
            return value
        finally:
            if self._flights.get(key) is flight:
                del self._flights[key]

    async def _read(self, key: Key, read: Callable[[], Awaitable[T]]) -> T:
        second = self._second
        if second is None:
            return await read()
        flight = self._flights[key]
        if key not in self._invalidating:
            try:
                found: Any = await second.get(key)
            except StoreError:
                self._counts["second_errors"] += 1
                found = MISSING
            if found is not MISSING and self._flights.get(key) is flight:
                self._counts["second_hits"] += 1
                return found  # type: ignore[no-any-return]
        value = await read()
        if self._flights.get(key) is flight and key not in self._invalidating:
            try:
                await second.set(key, value, self._life_ns)
            except StoreError:
                self._counts["second_errors"] += 1
            if self._flights.get(key) is not flight:
                self._invalidate_second(second, key)  # written meanwhile: take back what we have just set
        return value

    # -- writing

    def put(self, key: Key, value: object) -> None:
        """Keep the value that a write has made; reads under way are not kept."""
        self._flights.pop(key, None)
        if self.entries:
            self._keep(key, value)
            if self._second is not None:
                self._invalidate_second(self._second, key)

    def invalidate(self, key: Key) -> None:
        """Forget a key, whose value a write has changed; reads under way are not kept."""
        self._forget(key)
        if self._second is not None and self.entries:
            self._invalidate_second(self._second, key)

    def _forget(self, key: Key) -> None:
        self._flights.pop(key, None)
        if self._positive.pop(key, None) or self._negative.pop(key, None):
            self._counts["invalidated"] += 1

    def _invalidate_second(self, second: SecondLevel, key: Key) -> None:
        assert self._spawn is not None
        self._invalidating[key] = self._invalidating.get(key, 0) + 1
        self._spawn(self._tell_second(second, key))

    async def _tell_second(self, second: SecondLevel, key: Key) -> None:
        try:
            await second.invalidate(key)
        except StoreError:
            self._counts["second_errors"] += 1
        finally:
            left = self._invalidating[key] - 1
            if left:
                self._invalidating[key] = left
            else:
                del self._invalidating[key]

    def _keep(self, key: Key, value: object) -> None:
        deadline_ns = self._clock_ns() + self._life_ns
        if value is None:
            self._positive.pop(key, None)
            self._insert(self._negative, key, (None, deadline_ns), max(1, self.entries // NEGATIVE_SHARE))
        else:
            self._negative.pop(key, None)
            self._insert(self._positive, key, (value, deadline_ns), self.entries)

    def _insert(self, room: OrderedDict[Key, Any], key: Key, entry: tuple[Any, int], bound: int) -> None:
        room[key] = entry
        room.move_to_end(key)
        if len(room) > bound:
            room.popitem(last=False)
            self._counts["evicted"] += 1

    # -- figures

    def stats(self) -> dict[str, int]:
        """Counters and gauges for the metrics; hits and misses in all and by kind."""
        found = {
            "entries": len(self._positive),
            "negative_entries": len(self._negative),
            "reads_under_way": len(self._flights),
            "hits_total": sum(hits for hits, _ in self._kinds.values()),
            "misses_total": sum(misses for _, misses in self._kinds.values()),
            **{f"{name}_total": count for name, count in self._counts.items()},
        }
        for kind, (hits, misses) in self._kinds.items():
            found[f"{kind}_hits_total"] = hits
            found[f"{kind}_misses_total"] = misses
        return found
