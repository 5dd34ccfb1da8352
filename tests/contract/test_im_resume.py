"""Sessions that come back: nothing lost, nothing doubled, nothing out of order, and never closed for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.store.sqlite import SQLiteStore
from tests.contract.im_world import Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


async def pair(world: World, **fields: Any) -> tuple[Client, Client, str]:
    ann, bob = await world.connect("ann"), await world.connect("bob", device="d1", **fields)
    return ann, bob, await world.group(ann, ["bob"])


async def say_many(client: Client, room: str, count: int, content: str = "x") -> None:
    for _ in range(count):
        client.send("message", {"conversation": room, "content": content})
    await client.world.settle()


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.MSGPACK])
async def test_resume_when_known_then_same_session_and_missed_messages_before_live_ones(
    world: World, encoding: int
) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    await bob.event("new_message")
    await bob.leave()
    await say_many(ann, room, 50)
    back = await world.connect(
        "bob", encoding, device="d1", resume={"session": bob.hello["session"], "seen": {room: 1}}
    )
    await say_many(ann, room, 3)
    assert back.hello["resumed"] is True
    assert back.hello["session"] == bob.hello["session"]
    assert back.seqs(room) == list(range(2, 55))
    assert back.bodies("gap") == []


async def test_resume_when_other_user_or_device_then_fresh_and_seen_counts(world: World) -> None:
    ann, bob, room = await pair(world)
    await say_many(ann, room, 3)
    for user, device in (("ann", "d1"), ("bob", "d2")):
        other = await world.connect(
            user, device=device, resume={"session": bob.hello["session"], "seen": {room: 1}}
        )
        assert other.hello["resumed"] is False
        assert other.hello["session"] != bob.hello["session"]
        assert other.seqs(room) == [2, 3]
    assert bob.close_code is None


@pytest.mark.parametrize("session", ["", "nonsense", "f" * 16, "é" * 16, "0" * 16])
async def test_resume_when_session_is_unknown_then_fresh_and_seen_counts(world: World, session: str) -> None:
    ann, _, room = await pair(world)
    await say_many(ann, room, 3)
    late = await world.connect("bob", device="d9", resume={"session": session, "seen": {room: 2, "other": 5}})
    assert late.hello["resumed"] is False
    assert late.seqs(room) == [3]


async def test_resume_when_nothing_was_sent_before_then_works(world: World) -> None:
    _, bob, room = await pair(world)
    await bob.leave()
    back = await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    assert back.hello["resumed"] is True
    assert back.seqs(room) == []


async def test_resume_when_connection_still_lives_then_replaced_silently(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await bob.ask("presence", {"status": "busy", "metadata": {"in": "talk"}})
    await ann.event("state_batch")
    ann.clear()
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0}}
    )
    assert back.hello["resumed"] is True
    await ann.say(room)
    await world.advance(300)
    assert bob.close_code == 4004
    assert bob.bodies("forced_disconnect") == []
    assert bob.seqs(room) == []
    assert back.seqs(room) == [1]
    assert ann.bodies("state_batch") == []  # still busy, still in a talk
    await world.advance(11_000)
    assert ann.bodies("state_batch") == []


async def test_resume_when_life_is_over_then_fresh(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", session_life_s=60)
    _, bob, _ = await pair(world)
    await bob.leave()
    await world.advance(61_000, step_ms=1000)
    back = await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    assert back.hello["resumed"] is False
    await close_world(world)


async def test_resume_when_not_in_seen_then_starts_at_the_devices_last_ack(world: World) -> None:
    ann, bob, room = await pair(world)
    await say_many(ann, room, 5)
    bob.send("ack", {"conversation": room, "seq": 3}, ask=False)
    await world.advance(300)
    await bob.leave()
    await world.advance(11_000)
    same = await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    await world.settle()
    assert same.seqs(room) == [4, 5]
    other = await world.connect("bob", device="d7", resume={})
    assert other.seqs(room) == []
    new = await world.connect("bob", device="d7", resume={"session": "x"})
    await world.settle()
    assert new.seqs(room) == [1, 2, 3, 4, 5]  # this device never got anything


async def test_hello_when_without_resume_then_live_messages_only(world: World) -> None:
    ann, _, room = await pair(world)
    await say_many(ann, room, 5)
    late = await world.connect("bob", device="d2")
    await ann.say(room)
    await world.settle()
    assert late.seqs(room) == [6]
    assert late.bodies("gap") == []


@pytest.mark.parametrize("ring_bytes", [0, 262_144])
async def test_resume_when_more_than_the_limit_was_missed_then_gap_then_live(
    tmp_path: Path, ring_bytes: int
) -> None:
    world = await open_world(tmp_path / "im.db", ring_bytes=ring_bytes)
    ann, bob, room = await pair(world)
    await bob.leave()
    await say_many(ann, room, 620)
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 10}}
    )
    await world.settle()
    await ann.say(room)
    await world.settle()
    assert back.seqs(room) == [*range(11, 511), 621]
    assert back.bodies("gap") == [{"conversation": room, "have": 510, "last": 620}]
    names = [packet[0] for packet in back.packets if packet[0] in ("gap", "new_message")]
    assert names.index("gap") == 500
    page = await back.ask("history", {"conversation": room, "after": 510, "limit": 500})
    assert [m["seq"] for m in page["messages"]] == list(range(511, 622))
    await close_world(world)


async def test_resume_when_seen_is_past_the_last_seq_then_nothing_and_live(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 99}}
    )
    await ann.say(room)
    await world.settle()
    assert back.seqs(room) == [2]


async def test_resume_when_outbox_is_small_then_metered_and_never_closed(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", replay_chunk_bytes=8192, hub={"outbox_bytes": 65_536})
    ann, bob, room = await pair(world)
    await bob.leave()
    for _ in range(100):
        await say_many(ann, room, 3, "y" * 3000)
    back = world.open()
    back.reading = False
    await world.hello(back, "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0}})
    for _ in range(20):
        await world.advance(20)
        assert world.hub.queued_bytes(back.handle) <= 8192 + 4096
    back.reading = True
    await world.until(lambda: len(back.seqs(room)) >= 300)
    await ann.say(room)
    await world.settle()
    assert back.seqs(room) == list(range(1, 302))
    assert back.close_code is None
    await close_world(world)


async def test_resume_when_live_messages_of_others_never_end_then_goes_on_beside_them(tmp_path: Path) -> None:
    """A reader that is always behind: its outbox is never empty, and the replay still has its turns."""
    world = await open_world(
        tmp_path / "im.db",
        replay_chunk_bytes=8192,
        outbox_bytes={"standard": 400_000},
        hub={"outbox_bytes": 400_000},
    )
    ann, bob, room = await pair(world)
    other = await world.group(ann, ["bob"])
    await bob.leave()
    await say_many(ann, room, 40, "y" * 1000)
    back = world.open()
    back.reading = False
    seen = {room: 0, other: 0}
    await world.hello(back, "bob", device="d1", resume={"session": bob.hello["session"], "seen": seen})
    for _ in range(8):  # more than the replay may queue ahead
        await ann.say(other, "z" * 3000)
    await world.advance(20)
    for _ in range(80):
        await ann.say(other, "z" * 3000)
        back.take_some(5_000)
        await world.advance(20)
        assert world.hub.queued_bytes(back.handle) > 8192
        if len(back.seqs(room)) == 40:
            break
    assert back.seqs(room) == list(range(1, 41))
    back.reading = True
    await world.settle()
    assert back.seqs(other) == list(range(1, back.seqs(other)[-1] + 1))
    assert back.close_code is None
    await close_world(world)


async def test_resume_when_a_message_is_as_large_as_the_outbox_then_never_closed(tmp_path: Path) -> None:
    world = await open_world(
        tmp_path / "im.db", outbox_bytes={"standard": 102_400}, hub={"outbox_bytes": 102_400}
    )
    ann, bob, room = await pair(world)
    other = await world.group(ann, ["bob"])
    await bob.leave()
    for _ in range(12):
        await say_many(ann, room, 1, "y" * 98_000)
    seen = {room: 0, other: 0}
    back = await world.connect("bob", device="d1", resume={"session": bob.hello["session"], "seen": seen})
    live = 0
    while len(back.seqs(room)) < 12:
        back.reading = False
        for _ in range(5):
            await ann.say(other, "live")
            live += 1
            await world.advance(20)
        back.reading = True
        await world.advance(20)
    await world.settle()
    assert back.seqs(room) == list(range(1, 13))
    assert back.seqs(other) == list(range(1, live + 1))
    assert back.close_code is None
    await close_world(world)


async def test_acks_when_more_is_missing_than_the_outbox_holds_then_sent_again_in_parts(
    tmp_path: Path,
) -> None:
    world = await open_world(
        tmp_path / "im.db", outbox_bytes={"standard": 102_400}, hub={"outbox_bytes": 102_400}
    )
    ann, bob, room = await pair(world, acks=True)
    for _ in range(6):
        await say_many(ann, room, 1, "y" * 20_000)
    await world.advance(2_500)
    await world.settle()
    assert bob.seqs(room) == [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert bob.close_code is None
    bob.send("ack", {"conversation": room, "seq": 3}, ask=False)
    await world.advance(2_500)
    await world.settle()
    assert bob.seqs(room)[9:] == [4, 5, 6]
    assert bob.close_code is None
    await close_world(world)


async def test_resume_when_messages_arrive_during_a_slow_replay_then_in_order_once(
    tmp_path: Path,
) -> None:
    world = await open_world(tmp_path / "im.db", replay_chunk_bytes=4096)
    ann, bob, room = await pair(world)
    await bob.leave()
    await say_many(ann, room, 60, "z" * 500)
    back = world.open()
    back.reading = False
    await world.hello(back, "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0}})
    await say_many(ann, room, 30, "z" * 500)
    # One's own message in the middle of it: its ok takes its place in the order.
    own = back.send("message", {"conversation": room, "content": "mine"})
    await world.settle()
    await say_many(ann, room, 30, "z" * 500)
    back.reading = True
    await world.until(lambda: len(back.seqs(room)) >= 121)
    assert back.seqs(room) == list(range(1, 122))
    assert (await back.answer(own))[1]["seq"] == 91
    assert [b["seq"] for b in back.bodies("new_message")] == [*range(1, 91), *range(92, 122)]
    await close_world(world)


async def test_resume_when_many_come_in_a_tick_then_no_query_per_client(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store, ring_bytes=0)
    ann = await world.connect("ann")
    users = [f"u{i}" for i in range(60)]
    rooms = [await world.group(ann, users[i : i + 6]) for i in range(0, 60, 6)]
    for room in rooms:
        await say_many(ann, room, 20)
    store.loads = store.replays = 0
    clients = [world.open() for _ in users]
    for user, client in zip(users, clients, strict=True):
        resume = {"session": "x", "seen": {rooms[users.index(user) // 6]: 5}}
        world.spawn(world.hello(client, user, device="d", resume=resume))
    await world.settle()
    for index, client in enumerate(clients):
        assert client.seqs(rooms[index // 6]) == list(range(6, 21))
    assert store.loads <= 2
    assert store.replays <= 6
    await close_world(world)


class CountingStore(SQLiteStore):
    loads = 0
    replays = 0

    async def load_users(self, users: Any) -> Any:
        self.loads += 1
        return await super().load_users(users)

    async def replay(self, wanted: Any, limit: int) -> Any:
        self.replays += 1
        return await super().replay(wanted, limit)


class SlowLoads(SQLiteStore):
    """Loads are read at once and reported only when told: the widest race with commits there can be."""

    gate: Any = None

    async def load_users(self, users: Any) -> Any:
        found = await super().load_users(users)
        if self.gate is not None:
            await self.gate.wait()
        return found


async def test_hello_when_messages_commit_during_its_load_then_none_is_lost(tmp_path: Path) -> None:
    store = SlowLoads(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store, session_life_s=0)
    ann, bob, room = await pair(world)
    await say_many(ann, room, 2)
    await bob.leave()
    await ann.leave()
    await world.advance(11_000)
    assert world.messaging.stats()["conversations"] == 0
    store.gate = asyncio.Event()
    back = world.open()
    world.spawn(world.hello(back, "bob", device="d1", resume={"session": "x", "seen": {room: 0}}))
    for _ in range(5):
        await asyncio.sleep(0.01)
        world.turn()
    # Committed and reported while what was read waits: by the system, nobody is loaded.
    gate, store.gate = store.gate, None
    await world.messaging.post_message(room, b'"third"', Encoding.JSON)
    await world.messaging.post_message(room, b'"fourth"', Encoding.JSON)
    gate.set()
    await world.settle()
    await world.messaging.post_message(room, b'"fifth"', Encoding.JSON)
    await world.settle()
    assert back.seqs(room) == [1, 2, 3, 4, 5]
    await close_world(world)


async def test_hello_when_members_change_during_its_load_then_it_is_read_again(tmp_path: Path) -> None:
    store = SlowLoads(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store)
    ann = await world.connect("ann")
    room, other = await world.group(ann, ["zoe"]), await world.group(ann, ["bob"])
    store.gate = asyncio.Event()
    bob = world.open()
    world.spawn(world.hello(bob, "bob"))
    for _ in range(5):
        await asyncio.sleep(0.01)
        world.turn()
    gate, store.gate = store.gate, None
    await ann.ask("conversation_update", {"conversation": room, "add": ["bob"]})
    await ann.ask("conversation_update", {"conversation": other, "remove": ["bob"]})
    gate.set()
    await world.settle()
    await ann.say(room)
    await ann.say(other)
    await world.settle()
    assert bob.seqs(room) == [1]
    assert bob.seqs(other) == []
    assert await bob.fails("history", {"conversation": other}) == "forbidden"
    await close_world(world)


async def test_detach_when_loading_then_hello_fails_and_nothing_is_left(world: World) -> None:
    client = world.open()
    world.messaging.detach(client.session)
    with pytest.raises(Exception, match="gone"):
        await world.attach(client, "ann")
    assert world.messaging.sessions_of("ann") == ()


# -- acknowledgements


async def test_acks_when_not_acknowledged_then_sent_again_three_times(world: World) -> None:
    ann, bob, room = await pair(world, acks=True)
    await ann.say(room)
    await world.advance(20)
    await world.advance(1900)
    assert bob.seqs(room) == [1]
    await world.advance(300)
    assert bob.seqs(room) == [1, 1]
    await world.advance(30_000)
    assert bob.seqs(room) == [1, 1, 1, 1]
    assert world.messaging.stats()["sessions_awaiting_acks"] == 0


@pytest.mark.parametrize("content_bytes", [1, 40_000])
async def test_acks_when_missing_in_many_conversations_then_none_waits_for_another(
    world: World, content_bytes: int
) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob", acks=True)
    rooms = [await world.group(ann, ["bob"]) for _ in range(20)]
    for room in rooms:
        await say_many(ann, room, 1, "x" * content_bytes)
    for attempt in range(1, 4):
        await world.advance(2_500)
        await world.settle()
        assert [bob.seqs(room) for room in rooms] == [[1] * (attempt + 1)] * len(rooms)


async def test_acks_when_acknowledged_then_never_sent_again(world: World) -> None:
    ann, bob, room = await pair(world, acks=True)
    await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)  # before the tick that starts the clock
    await world.advance(1000)
    await ann.say(room)
    await world.advance(1000)
    bob.send("ack", {"conversation": room, "seq": 2}, ask=False)
    await world.advance(20_000)
    assert bob.seqs(room) == [1, 2]


async def test_acks_when_some_are_missing_then_only_those_come_again(world: World) -> None:
    ann, bob, room = await pair(world, acks=True)
    await say_many(ann, room, 3)
    bob.send("ack", {"conversation": room, "seq": 2}, ask=False)
    await world.advance(2300)
    assert bob.seqs(room) == [1, 2, 3, 3]


async def test_acks_when_own_message_then_not_sent_back(world: World) -> None:
    _, bob, room = await pair(world, acks=True)
    await bob.say(room)
    await world.advance(20_000)
    assert bob.seqs(room) == [1]


async def test_acks_when_connection_is_behind_then_nothing_is_added(world: World) -> None:
    ann, bob, room = await pair(world, acks=True)
    bob.reading = False
    await ann.say(room)
    await world.advance(20)
    queued = world.hub.queued_bytes(bob.handle)
    assert queued > 0
    await world.advance(10_000)
    assert world.hub.queued_bytes(bob.handle) == queued
    bob.reading = True
    await world.advance(2500)
    assert bob.seqs(room) == [1, 1]


async def test_acks_when_reconnected_then_unacknowledged_comes_by_resume(world: World) -> None:
    ann, bob, room = await pair(world, acks=True)
    bob.reading = False
    await say_many(ann, room, 3)
    await bob.leave()
    back = await world.connect("bob", device="d1", acks=True, resume={"session": bob.hello["session"]})
    await world.settle()
    assert back.seqs(room) == [1, 2, 3]
    back.send("ack", {"conversation": room, "seq": 3}, ask=False)
    await world.advance(10_000)
    assert back.seqs(room) == [1, 2, 3]


async def test_acks_when_not_asked_for_then_nothing_is_sent_again(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    await world.advance(20_000)
    assert bob.seqs(room) == [1]


async def test_resume_when_its_ack_is_not_stored_yet_then_it_counts(world: World) -> None:
    ann = await world.connect("ann")
    bob = await world.connect("bob", device="b", acks=True)
    room = await world.group(ann, ["bob"])
    for _ in range(3):
        await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 2}, ask=False)
    await bob.leave()
    bob = await world.connect("bob", device="b", acks=True, resume={"session": bob.hello["session"]})
    assert bob.seqs(room) == [3]
    await world.advance(200)
    await bob.leave()
    await world.advance(70_000, step_ms=1_000)  # what was kept in memory is gone
    bob = await world.connect("bob", device="b", resume={"session": bob.hello["session"]})
    assert bob.seqs(room) == [3]


# -- sessions without a connection


async def test_resume_when_the_ring_has_what_was_missed_then_the_store_is_not_read(tmp_path: Path) -> None:
    store = CountingStore(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store)
    ann = await world.connect("ann")
    users = [f"u{i}" for i in range(40)]
    clients = [await world.connect(user, device="d", acks=True) for user in users]
    rooms = [await world.group(ann, users[i : i + 8]) for i in range(0, 40, 8)]
    for room in rooms:
        await say_many(ann, room, 3)
    for index, client in enumerate(clients):
        client.send("ack", {"conversation": rooms[index // 8], "seq": 2}, ask=False)
    await world.settle()
    for client in clients:
        await client.leave()
    await world.advance(60_000, step_ms=1_000)  # long after the presence's grace
    for room in rooms:
        await say_many(ann, room, 50)
    reads = store.stats()["reads_total"]
    for index, (user, client) in enumerate(zip(users, clients, strict=True)):
        seen = {rooms[index // 8]: 3} if index % 2 else {}
        resume = {"session": client.hello["session"], "seen": seen}
        back = await world.connect(user, device="d", resume=resume)
        assert back.hello["resumed"] is True
        assert back.seqs(rooms[index // 8]) == list(range(4 if seen else 3, 54))
    assert store.stats()["reads_total"] == reads
    await close_world(world)


async def test_detached_session_when_members_change_then_it_comes_back_to_what_is(world: World) -> None:
    ann, bob, room = await pair(world)
    other = await world.group(ann, ["bob"])
    bob.send("ack", {"conversation": room, "seq": 0}, ask=False)
    await bob.leave()
    await world.advance(20_000)
    await ann.ask("conversation_update", {"conversation": other, "remove": ["bob"]})
    new = await world.group(ann, ["bob"])
    for conversation in (room, other, new):
        await say_many(ann, conversation, 2)
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0, other: 0}}
    )
    await world.settle()
    assert back.hello["resumed"] is True
    assert (back.seqs(room), back.seqs(other), back.seqs(new)) == ([1, 2], [], [1, 2])
    assert await back.fails("history", {"conversation": other}) == "forbidden"


async def test_detached_session_when_the_grace_is_over_then_its_user_is_offline_and_online_again(
    world: World,
) -> None:
    ann, bob, _ = await pair(world)
    assert (await ann.ask("presence_subscribe", {"users": ["bob"]}))["users"][0]["status"] == "online"
    await bob.leave()
    await world.advance(11_000)
    assert [u["status"] for body in ann.bodies("state_batch") for u in body["updates"]] == ["offline"]
    assert (await ann.ask("presence_subscribe", {"users": ["bob"]}))["users"][0]["last_seen"] is not None
    ann.clear()
    await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    await world.advance(200)
    assert [u["status"] for body in ann.bodies("state_batch") for u in body["updates"]] == ["online"]


async def test_ack_of_another_connection_when_it_is_the_same_device_then_resume_starts_after_it(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    tab = await world.connect("bob", device="d1")
    await say_many(ann, room, 5)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    tab.send("ack", {"conversation": room, "seq": 4}, ask=False)
    await world.advance(300)
    await bob.leave()
    back = await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    await world.settle()
    assert back.seqs(room) == [5]


async def test_user_when_200_devices_drop_then_each_comes_back_as_it_was(world: World) -> None:
    """A user with 200 devices: one conversation stays loaded, and each device has its own session."""
    ann, bob, room = await pair(world)
    devices = [await world.connect("bob", device=f"device{number}") for number in range(200)]
    await ann.say(room)
    for device in devices:
        await device.leave()
    await bob.leave()
    assert world.messaging.sessions.stats()["detached"] == 201
    await ann.say(room)
    for number, device in enumerate(devices):
        resume = {"session": device.hello["session"], "seen": {room: 1}}
        back = await world.connect("bob", device=f"device{number}", resume=resume)
        assert back.hello["resumed"] is True
        assert back.seqs(room) == [2]


async def test_resume_when_it_came_back_before_then_what_was_replayed_and_acknowledged_is_not_again(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    await bob.leave()
    await say_many(ann, room, 5)
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0}}
    )
    assert back.seqs(room) == [1, 2, 3, 4, 5]
    back.send("ack", {"conversation": room, "seq": 5}, ask=False)
    await back.leave()  # before the window's end: the store has not heard of it
    await say_many(ann, room, 2)
    again = await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    assert again.hello["resumed"] is True
    assert again.seqs(room) == [6, 7]
