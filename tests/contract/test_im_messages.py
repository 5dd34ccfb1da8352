"""Messages: order, durability before delivery, idempotency, membership; over a real hub and SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.errors import ErrorCode
from fastim.im.options import StormOptions
from fastim.store.sqlite import SQLiteStore
from tests.contract.im_world import AnswerError, Client, World, close_world, open_world

ENCODINGS = [Encoding.JSON, Encoding.MSGPACK]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


async def pair(world: World, encoding: int = 0, other: int = 0) -> tuple[Client, Client, str]:
    ann, bob = await world.connect("ann", encoding), await world.connect("bob", other)
    return ann, bob, await world.group(ann, ["bob"])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("other", ENCODINGS)
async def test_message_when_sent_then_ok_and_new_message_agree(
    world: World, encoding: int, other: int
) -> None:
    ann, bob, room = await pair(world, encoding, other)
    content = {"a": [1, None, 2.5, True], "π": "ü"}
    ok = await ann.say(room, content, kind="note", client_id="c1")
    assert ok == {**ok, "conversation": room, "seq": 1, "client_id": "c1", "duplicate": False}
    message = await bob.event("new_message")
    assert message == {
        "id": ok["id"],
        "conversation": room,
        "seq": 1,
        "sender": "ann",
        "device": ann.session.device,
        "content": content,
        "kind": "note",
        "time": ok["time"],
        "client_id": "c1",
    }
    assert not ann.bodies("new_message")


async def test_message_when_sender_has_other_devices_then_they_get_it(world: World) -> None:
    ann, bob, room = await pair(world)
    second = await world.connect("ann", device="phone")
    await ann.say(room)
    assert (await second.event("new_message"))["seq"] == 1
    assert (await bob.event("new_message"))["seq"] == 1
    assert not ann.bodies("new_message")


async def test_message_when_not_yet_committed_then_nobody_has_heard_of_it(world: World) -> None:
    ann, bob, room = await pair(world)
    ann.clear()
    bob.clear()
    ref = ann.send("message", {"conversation": room, "content": "x"})
    for _ in range(5):
        world.turn()  # the store reports through the loop, which does not run here
    assert ann.packets == []
    assert bob.packets == []
    await ann.answer(ref)
    await bob.event("new_message")


async def test_messages_when_pipelined_by_all_then_every_connection_sees_seq_order(
    world: World,
) -> None:
    ann, bob, room = await pair(world, Encoding.JSON, Encoding.MSGPACK)
    third = await world.connect("bob", Encoding.JSON, device="laptop")
    for index in range(200):
        ann.send("message", {"conversation": room, "content": f"a{index}"})
        bob.send("message", {"conversation": room, "content": f"b{index}"})
        third.send("message", {"conversation": room, "content": f"c{index}"})
    await world.settle()
    for client in (ann, bob, third):
        assert client.seqs(room) == list(range(1, 601))
        # Each sender's own messages keep their order.
        for letter in "abc":
            own = [b["content"] for b in client.bodies("new_message") if b["content"][0] == letter]
            assert own in ([], [f"{letter}{index}" for index in range(200)])


async def test_message_when_without_ref_then_delivered_and_not_answered(world: World) -> None:
    ann, bob, room = await pair(world)
    ann.clear()
    ann.send("message", {"conversation": room, "content": "x"}, ask=False)
    await bob.event("new_message")
    assert ann.packets == []
    ann.send("message", {"conversation": "none", "content": "x"}, ask=False)
    assert (await ann.event("error"))["event"] == "message"


async def test_client_id_when_repeated_then_first_answer_and_nothing_delivered(world: World) -> None:
    ann, bob, room = await pair(world)
    first = await ann.say(room, "x", client_id="one")
    again = await ann.say(room, "x", client_id="one")
    assert again == {**first, "duplicate": True}
    assert not first["duplicate"]
    await ann.say(room, "y", client_id="two")
    await bob.event("new_message", 2)
    assert bob.seqs(room) == [1, 2]


async def test_client_id_when_repeated_while_on_its_way_then_stored_once(world: World) -> None:
    ann, bob, room = await pair(world)
    refs = [ann.send("message", {"conversation": room, "content": "x", "client_id": "one"}) for _ in range(5)]
    answers = [(await ann.answer(ref))[1] for ref in refs]
    assert {answer["id"] for answer in answers} == {answers[0]["id"]}
    assert [answer["duplicate"] for answer in answers] == [False, True, True, True, True]
    await world.settle()
    assert bob.seqs(room) == [1]


async def test_client_id_when_other_content_then_conflict_and_the_rest_is_stored(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room, "x", client_id="one")
    with pytest.raises(AnswerError) as caught:
        await ann.say(room, "other", client_id="one")
    assert caught.value.code == ErrorCode.CONFLICT
    # Another user's same id is another message, and one refusal holds nobody up.
    assert (await bob.say(room, "other", client_id="one"))["seq"] == 2


async def test_client_id_when_the_same_content_is_written_otherwise_then_a_duplicate(world: World) -> None:
    content = {"text": "grüße", "raw": {"$bytes": "AAEC"}, "numbers": [1, -2.5, 2**64 - 1]}
    plain = {"text": "grüße", "raw": b"\x00\x01\x02", "numbers": [1, -2.5, 2**64 - 1]}
    ann, _, room = await pair(world)
    other = await world.connect("ann", encoding=1)
    for first, second, client_id in ((ann, other, "one"), (other, ann, "two")):
        contents = {id(ann): content, id(other): plain}
        sent = await first.say(room, contents[id(first)], client_id=client_id)
        again = await second.say(room, contents[id(second)], client_id=client_id)
        assert (again["seq"], again["duplicate"]) == (sent["seq"], True)
        refs = [
            each.send("message", {"conversation": room, "content": contents[id(each)], "client_id": "both"})
            for each in (first, second)
        ]
        answers = [(await each.answer(ref))[1] for each, ref in zip((first, second), refs, strict=True)]
        assert len({answer["seq"] for answer in answers}) == 1


STRANGE: list[tuple[str, dict[str, Any]]] = [
    ("message", {"content": "x"}),
    ("binary", {"data": {"$bytes": "AAEC"}}),
    ("ack", {"seq": 1}),
    ("read_receipt", {"seq": 1}),
    ("typing", {"typing": True}),
    ("history", {}),
    ("members", {}),
    ("conversation_update", {"title": "mine"}),
    ("conversation_update", {"remove": ["eve"]}),
    ("presence_subscribe", {}),
    ("presence_subscribe", {"unsubscribe": True}),
]


@pytest.mark.parametrize(("event", "body"), STRANGE)
async def test_stranger_when_touching_a_conversation_then_answered_as_if_there_were_none(
    world: World, event: str, body: dict[str, Any]
) -> None:
    ann, bob, room = await pair(world)
    eve = await world.connect("eve")
    ann.clear()
    bob.clear()
    answers = []
    for conversation in (room, "there-is-none"):
        with pytest.raises(AnswerError) as caught:
            await eve.ask(event, {**body, "conversation": conversation})
        answers.append(caught.value.body)
    assert answers[0] == answers[1]
    assert answers[0]["code"] == ErrorCode.FORBIDDEN
    await world.advance(300)
    assert ann.packets == []
    assert bob.packets == []


async def test_message_when_limit_is_used_up_then_rate_limited_with_time(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", storm=StormOptions(user_per_minute=2))
    ann = await world.connect("ann")
    room = await world.group(ann, ["bob"])
    await ann.say(room)
    await ann.say(room)
    with pytest.raises(AnswerError) as caught:
        await ann.say(room)
    assert caught.value.body["code"] == ErrorCode.RATE_LIMITED
    assert caught.value.body["retry_after_ms"] == 30_000
    await close_world(world)


async def test_text_when_not_a_string_then_bad_request_names_content(world: World) -> None:
    ann, _, room = await pair(world)
    with pytest.raises(AnswerError) as caught:
        await ann.say(room, 7, kind="text")
    assert caught.value.code == ErrorCode.BAD_REQUEST
    assert caught.value.body["message"].startswith("content")


async def test_reply_to_when_past_the_last_seq_then_bad_request(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.say(room)
    assert await ann.fails("message", {"conversation": room, "content": "x", "reply_to": 5}) == "bad_request"
    assert (await ann.say(room, "x", reply_to=1))["seq"] == 2
    assert (await bob.event("new_message", 2))["reply_to"] == 1


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_binary_when_sent_then_its_bytes_arrive_in_both_encodings(world: World, encoding: int) -> None:
    ann, bob, room = await pair(world, encoding, Encoding.JSON)
    carl = await world.connect("bob", Encoding.MSGPACK)
    data = b"\x00\x01\x02" if encoding else {"$bytes": "AAEC"}
    ok = await ann.ask("binary", {"conversation": room, "data": data, "name": "n.bin", "type": "x/y"})
    assert ok["seq"] == 1
    in_json = await bob.event("new_message")
    in_msgpack = await carl.event("new_message")
    assert in_json["kind"] == in_msgpack["kind"] == "binary"
    assert in_json["content"] == {"data": {"$bytes": "AAEC"}, "name": "n.bin", "type": "x/y"}
    assert in_msgpack["content"] == {"data": b"\x00\x01\x02", "name": "n.bin", "type": "x/y"}


async def test_sender_when_gone_before_the_commit_then_message_is_stored_and_delivered(world: World) -> None:
    ann, bob, room = await pair(world)
    ann.send("message", {"conversation": room, "content": "last words"})
    world.hub.abort(ann.handle)
    assert (await bob.event("new_message"))["content"] == "last words"


async def test_store_when_locked_then_unavailable_and_the_same_client_id_later_stored(
    tmp_path: Path,
) -> None:
    path = tmp_path / "im.db"
    world = await open_world(path, store=SQLiteStore(path, busy_timeout_ms=20))
    ann, bob, room = await pair(world)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        body = {"conversation": room, "content": "x", "client_id": "one"}
        assert await ann.fails("message", body) == "unavailable"
        assert bob.bodies("new_message") == []
        other.execute("ROLLBACK")
    answer = await ann.ask("message", body)
    assert (answer["seq"], answer["duplicate"]) == (1, False)
    assert (await bob.event("new_message"))["seq"] == 1
    await close_world(world)


async def test_store_when_behind_then_senders_are_held_back_and_read_again(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", pause_writes=4, max_writes=8)
    ann, bob, room = await pair(world)
    refs = [ann.send("message", {"conversation": room, "content": "x"}) for _ in range(5)]
    assert world.messaging.stats()["sessions_held_back"] == 1
    # Held back is not read: nothing of this is served until the store has caught up.
    refs += [ann.send("message", {"conversation": room, "content": "x"}) for _ in range(5)]
    assert world.store.queued_count == 5
    await world.settle()
    assert ann.seqs(room) == [1, 2, 3, 4, 5]
    await world.advance(20)
    await world.advance(20)
    assert world.messaging.stats()["sessions_held_back"] == 0
    assert [(await ann.answer(ref))[1]["seq"] for ref in refs] == list(range(1, 11))
    assert bob.seqs(room) == list(range(1, 11))
    await close_world(world)


async def test_store_when_too_far_behind_then_unavailable_and_no_hole(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", pause_writes=4, max_writes=8)
    ann, _, room = await pair(world)
    ann.feed_batch([["message", {"conversation": room, "content": "x"}, 100 + i] for i in range(20)])
    world.turn()
    answers = [await ann.answer(100 + i) for i in range(20)]
    stored = [a[1]["seq"] for a in answers if a[0] == "ok"]
    assert stored == list(range(1, 9))
    assert {a[1]["code"] for a in answers if a[0] == "error"} == {"unavailable"}
    await close_world(world)


async def test_store_when_behind_in_bytes_then_held_back_and_at_last_unavailable(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", pause_bytes=20_000, max_write_bytes=50_000)
    ann, _, room = await pair(world)
    packets = [["message", {"conversation": room, "content": "x" * 9_000}, 100 + i] for i in range(8)]
    ann.feed_batch(packets)
    world.turn()
    assert world.messaging.stats()["sessions_held_back"] == 1
    answers = [await ann.answer(100 + i) for i in range(8)]
    assert [answer[0] for answer in answers] == ["ok"] * 6 + ["error"] * 2
    assert {answer[1]["code"] for answer in answers[6:]} == {"unavailable"}
    await world.settle()
    await world.advance(20)
    assert world.messaging.stats()["sessions_held_back"] == 0
    assert (world.store.queued_count, world.store.queued_bytes) == (0, 0)
    assert (await ann.say(room))["seq"] == 7
    await close_world(world)


async def test_message_when_its_sender_is_removed_while_it_waits_then_forbidden(tmp_path: Path) -> None:
    storm = StormOptions(conversation_per_s=1, conversation_burst=1)
    world = await open_world(tmp_path / "im.db", storm=storm)
    ann = await world.connect("ann")
    bob = await world.connect("bob")
    room = await world.group(ann, ["bob"])
    await ann.say(room)
    ref = bob.send("message", {"conversation": room, "content": "too late"})
    await ann.ask("conversation_update", {"conversation": room, "remove": ["bob"]})
    await world.advance(1_100)
    assert (await bob.answer(ref))[1]["code"] == ErrorCode.FORBIDDEN
    await world.advance(1_000)
    assert (await ann.say(room))["seq"] == 2
    await close_world(world)


async def test_message_when_it_waits_then_it_is_of_the_time_of_its_turn(tmp_path: Path) -> None:
    storm = StormOptions(conversation_per_s=1, conversation_burst=1)
    world = await open_world(tmp_path / "im.db", storm=storm)
    ann, bob, room = await pair(world)
    first = await ann.say(room)
    refs = [ann.send("message", {"conversation": room, "content": str(n)}) for n in range(2)]
    await world.advance(2_000)
    times = [first["time"], *[(await ann.answer(ref))[1]["time"] for ref in refs]]
    assert [time - times[0] for time in times] == [0, 1_000, 2_000]
    assert bob.seqs(room) == [1, 2, 3]
    assert world.messaging.storm_stats()["waited_total"] == 2
    await close_world(world)


async def test_post_message_when_as_system_or_member_then_delivered_to_everyone(world: World) -> None:
    ann, bob, room = await pair(world)
    posted = await world.messaging.post_message(room, b'"maintenance"', Encoding.JSON)
    assert posted["seq"] == 1
    assert (await ann.event("new_message"))["sender"] == ""
    posted = await world.messaging.post_message(room, b'"as bob"', Encoding.JSON, sender="bob")
    assert (await bob.event("new_message", 2))["sender"] == "bob"
    assert ann.seqs(room) == bob.seqs(room) == [1, 2]
    for conversation, sender in (("none", ""), (room, "eve")):
        with pytest.raises(Exception, match="none of yours"):
            await world.messaging.post_message(conversation, b'"x"', Encoding.JSON, sender=sender)


async def test_ring_when_read_by_the_other_encoding_then_encoded_once(world: World) -> None:
    ann, _, room = await pair(world)
    await ann.say(room)
    conversation = ann.session.user.membership(room).conversation  # type: ignore[union-attr]
    assert conversation.ring is not None
    assert conversation.ring.entries[0][2] is None  # nobody needed msgpack
    late = await world.connect("bob", Encoding.MSGPACK, resume={"seen": {room: 0}})
    assert (await late.event("new_message"))["seq"] == 1
    assert conversation.ring.entries[0][2] is not None
