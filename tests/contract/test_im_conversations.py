"""Conversations: who may make and change them, who is told, and what one reads of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.errors import RequestError, StoreError
from fastim.guard.limits import MemberLimiter
from fastim.store.sqlite import SQLiteStore
from tests.contract.im_world import AnswerError, Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


def changes(client: Client) -> list[tuple[str, str]]:
    return [(body["change"], body["conversation"]["conversation"]) for body in client.bodies("conversation")]


# -- creating


async def test_create_when_group_then_creator_is_owner_and_members_are_told(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob", Encoding.MSGPACK)
    phone = await world.connect("ann", device="phone")
    body = await ann.ask("conversation_create", {"kind": "group", "members": ["bob"], "title": "T"})
    room = body["conversation"]
    assert body == {
        "conversation": room,
        "kind": "group",
        "title": "T",
        "members": 2,
        "last_seq": 0,
        "read_seq": 0,
        "unread": 0,
        "time": world.clock.now_ms(),
    }
    await world.settle()
    for client in (bob, phone):
        assert client.bodies("conversation") == [{"change": "added", "conversation": body}]
    assert changes(ann) == []
    members = (await bob.ask("members", {"conversation": room}))["members"]
    assert [(m["user"], m["role"]) for m in members] == [("ann", "owner"), ("bob", "member")]
    await ann.say(room)
    assert (await bob.event("new_message"))["seq"] == 1
    assert (await phone.event("new_message"))["seq"] == 1


async def test_create_when_same_client_id_then_the_same_conversation_once(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    wanted = {"kind": "group", "members": ["bob"], "client_id": "one"}
    refs = [ann.send("conversation_create", wanted) for _ in range(3)]
    answers = [(await ann.answer(ref))[1] for ref in refs]
    assert len({answer["conversation"] for answer in answers}) == 1
    await world.settle()
    assert len(changes(bob)) == 1
    other = await bob.ask("conversation_create", {"kind": "group", "members": ["ann"], "client_id": "one"})
    assert other["conversation"] != answers[0]["conversation"]


async def test_create_when_direct_then_the_same_for_the_same_two(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    first = await ann.ask("conversation_create", {"kind": "direct", "members": ["bob"]})
    second = await bob.ask("conversation_create", {"kind": "direct", "members": ["ann", "bob"]})
    assert first["conversation"] == second["conversation"]
    assert (first["peer"], second["peer"], first["members"]) == ("bob", "ann", 2)
    third = await ann.ask("conversation_create", {"kind": "direct", "members": ["carl"]})
    assert third["conversation"] != first["conversation"]
    for members in ([], ["ann"], ["bob", "carl"]):
        body = {"kind": "direct", "members": members}
        assert await ann.fails("conversation_create", body) == "bad_request"
    for change in ({"add": ["eve"]}, {"title": "x"}, {"remove": ["ann"]}):
        body = {"conversation": first["conversation"], **change}
        assert await ann.fails("conversation_update", body) == "bad_request"


async def test_create_when_naming_then_needs_the_scope(world: World) -> None:
    ann = await world.connect("ann")
    named = {"kind": "group", "members": ["bob"], "conversation": "lobby"}
    assert await ann.fails("conversation_create", named) == "forbidden"
    app = await world.connect("app", scope=("name_conversations",))
    assert (await app.ask("conversation_create", named))["conversation"] == "lobby"
    assert (await app.ask("conversation_create", named))["conversation"] == "lobby"
    other = await world.connect("other", scope=("name_conversations",))
    assert await other.fails("conversation_create", named) == "forbidden"


async def test_create_when_dev_login_then_anyone_names(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", dev_login=True)
    ann = await world.connect("ann")
    named = {"kind": "group", "members": ["bob"], "conversation": "lobby"}
    assert (await ann.ask("conversation_create", named))["conversation"] == "lobby"
    await close_world(world)


async def test_create_when_too_many_members_then_bad_request(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", max_members=5)
    ann = await world.connect("ann")
    body = {"kind": "group", "members": ["a", "b", "c", "d", "e"]}
    assert await ann.fails("conversation_create", body) == "bad_request"
    room = await world.group(ann, ["a", "b", "c", "d", "a"])
    assert await ann.fails("conversation_update", {"conversation": room, "add": ["e"]}) == "bad_request"
    await ann.ask("conversation_update", {"conversation": room, "remove": ["a", "b"]})
    refs = [ann.send("conversation_update", {"conversation": room, "add": [f"x{i}"]}) for i in range(4)]
    answers = [await ann.answer(ref) for ref in refs]
    assert sorted(a[0] for a in answers) == ["error", "error", "ok", "ok"]
    await close_world(world)


# -- changing


async def test_update_when_not_the_owner_then_forbidden_but_leaving_is_free(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob", "carl"])
    for change in ({"title": "mine"}, {"add": ["eve"]}, {"remove": ["carl"]}, {"remove": ["bob", "carl"]}):
        assert await bob.fails("conversation_update", {"conversation": room, **change}) == "forbidden"
    left = await bob.ask("conversation_update", {"conversation": room, "remove": ["bob"]})
    assert left["members"] == 2
    assert await bob.fails("history", {"conversation": room}) == "forbidden"
    await world.settle()
    assert changes(ann) == [("changed", room)]


async def test_update_when_the_owner_has_left_then_the_longest_member_may_change_it(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    await world.connect("cem")
    room = await world.group(ann, ["bob", "cem"])
    await ann.ask("conversation_update", {"conversation": room, "remove": ["ann"]})
    body = await bob.ask("conversation_update", {"conversation": room, "title": "Ours"})
    assert (body["title"], body["members"]) == ("Ours", 2)
    members = (await bob.ask("members", {"conversation": room}))["members"]
    assert [(m["user"], m["role"]) for m in members] == [("bob", "owner"), ("cem", "member")]


async def test_update_when_leaving_is_not_allowed_then_forbidden(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", allow_leave=False)
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    assert await bob.fails("conversation_update", {"conversation": room, "remove": ["bob"]}) == "forbidden"
    await close_world(world)


async def test_update_when_removed_then_cut_off_at_once_and_told(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"], title="T")
    bob.clear()
    ann.send("conversation_update", {"conversation": room, "remove": ["bob"]})
    ann.send("message", {"conversation": room, "content": "he is gone"})
    await world.settle()
    assert bob.seqs(room) == []
    assert bob.bodies("conversation") == [
        {"change": "removed", "conversation": {"conversation": room, "kind": "group", "title": "T"}}
    ]
    assert (await bob.ask("conversations", {}))["conversations"] == []
    assert await bob.fails("message", {"conversation": room, "content": "x"}) == "forbidden"


class RefusingStore(SQLiteStore):
    """Changes of conversations fail, as with a locked file, but only when told to."""

    gate: asyncio.Event | None = None

    async def update_conversation(self, *args: Any) -> Any:
        if self.gate is not None:
            await self.gate.wait()
            raise StoreError("refused", temporary=True)
        return await super().update_conversation(*args)


async def test_update_when_the_store_refuses_then_nobody_is_removed_nor_misses_a_message(
    tmp_path: Path,
) -> None:
    store = RefusingStore(tmp_path / "im.db", synchronous="normal")
    world = await open_world(tmp_path / "im.db", store=store)
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    await ann.say(room)
    bob.clear()
    store.gate = asyncio.Event()
    refused = ann.send("conversation_update", {"conversation": room, "remove": ["bob", "ann"]})
    await world.messaging.post_message(room, b'"meanwhile"', Encoding.JSON)
    world.turn()
    assert bob.packets == []
    store.gate.set()
    assert (await ann.answer(refused))[1]["code"] == "unavailable"
    await ann.say(room)
    await world.settle()
    assert bob.seqs(room) == [2, 3]
    assert changes(bob) == []
    assert ann.seqs(room) == [1, 2, 3]
    await close_world(world)


async def test_update_when_added_then_live_at_once_from_the_last_seq(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, [])
    for _ in range(3):
        await ann.say(room)
    body = await ann.ask("conversation_update", {"conversation": room, "add": ["bob"], "title": "New"})
    assert (body["title"], body["members"]) == ("New", 2)
    await ann.say(room)
    await world.settle()
    assert bob.seqs(room) == [4]
    [event] = bob.bodies("conversation")
    assert event["change"] == "added"
    assert (event["conversation"]["read_seq"], event["conversation"]["unread"]) == (3, 0)
    [line] = (await bob.ask("conversations", {}))["conversations"]
    assert (line["read_seq"], line["unread"], line["title"]) == (3, 1, "New")
    page = await bob.ask("history", {"conversation": room, "after": 0})
    assert [m["seq"] for m in page["messages"]] == [1, 2, 3, 4]  # members see all


async def test_history_when_from_joining_then_earlier_messages_stay_hidden(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", history_from_joining=True)
    ann, bob = await world.connect("ann"), await world.connect("bob", device="d1")
    room = await world.group(ann, [])
    for _ in range(3):
        await ann.say(room)
    await ann.ask("conversation_update", {"conversation": room, "add": ["bob"]})
    [line] = (await bob.ask("conversations", {}))["conversations"]
    assert "last" not in line
    for _ in range(2):
        await ann.say(room)
    for question in ({"after": 0}, {"after": 2}, {}, {"before": 6}):
        page = await bob.ask("history", {"conversation": room, **question})
        assert sorted(m["seq"] for m in page["messages"]) == [4, 5]
        assert page["more"] is False
    page = await bob.ask("history", {"conversation": room, "limit": 2})
    assert ([m["seq"] for m in page["messages"]], page["more"]) == ([5, 4], False)
    page = await bob.ask("history", {"conversation": room, "limit": 1})
    assert ([m["seq"] for m in page["messages"]], page["more"]) == ([5], True)
    assert (await bob.ask("history", {"conversation": room, "before": 4}))["messages"] == []
    back = await world.connect("bob", device="d1", resume={"session": "x", "seen": {room: 0}})
    await world.settle()
    assert back.seqs(room) == [4, 5]
    await close_world(world)


async def test_update_when_as_operator_then_any_group_may_change(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    body = await world.messaging.create_conversation("group", "", ["ann"], "Sys", id="sys")
    assert (body["conversation"], body["members"]) == ("sys", 1)
    await world.messaging.update_conversation("sys", add=["bob"])
    await world.messaging.post_message("sys", b'"hello"', Encoding.JSON)
    assert (await bob.event("new_message"))["content"] == "hello"
    await world.messaging.update_conversation("sys", remove=["ann"], title="Other")
    await world.settle()
    assert changes(ann) == [("added", "sys"), ("changed", "sys"), ("removed", "sys")]
    with pytest.raises(RequestError):
        await world.messaging.update_conversation("none", title="x")
    page = json.loads(await world.messaging.history("sys", Encoding.JSON))
    assert [m["content"] for m in page["messages"]] == ["hello"]


async def test_membership_when_another_users_session_takes_the_slot_then_nothing_leaks(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    await bob.leave()
    eve = await world.connect("eve")  # the hub gives freed slots out again
    await ann.say(room, "private")
    await world.advance(200)
    assert eve.packets == []


async def test_private_payloads_when_two_rooms_in_one_tick_then_each_gets_its_own(world: World) -> None:
    ann = await world.connect("ann")
    bob, carl = await world.connect("bob"), await world.connect("carl")
    to_bob = (await ann.ask("conversation_create", {"kind": "direct", "members": ["bob"]}))["conversation"]
    to_carl = (await ann.ask("conversation_create", {"kind": "direct", "members": ["carl"]}))["conversation"]
    ann.feed_batch(
        [
            ["message", {"conversation": to_bob, "content": "for bob"}, 101],
            ["message", {"conversation": to_carl, "content": "for carl"}, 102],
        ]
    )
    await world.until(lambda: bob.bodies("new_message") and carl.bodies("new_message"))
    await world.settle()
    assert [m["content"] for m in bob.bodies("new_message")] == ["for bob"]
    assert [m["content"] for m in carl.bodies("new_message")] == ["for carl"]


# -- reading


async def test_history_when_paged_then_both_ways_without_holes(world: World) -> None:
    ann = await world.connect("ann", Encoding.MSGPACK)
    room = await world.group(ann, ["bob"])
    for index in range(25):
        ann.send("message", {"conversation": room, "content": index, "kind": "n"})
    await world.settle()
    bob = await world.connect("bob")
    seen: list[int] = []
    while True:
        body = {"conversation": room, "after": seen[-1] if seen else 0, "limit": 10}
        page = await bob.ask("history", body)
        seen += [m["seq"] for m in page["messages"]]
        assert [m["content"] for m in page["messages"]] == [m["seq"] - 1 for m in page["messages"]]
        if not page["more"]:
            break
    assert seen == list(range(1, 26))
    page = await bob.ask("history", {"conversation": room, "limit": 10})
    assert ([m["seq"] for m in page["messages"]], page["more"]) == (list(range(25, 15, -1)), True)
    page = await bob.ask("history", {"conversation": room, "before": 6, "limit": 10})
    assert ([m["seq"] for m in page["messages"]], page["more"]) == ([5, 4, 3, 2, 1], False)
    message = page["messages"][0]
    assert set(message) == {"id", "conversation", "seq", "sender", "device", "content", "kind", "time"}
    assert await bob.fails("history", {"conversation": room, "after": 1, "before": 5}) == "bad_request"
    assert await bob.fails("history", {"conversation": room, "limit": 501}) == "bad_request"
    assert await bob.fails("history", {"conversation": room, "limit": 0}) == "bad_request"
    page = await bob.ask("history", {"conversation": room, "after": 2**62})
    assert page == {"messages": [], "more": False}


async def test_history_when_messages_are_large_then_cut_at_the_bound(world: World) -> None:
    ann = await world.connect("ann")
    room = await world.group(ann, [])
    for _ in range(10):
        ann.send("message", {"conversation": room, "content": "\x01" * 15_000})  # six times as long in JSON
    await world.settle()
    page = await ann.ask("history", {"conversation": room, "after": 0})
    assert page["more"] is True
    assert [m["seq"] for m in page["messages"]] == [1, 2]
    assert len(json.dumps(page, separators=(",", ":"))) <= 262_144


async def test_history_when_many_pages_are_asked_for_at_once_then_metered_and_all_answered(
    tmp_path: Path,
) -> None:
    world = await open_world(
        tmp_path / "im.db", outbox_bytes={"standard": 700_000}, hub={"outbox_bytes": 700_000}
    )
    ann = await world.connect("ann")
    room = await world.group(ann, [])
    for _ in range(60):
        ann.send("message", {"conversation": room, "content": "x" * 10_000})
    await world.settle()
    ann.reading = False
    refs = [ann.send("history", {"conversation": room, "after": 0}) for _ in range(12)]
    refs.append(ann.send("conversations", {}))
    for _ in range(20):
        await asyncio.sleep(0.002)
        world.turn()
        assert world.hub.queued_bytes(ann.handle) <= 131_072 + 262_144 + 1024
    ann.reading = True
    for ref in refs[:-1]:
        page = (await ann.answer(ref))[1]
        assert [m["seq"] for m in page["messages"]] == list(range(1, 26))
    assert (await ann.answer(refs[-1]))[0] == "ok"
    assert ann.close_code is None
    # A connection that goes while pages wait leaves nobody waiting.
    ann.reading = False
    for _ in range(12):
        ann.send("history", {"conversation": room, "after": 0})
    world.hub.abort(ann.handle)
    await world.settle()
    assert not world.tasks
    await close_world(world)


async def test_history_when_the_outbox_is_small_then_pages_are_too(tmp_path: Path) -> None:
    world = await open_world(
        tmp_path / "im.db", outbox_bytes={"standard": 65_536}, hub={"outbox_bytes": 65_536}
    )
    ann = await world.connect("ann", device="d1")
    room = await world.group(ann, [])
    for _ in range(40):
        await ann.say(room, "x" * 5_000)
    ann.reading = False
    refs = [ann.send("history", {"conversation": room, "after": 0}) for _ in range(5)]
    for _ in range(10):
        await asyncio.sleep(0.002)
        world.turn()
    ann.reading = True
    for ref in refs:
        page = (await ann.answer(ref))[1]
        assert ([m["seq"] for m in page["messages"]], page["more"]) == ([1, 2, 3, 4], True)
    back = await world.connect("ann", device="d1", resume={"session": "x", "seen": {room: 0}})
    await world.until(lambda: len(back.seqs(room)) == 40)
    assert (ann.close_code, back.close_code) == (None, None)
    await close_world(world)


async def test_conversations_when_listed_then_newest_activity_first_and_paged(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    rooms = []
    for index in range(5):
        rooms.append(await world.group(ann, ["bob"], title=f"r{index}"))
        await world.advance(20)
    await bob.say(rooms[1], "newest")
    page = await ann.ask("conversations", {"limit": 3})
    assert [c["conversation"] for c in page["conversations"]] == [rooms[1], rooms[4], rooms[3]]
    assert page["more"] is True
    first = page["conversations"][0]
    assert (first["last"]["content"], first["last"]["sender"], first["unread"]) == ("newest", "bob", 1)
    assert "last" not in page["conversations"][1]
    page = await ann.ask("conversations", {"limit": 3, "after": rooms[3]})
    assert [c["conversation"] for c in page["conversations"]] == [rooms[2], rooms[0]]
    assert page["more"] is False


async def test_members_when_listed_then_paged_by_user(world: World) -> None:
    ann = await world.connect("ann")
    room = await world.group(ann, [f"u{i}" for i in range(5)])
    page = await ann.ask("members", {"conversation": room, "limit": 4})
    assert ([m["user"] for m in page["members"]], page["more"]) == (["ann", "u0", "u1", "u2"], True)
    page = await ann.ask("members", {"conversation": room, "after": "u2"})
    assert ([m["user"] for m in page["members"]], page["more"]) == (["u3", "u4"], False)


async def test_ping_when_asked_then_server_time(world: World) -> None:
    ann = await world.connect("ann")
    assert await ann.ask("ping", {}) == {"time": world.clock.now_ms()}


async def test_hello_when_answered_then_names_what_the_contract_says(world: World) -> None:
    ann = await world.connect("ann")
    assert ann.hello["protocol"] == 1
    assert (ann.hello["user"], ann.hello["tier"], ann.hello["resumed"]) == ("ann", "standard", False)
    assert ann.hello["device"]
    assert ann.hello["session"]
    assert isinstance(ann.hello["features"], list)
    claimed = await world.connect("ann", token_device="claimed", device="named")
    assert claimed.hello["device"] == "claimed"
    named = await world.connect("ann", device="named")
    assert named.hello["device"] == "named"


async def test_domain_when_everybody_has_gone_then_nothing_is_left(world: World) -> None:
    clients = [await world.connect(f"u{i}", acks=True) for i in range(20)]
    room = await world.group(clients[0], [f"u{i}" for i in range(20)])
    for client in clients:
        await client.say(room)
        client.send("typing", {"conversation": room, "typing": True}, ask=False)
        await client.ask("presence_subscribe", {"conversation": room})
    await asyncio.gather(*(client.leave() for client in clients))
    await world.advance(11_000)
    stats = world.messaging.stats()
    kept = {"presence_kept", *(name for name in stats if name.endswith("_total"))}
    # Their sessions may come back: the users and the conversation with its ring stay, and nothing else.
    assert world.messaging.sessions.stats()["detached"] == 20
    detached = {"users": 20, "conversations": 1, "rings": 1, "ring_bytes": stats["ring_bytes"]}
    assert {key: value for key, value in stats.items() if value and key not in kept} == detached
    await world.advance(3_600_000, step_ms=400_000)
    stats = world.messaging.stats()
    assert {key: value for key, value in stats.items() if value and key not in kept} == {}
    sessions = world.messaging.sessions.stats()
    assert sessions["expired_total"] == 20
    assert sessions["detached"] == sessions["live"] == sessions["detached_bytes"] == 0


async def test_error_when_store_is_closed_then_unavailable(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db")
    ann = await world.connect("ann")
    room = await world.group(ann, ["bob"])
    await world.store.close()
    with pytest.raises(AnswerError) as caught:
        await ann.say(room)
    assert caught.value.code == "unavailable"
    for event, body in (
        ("history", {"conversation": room}),
        ("members", {"conversation": room}),
        ("conversation_create", {"kind": "group", "members": ["x"]}),
    ):
        assert await ann.fails(event, body) == "unavailable"
    world.hub.shutdown()


async def test_create_when_its_members_are_too_many_for_the_time_then_rate_limited(tmp_path: Path) -> None:
    limiter = MemberLimiter(100)
    world = await open_world(
        tmp_path / "im.db",
        limit_members=lambda session, count: limiter.attempt(session.user_id, count, world.clock.ns),
    )
    ann, bob = await world.connect("ann"), await world.connect("bob")
    body = {"kind": "group", "members": [f"u{number}" for number in range(59)]}
    made = await ann.ask("conversation_create", body)
    assert made["members"] == 60
    assert await ann.fails("conversation_create", body) == "rate_limited"
    add = {"conversation": made["conversation"], "add": [f"v{number}" for number in range(50)]}
    assert await ann.fails("conversation_update", add) == "rate_limited"
    await bob.ask("conversation_create", body)
    await world.advance(30_000, step_ms=1_000)
    await ann.ask("conversation_update", add)
    await close_world(world)
