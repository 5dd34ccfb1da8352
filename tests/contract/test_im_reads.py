"""What is read from the store and what is not: loaded state and the cache answer, and answer the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from tests.contract.im_world import Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


class Reads:
    """The reads of a store since it was made, or asked the last time; by kind."""

    def __init__(self, world: World) -> None:
        self._store = world.store
        self._before = self._store.stats()

    def taken(self) -> dict[str, int]:
        now = self._store.stats()
        grown = Counter(now)
        grown.subtract(self._before)
        self._before = now
        return {
            name.removeprefix("reads_").removesuffix("_total"): count
            for name, count in grown.items()
            if count and name.startswith("reads_") and name != "reads_total"
        }


async def post(world: World, room: str, sender: str = "", content: bytes = b'"hi"') -> dict[str, Any]:
    return await world.messaging.post_message(room, content, Encoding.JSON, sender=sender)


# -- the same answers


async def answers(
    path: Path, encoding: int, questions: list[tuple[str, dict[str, Any]]], **options: Any
) -> Any:
    """What a member is answered by a domain with these options, each question asked twice."""
    world = await open_world(path, **options)
    ann = await world.connect("ann", encoding)
    found = [[await ann.ask(event, body) for event, body in questions] for _ in range(2)]
    assert found[0] == found[1]
    await close_world(world)
    return found[0]


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.MSGPACK])
async def test_pages_when_served_from_memory_then_the_same_as_from_the_store(
    tmp_path: Path, encoding: int
) -> None:
    path = tmp_path / "im.db"
    world = await open_world(path)
    clients = [await world.connect("ann"), await world.connect("bob", Encoding.MSGPACK)]
    rooms = [await world.group(clients[0], ["bob", "carl"], title=f"room {number}") for number in range(4)]
    for number in range(40):
        await clients[number % 2].say(
            rooms[number % 3],
            {"n": number, "b": b"\1" if number % 2 else None},
            kind="data",
            **({"client_id": f"c{number}"} if number % 5 == 0 else {}),
            **({"reply_to": 1} if number > 9 else {}),
        ) if number % 2 else await clients[0].say(rooms[number % 3], "x" * number)
        await world.advance(20)
    await clients[1].ask("read_receipt", {"conversation": rooms[0], "seq": 3})
    await close_world(world)
    questions: list[tuple[str, dict[str, Any]]] = [
        ("history", {"conversation": room, "limit": limit, **where})
        for room in rooms
        for limit in (1, 5, 13, 14, 500)
        for where in ({}, *({way: seq} for way in ("after", "before") for seq in (0, 1, 5, 13, 14, 15, 99)))
    ]
    questions += [("conversations", {"limit": limit}) for limit in (1, 3, 4, 100)]
    questions += [("conversations", {"limit": 2, "after": room}) for room in rooms]
    questions += [("members", {"conversation": rooms[0], "limit": limit}) for limit in (1, 3, 100)]
    questions += [("members", {"conversation": rooms[0], "after": "bob"})]
    from_memory = await answers(path, encoding, questions)
    assert from_memory == await answers(path, encoding, questions, ring_bytes=0, cache_entries=0)


async def test_history_when_only_messages_since_joining_may_be_seen_then_from_memory_too(
    tmp_path: Path,
) -> None:
    world = await open_world(tmp_path / "im.db", history_from_joining=True)
    ann = await world.connect("ann")
    room = await world.group(ann, [])
    for _ in range(5):
        await ann.say(room)
    await ann.ask("conversation_update", {"conversation": room, "add": ["bob"]})
    bob = await world.connect("bob")
    for _ in range(3):
        await ann.say(room)
    reads = Reads(world)
    for where, seqs in (
        ({}, [8, 7, 6]),
        ({"after": 0}, [6, 7, 8]),
        ({"after": 6, "limit": 1}, [7]),
        ({"before": 8}, [7, 6]),
        ({"before": 3}, []),
    ):
        page = await bob.ask("history", {"conversation": room, **where})
        assert [message["seq"] for message in page["messages"]] == seqs
        assert page["more"] == ("limit" in where)
    assert reads.taken() == {}
    await close_world(world)


async def test_history_when_new_messages_come_then_the_newest_page_has_them(world: World) -> None:
    ann = await world.connect("ann")
    room = await world.group(ann, ["bob"])
    for number in range(1, 30):
        if number % 3:
            await ann.say(room)
        else:
            await post(world, room, "bob")
        page = await ann.ask("history", {"conversation": room, "limit": 2})
        assert [message["seq"] for message in page["messages"]] == list(range(number, max(0, number - 2), -1))
        listed = await ann.ask("conversations", {})
        assert listed["conversations"][0]["last"]["seq"] == number


# -- reads


async def test_reads_when_a_member_looks_around_again_then_none(world: World) -> None:
    ann = await world.connect("ann")
    rooms = [await world.group(ann, ["bob", "carl"]) for _ in range(3)]
    for room in rooms:
        for _ in range(20):
            await post(world, room, "bob")
    await world.messaging.stop()  # the windows' marks are stored
    reads = Reads(world)

    async def look(client: Client) -> None:
        await client.ask("conversations", {})
        for room in rooms:
            await client.ask("history", {"conversation": room, "limit": 10})
            await client.ask("members", {"conversation": room})
            await client.ask("presence_subscribe", {"conversation": room})

    await look(ann)
    assert reads.taken() == {"members": 3}
    await look(ann)
    assert reads.taken() == {}


async def test_reads_when_the_server_has_just_begun_then_one_a_conversation_begins_its_ring(
    tmp_path: Path,
) -> None:
    world = await open_world(tmp_path / "im.db")
    ann = await world.connect("ann")
    rooms = [await world.group(ann, []) for _ in range(3)]
    for room in rooms:
        for _ in range(20):
            await ann.say(room)
    await close_world(world)
    world = await open_world(tmp_path / "im.db")
    ann = await world.connect("ann")
    reads = Reads(world)
    for _ in range(3):
        await ann.ask("conversations", {})
    assert reads.taken() == {"replay": 1}
    for _ in range(3):
        for room in rooms:
            await ann.ask("history", {"conversation": room, "limit": 1})
            assert len((await ann.ask("history", {"conversation": room}))["messages"]) == 20
    assert reads.taken() == {"history": 3}
    await close_world(world)


async def test_reads_when_a_service_posts_as_somebody_who_is_away_then_looked_up_once(world: World) -> None:
    ann = await world.connect("ann")
    room = await world.group(ann, ["bob"])
    await ann.leave()
    await world.advance(11_000)
    reads = Reads(world)
    for number in range(10):
        assert (await post(world, room, "bob"))["seq"] == number + 1
    assert reads.taken() == {"conversation": 1, "users": 1}
    record = await world.messaging.conversation(room)
    assert record is not None
    assert record.last_seq == 10
    for _ in range(10):
        assert await world.messaging.conversation("none-of-this-name") is None
    assert reads.taken() == {"conversation": 1}


async def test_lookups_when_written_then_the_new_is_seen(world: World) -> None:
    """Loaded or not, looked up before or not."""
    look_up = world.messaging.conversation
    assert await look_up("room") is None
    await world.messaging.create_conversation("group", "ann", ["bob"], id="room")
    for step in range(4):
        if step == 2:
            await world.connect("ann")
        record = await look_up("room")
        assert record is not None
        assert record.last_seq == step
        await post(world, "room", "ann")
        record = await look_up("room")
        assert record is not None
        assert record.last_seq == step + 1
        await world.messaging.update_conversation("room", title=f"title {step}")
        record = await look_up("room")
        assert record is not None
        assert record.title == f"title {step}"
    [ann] = world.clients.values()
    await ann.leave()
    await world.advance(11_000)
    record = await look_up("room")
    assert record is not None
    assert (record.last_seq, record.title) == (4, "title 3")


async def test_membership_when_changed_then_the_next_post_knows(world: World) -> None:
    await world.messaging.create_conversation("group", "ann", ["bob"], id="room")
    await post(world, "room", "bob")
    await world.messaging.update_conversation("room", remove=["bob"])
    with pytest.raises(Exception, match="none of yours"):
        await post(world, "room", "bob")
    await world.messaging.update_conversation("room", add=["bob"])
    assert (await post(world, "room", "bob"))["seq"] == 2


async def test_members_when_marks_move_then_a_kept_page_shows_them(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob", device="b")
    room = await world.group(ann, ["bob", "carl"])

    async def marks() -> dict[str, tuple[int, int]]:
        page = await ann.ask("members", {"conversation": room})
        return {member["user"]: (member["delivered"], member["read"]) for member in page["members"]}

    assert await marks() == {"ann": (0, 0), "bob": (0, 0), "carl": (0, 0)}
    await ann.say(room)
    await bob.ask("read_receipt", {"conversation": room, "seq": 1})
    bob.send("ack", {"conversation": room, "seq": 1}, ask=False)
    assert await marks() == {"ann": (0, 1), "bob": (1, 1), "carl": (0, 0)}
    await post(world, room, "carl")
    await bob.leave()
    await world.advance(11_000)
    assert await marks() == {"ann": (0, 1), "bob": (1, 1), "carl": (0, 2)}
    await ann.ask("conversation_update", {"conversation": room, "remove": ["carl"], "add": ["dora"]})
    assert await marks() == {"ann": (0, 1), "bob": (1, 1), "dora": (2, 2)}


async def test_profiles_when_members_change_while_one_is_read_then_the_old_one_is_not_kept(
    world: World,
) -> None:
    await world.messaging.create_conversation("group", "ann", ["bob"], id="room")
    posted, _ = await asyncio.gather(
        post(world, "room", "bob"),
        world.messaging.update_conversation("room", remove=["bob"]),
        return_exceptions=True,
    )
    del posted  # before or after the removal, as it came
    with pytest.raises(Exception, match="none of yours"):
        await post(world, "room", "bob")


async def test_resume_when_its_device_was_read_before_then_no_read_and_from_its_last_ack(
    world: World,
) -> None:
    ann = await world.connect("ann")
    bob = await world.connect("bob", device="b", acks=True, resume={"session": "none"})
    rooms = [await world.group(ann, ["bob"]) for _ in range(2)]
    await bob.leave()
    bob = await world.connect("bob", device="b", acks=True, resume={"session": bob.hello["session"]})
    for room in rooms:
        for _ in range(3):
            await ann.say(room)
    bob.send("ack", {"conversation": rooms[0], "seq": 2}, ask=False)
    await bob.leave()
    reads = Reads(world)
    bob = await world.connect("bob", device="b", resume={"session": bob.hello["session"]})
    assert (bob.seqs(rooms[0]), bob.seqs(rooms[1])) == ([3], [1, 2, 3])
    await bob.leave()
    session = {"session": bob.hello["session"], "seen": dict.fromkeys(rooms, 3)}
    bob = await world.connect("bob", device="other", resume=session)
    assert reads.taken() == {}
    # In a conversation that came since there is nothing to go by but the store.
    late = await world.group(ann, ["bob"])
    await ann.say(late)
    await bob.leave()
    bob = await world.connect("bob", device="b", resume={"session": bob.hello["session"]})
    assert bob.seqs(late) == [1]
    assert reads.taken() == {"users": 1}


async def test_rosters_when_many_subscribe_to_a_large_conversation_at_once_then_one_read(
    world: World,
) -> None:
    users = [f"u{number:03}" for number in range(150)]
    clients = [await world.connect(user) for user in users[:30]]
    room = await world.group(clients[0], users[1:])
    reads = Reads(world)
    refs = [client.send("presence_subscribe", {"conversation": room}) for client in clients]
    for client, ref in zip(clients, refs, strict=True):
        assert len((await client.answer(ref))[1]["users"]) == 150
    assert reads.taken() == {"members": 1}
