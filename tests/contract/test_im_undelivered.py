"""Messages that are stored and do not arrive in time: who lacks what, told by the window."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.errors import StoreError
from fastim.im.undelivered import MAX_USERS
from fastim.store.sqlite import SQLiteStore
from tests.contract.im_world import World, close_world, open_world

Events = list[Mapping[str, Any]]


class Told:
    """What was told so far."""

    def __init__(self, world: World) -> None:
        self.events: Events = []
        world.messaging.tell_undelivered(self.events.append)

    def lacking(self) -> list[tuple[int, int, dict[str, int]]]:
        """First seq, last seq, and who has got how far, of each event."""
        return [
            (event["first_seq"], event["last_seq"], {user["user"]: user["have"] for user in event["users"]})
            for event in self.events
        ]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db", undelivered_after_ms=5_000)
    yield world
    await close_world(world)


async def test_undelivered_when_a_member_is_away_then_told_once_after_the_time(world: World) -> None:
    told = Told(world)
    ann, _ = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob", "away"])
    stored = await ann.say(room)
    await world.advance(4_000)
    assert told.events == []
    await world.advance(2_500)
    assert told.lacking() == [(1, 1, {"away": 0})]
    event = told.events[0]
    assert (event["event"], event["conversation"], event["stored"]) == ("undelivered", room, stored["time"])
    assert 5_000 <= event["time"] - event["stored"] <= 6_500
    await world.advance(20_000, step_ms=500)
    assert len(told.events) == 1
    assert world.messaging.stats()["undelivered_pending"] == 0


async def test_undelivered_when_a_device_does_not_acknowledge_then_told_from_where_it_stands(
    world: World,
) -> None:
    told = Told(world)
    ann = await world.connect("ann")
    bob, phone = [await world.connect("bob", device=name, acks=True) for name in ("desk", "phone")]
    room = await world.group(ann, ["bob"])
    for _ in range(4):
        await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    phone.send("ack", {"conversation": room, "seq": 3}, ask=False)
    await world.advance(6_500)
    assert told.lacking() == [(1, 4, {"bob": 3})]
    await ann.say(room)
    phone.send("ack", {"conversation": room, "seq": 5}, ask=False)
    await world.advance(6_500)
    await ann.say(room)
    await bob.ask("read_receipt", {"conversation": room, "seq": 6})
    await world.advance(6_500)
    assert len(told.events) == 1


async def test_undelivered_when_messages_come_in_a_second_then_one_event_and_one_read_for_all(
    world: World,
) -> None:
    told = Told(world)
    ann = await world.connect("ann")
    rooms = [await world.group(ann, ["away"]) for _ in range(3)]
    before = world.store.stats()["reads_members_total"]
    for _ in range(2):
        for room in rooms:
            for _ in range(10):
                await ann.say(room)
        await world.advance(1_200)
    await world.advance(8_000)
    assert sorted(told.lacking()) == [(1, 10, {"away": 0})] * 3 + [(11, 20, {"away": 0})] * 3
    assert world.store.stats()["reads_members_total"] - before == 6


async def test_undelivered_when_nobody_has_the_conversation_loaded_then_told_too(world: World) -> None:
    told = Told(world)
    await world.messaging.create_conversation("group", "", ["one", "two"], id="quiet")
    await world.messaging.post_message("quiet", b'"x"', Encoding.JSON, sender="one")
    await world.messaging.post_message("quiet", b'"x"', Encoding.JSON)
    await world.advance(6_500)
    assert told.lacking() == [(1, 2, {"one": 1, "two": 0})]


async def test_undelivered_when_very_many_lack_it_then_told_in_several_events(world: World) -> None:
    told = Told(world)
    ann = await world.connect("ann")
    users = [f"u{number:04}" for number in range(2 * MAX_USERS + 10)]
    room = await world.group(ann, users)
    await ann.say(room)
    await world.advance(6_500)
    assert [len(event["users"]) for event in told.events] == [MAX_USERS - 1, MAX_USERS, 11]
    assert sorted(user["user"] for event in told.events for user in event["users"]) == users


async def test_undelivered_when_a_reader_is_behind_then_what_waits_for_it_is_not_delivered(
    world: World,
) -> None:
    told = Told(world)
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    bob.reading = False
    await ann.say(room, "x" * 10_000)
    await world.advance(6_500)
    assert told.lacking() == [(1, 1, {"bob": 0})]


class BusyStore(SQLiteStore):
    """Lets something happen just before members that were read are looked at."""

    before: Callable[[], object] = staticmethod(lambda: None)

    async def member_records(self, key: int, limit: int, after: str = "") -> Any:
        records = await super().member_records(key, limit, after)
        self.before()
        return records


async def test_undelivered_when_newer_messages_wait_for_the_next_flush_then_what_was_taken_is_delivered(
    tmp_path: Path,
) -> None:
    store = BusyStore(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store, undelivered_after_ms=1_000)
    told = Told(world)
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    store.before = lambda: world.hub.send(bob.handle, b'["system",{}]')
    await ann.say(room)
    await world.advance(2_500)
    assert told.events == []
    assert bob.bodies("system") == [{}]
    await close_world(world)


async def test_undelivered_when_the_time_is_zero_or_nobody_listens_then_nothing_is_kept(
    tmp_path: Path,
) -> None:
    for after_ms, listens in ((0, True), (5_000, False)):
        world = await open_world(tmp_path / f"{after_ms}.db", undelivered_after_ms=after_ms)
        told = Told(world) if listens else None
        ann = await world.connect("ann")
        room = await world.group(ann, ["away"])
        await ann.say(room)
        assert world.messaging.stats()["undelivered_pending"] == 0
        await world.advance(7_000)
        assert told is None or told.events == []
        await close_world(world)


class SickStore(SQLiteStore):
    sick = False

    async def member_records(self, key: int, limit: int, after: str = "") -> Any:
        if self.sick:
            raise StoreError("away", temporary=True)
        return await super().member_records(key, limit, after)


async def test_undelivered_when_the_store_is_away_then_counted_and_the_next_is_told(tmp_path: Path) -> None:
    path = tmp_path / "im.db"
    store = SickStore(path, synchronous="normal")
    world = await open_world(path, store=store, undelivered_after_ms=1_000)
    told = Told(world)
    ann = await world.connect("ann")
    room = await world.group(ann, ["away"])
    store.sick = True
    await ann.say(room)
    await world.advance(2_500)
    store.sick = False
    await ann.say(room)
    await world.advance(2_500)
    assert told.lacking() == [(2, 2, {"away": 0})]
    assert world.messaging.stats()["undelivered_dropped_total"] == 1
    await close_world(world)
