"""Read and delivered marks: to the author and everyone, forwards only, once a window."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.im.options import ImOptions
from fastim.store.base import Append, Mark
from fastim.store.sqlite import SQLiteStore
from tests.contract.im_world import Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


async def pair(world: World) -> tuple[Client, Client, str]:
    ann, bob = await world.connect("ann"), await world.connect("bob", Encoding.MSGPACK, device="d1")
    return ann, bob, await world.group(ann, ["bob"])


def receipts_of(client: Client) -> list[dict[str, Any]]:
    return [receipt for body in client.bodies("receipt") for receipt in body["receipts"]]


async def test_read_receipt_when_sent_then_author_and_own_other_devices_are_told_at_once(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    phone = await world.connect("bob", device="phone")
    await ann.say(room)
    assert await bob.ask("read_receipt", {"conversation": room, "seq": 1}) == {}
    for client in (ann, phone):
        [body] = client.bodies("receipt")
        assert body["conversation"] == room
        [receipt] = body["receipts"]
        assert (receipt["user"], receipt["read"]) == ("bob", 1)
        assert receipt["time"] >= world.clock.epoch_ms
    assert receipts_of(bob) == []  # its own connection knows


async def test_ack_when_sent_then_delivered_is_told_and_stored_for_the_device(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    await world.advance(120)
    assert [(r["user"], r["delivered"], "read" in r) for r in receipts_of(ann)] == [("bob", 1, False)]
    await world.settle()
    members = (await ann.ask("members", {"conversation": room}))["members"]
    assert [(m["user"], m["delivered"]) for m in members] == [("ann", 0), ("bob", 1)]


async def test_receipts_when_many_in_a_window_then_one_event_with_the_latest_behind_the_first(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    carl = await world.connect("carl")
    await ann.ask("conversation_update", {"conversation": room, "add": ["carl"]})
    for _ in range(5):
        await ann.say(room)
    for seq in (1, 2, 3, 4, 5):
        bob.send("ack", {"conversation": room, "seq": seq}, ask=False)
        bob.send("read_receipt", {"conversation": room, "seq": seq})
        carl.send("ack", {"conversation": room, "seq": seq}, ask=False)
    await world.settle()
    first = {"user": "bob", "delivered": 1, "time": world.clock.now_ms()}
    assert receipts_of(ann) == [first]
    await world.advance(120)
    [_, body] = ann.bodies("receipt")
    found = {r["user"]: (r.get("delivered"), r.get("read")) for r in body["receipts"]}
    assert found == {"bob": (5, 5), "carl": (5, None)}


async def test_marks_when_backwards_then_nothing_moves(world: World) -> None:
    ann, bob, room = await pair(world)
    for _ in range(3):
        await ann.say(room)
    await bob.ask("read_receipt", {"conversation": room, "seq": 3})
    bob.send("ack", {"conversation": room, "seq": 3}, ask=False)
    await world.advance(200)
    ann.clear()
    assert await bob.ask("read_receipt", {"conversation": room, "seq": 1}) == {}
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    await world.advance(200)
    assert receipts_of(ann) == []
    member = (await ann.ask("members", {"conversation": room, "after": "ann"}))["members"][0]
    assert (member["read"], member["delivered"]) == (3, 3)


async def test_marks_when_past_the_last_seq_then_cut_to_it(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    await bob.ask("read_receipt", {"conversation": room, "seq": 2**60})
    bob.send("ack", {"conversation": room, "seq": 2**60}, ask=False)
    await world.advance(200)
    assert {k: r[k] for r in receipts_of(ann) for k in ("read", "delivered") if k in r} == {
        "read": 1,
        "delivered": 1,
    }
    await ann.say(room)
    member = (await ann.ask("members", {"conversation": room, "after": "ann"}))["members"][0]
    assert (member["read"], member["delivered"]) == (1, 1)


async def test_unread_when_others_write_then_counted_and_own_messages_never(world: World) -> None:
    ann, bob, room = await pair(world)
    for _ in range(3):
        await ann.say(room)

    async def unread(client: Client) -> tuple[int, int, int]:
        [line] = (await client.ask("conversations", {}))["conversations"]
        return line["last_seq"], line["read_seq"], line["unread"]

    assert await unread(bob) == (3, 0, 3)
    assert await unread(ann) == (3, 3, 0)  # sending moves one's own mark
    await bob.ask("read_receipt", {"conversation": room, "seq": 2})
    assert await unread(bob) == (3, 2, 1)
    await bob.say(room)
    assert await unread(bob) == (4, 4, 0)
    assert await unread(ann) == (4, 3, 1)


async def test_unread_when_resumed_and_replayed_then_not_counted_again(world: World) -> None:
    ann, bob, room = await pair(world)
    for _ in range(3):
        await ann.say(room)
    await bob.leave()
    back = await world.connect(
        "bob", device="d1", resume={"session": bob.hello["session"], "seen": {room: 0}}
    )
    assert back.seqs(room) == [1, 2, 3]
    [line] = (await back.ask("conversations", {}))["conversations"]
    assert line["unread"] == 3


@pytest.mark.parametrize(
    ("members", "delivered", "read"), [(32, True, True), (33, False, True), (501, False, False)]
)
async def test_receipts_when_conversation_is_large_then_only_own_devices_are_told(
    world: World, members: int, delivered: bool, read: bool
) -> None:
    assert (ImOptions().delivered_members, ImOptions().read_members) == (32, 500)
    ann, bob = await world.connect("ann"), await world.connect("bob")
    phone = await world.connect("bob", device="phone")
    room = await world.group(ann, ["bob", *(f"u{i}" for i in range(members - 2))])
    await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    await bob.ask("read_receipt", {"conversation": room, "seq": 1})
    await world.advance(200)
    told = {key for receipt in receipts_of(ann) for key in receipt} - {"user", "time"}
    assert told == {key for key, there in (("delivered", delivered), ("read", read)) if there}
    told = {key for receipt in receipts_of(phone) for key in receipt} - {"user", "time"}
    assert told == {"delivered", "read"}


async def test_marks_when_the_server_stops_then_the_open_window_is_stored(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db")
    ann, bob, room = await pair(world)
    await ann.say(room)
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    await close_world(world)
    world = await open_world(tmp_path / "im.db")
    ann = await world.connect("ann")
    members = (await ann.ask("members", {"conversation": room}))["members"]
    assert [m["delivered"] for m in members] == [0, 1]
    await close_world(world)


class SlowStore(SQLiteStore):
    """Takes writes and does nothing with them, until it goes on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, synchronous="normal")
        self.waiting: list[Append | Mark] | None = None

    def submit(self, write: Append | Mark) -> None:
        if self.waiting is None:
            super().submit(write)
        else:
            self.waiting.append(write)
            self.queued_count += 1

    def go_on(self) -> None:
        waiting, self.waiting = self.waiting or [], None
        self.queued_count -= len(waiting)
        for write in waiting:
            super().submit(write)


async def test_acks_when_the_store_is_behind_then_one_mark_of_a_device_waits_at_a_time(
    tmp_path: Path,
) -> None:
    store = SlowStore(tmp_path / "im.db")
    world = await open_world(tmp_path / "im.db", store=store, pause_writes=1)
    ann, bob, room = await pair(world)
    for _ in range(5):
        await ann.say(room)
    await world.settle()
    store.waiting = []
    for seq in (1, 2, 3, 4, 5):
        bob.send("ack", {"conversation": room, "seq": seq}, ask=False)
        world.clock.ns += 120_000_000
        world.messaging.tick(world.clock.ns)
    assert [write.delivered for write in store.waiting if isinstance(write, Mark)] == [1]
    store.go_on()
    await world.settle()
    await world.advance(300)
    record = await store.conversation(room)
    assert record is not None
    assert [member.delivered for member in await store.member_records(record.key, 10)] == [0, 5]
    await close_world(world)


async def test_read_receipts_when_the_store_is_behind_then_held_back_and_refused(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", pause_writes=4, max_writes=8)
    ann, bob, room = await pair(world)
    for _ in range(30):
        await ann.ask("message", {"conversation": room, "content": "x"})
        await world.settle()
    bob.feed_batch([["read_receipt", {"conversation": room, "seq": 1 + i}, 100 + i] for i in range(20)])
    world.turn()
    assert world.store.queued_count == 8
    assert world.messaging.stats()["sessions_held_back"] == 1
    answers = [await bob.answer(100 + i) for i in range(20)]
    assert [answer[0] for answer in answers] == ["ok"] * 8 + ["error"] * 12
    assert {answer[1]["code"] for answer in answers[8:]} == {"unavailable"}
    await world.advance(50)
    assert world.messaging.stats()["sessions_held_back"] == 0
    await close_world(world)
