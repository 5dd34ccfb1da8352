"""Typing and presence: states, not events; windows, grace times, and only to those concerned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.im.watchers import Watchers
from tests.contract.im_world import AnswerError, Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


async def pair(world: World) -> tuple[Client, Client, str]:
    ann, bob = await world.connect("ann"), await world.connect("bob", device="d1")
    return ann, bob, await world.group(ann, ["bob"])


def typing(client: Client) -> list[tuple[str, bool]]:
    return [
        (u["user"], u["typing"])
        for body in client.bodies("state_batch")
        for u in body["updates"]
        if u["type"] == "typing"
    ]


def presence(client: Client) -> list[tuple[str, str]]:
    return [
        (u["user"], u["status"])
        for body in client.bodies("state_batch")
        for u in body["updates"]
        if u["type"] == "presence"
    ]


def type_in(client: Client, room: str, on: bool = True) -> None:
    client.send("typing", {"conversation": room, "typing": on}, ask=False)


# -- typing


@pytest.mark.parametrize("encoding", [Encoding.JSON, Encoding.MSGPACK])
async def test_typing_when_started_then_others_are_told_at_once_and_not_oneself(
    world: World, encoding: int
) -> None:
    ann, bob, room = await pair(world)
    carl = await world.connect("ann", encoding, device="second")
    type_in(bob, room)
    for client in (ann, carl):
        [body] = client.bodies("state_batch")
        assert body["conversation"] == room
        [update] = body["updates"]
        assert update == {"type": "typing", "user": "bob", "typing": True, "time": update["time"]}
    assert bob.bodies("state_batch") == []


async def test_typing_when_stopped_in_the_window_then_only_the_stop_comes_at_its_end(world: World) -> None:
    ann, bob, room = await pair(world)
    type_in(bob, room)
    type_in(bob, room, False)
    type_in(bob, room)
    type_in(bob, room, False)
    assert typing(ann) == [("bob", True)]
    await world.advance(120)
    assert typing(ann) == [("bob", True), ("bob", False)]


async def test_typing_when_started_and_stopped_in_an_open_window_then_the_latest_wins(world: World) -> None:
    ann, bob, room = await pair(world)
    carl = await world.connect("carl")
    await ann.ask("conversation_update", {"conversation": room, "add": ["carl"]})
    type_in(bob, room)  # opens the window
    type_in(carl, room)
    type_in(carl, room, False)
    await world.advance(120)
    assert ("carl", True) not in typing(ann)
    assert [t for t in typing(ann) if t[0] == "carl"] == [("carl", False)]


async def test_typing_when_repeated_then_told_once(world: World) -> None:
    ann, bob, room = await pair(world)
    for _ in range(10):
        type_in(bob, room)
        await world.advance(500)
    assert typing(ann) == [("bob", True)]


async def test_typing_when_nothing_follows_then_it_ends_by_itself(world: World) -> None:
    ann, bob, room = await pair(world)
    type_in(bob, room)
    await world.advance(4_500)
    type_in(bob, room)  # lives longer
    await world.advance(4_500)
    assert typing(ann) == [("bob", True)]
    await world.advance(700)
    assert typing(ann) == [("bob", True), ("bob", False)]
    await world.advance(300)
    assert world.messaging.stats()["typing_conversations"] == 0


async def test_typing_when_the_connection_is_cut_then_it_ends(world: World) -> None:
    ann, bob, room = await pair(world)
    type_in(bob, room)
    await world.advance(200)
    await bob.leave()
    await world.advance(200)
    assert typing(ann) == [("bob", True), ("bob", False)]


async def test_typing_when_one_device_of_two_leaves_then_the_others_typing_stays(world: World) -> None:
    ann, bob, room = await pair(world)
    phone = await world.connect("bob", device="phone")
    type_in(bob, room)
    type_in(phone, room)
    await world.advance(200)
    await bob.leave()
    await world.advance(200)
    assert typing(ann) == [("bob", True)]


async def test_typing_when_many_type_then_twenty_are_named_and_the_rest_counted(world: World) -> None:
    ann = await world.connect("ann")
    users = [f"u{i:02}" for i in range(30)]
    clients = [await world.connect(user) for user in users]
    room = await world.group(ann, users)
    for client in clients:
        type_in(client, room)
    await world.advance(120)
    named = {user for user, on in typing(ann) if on}
    assert len(named) == 20
    assert ann.bodies("state_batch")[-1]["more"] == 10
    ann.clear()
    for user, client in zip(users, clients, strict=True):
        if user in named:
            type_in(client, room, False)
    await world.advance(120)
    state: dict[str, bool] = dict.fromkeys(named, True)
    state.update(typing(ann))
    assert {user for user, on in state.items() if on} == set(users) - named
    assert "more" not in ann.bodies("state_batch")[-1]


async def test_typing_when_one_is_named_in_the_place_of_another_then_that_one_is_told_too(
    world: World,
) -> None:
    ann, users = await world.connect("ann"), [f"u{i:02}" for i in range(21)]
    clients = [await world.connect(user) for user in users]
    room = await world.group(ann, users)
    for client in clients:
        type_in(client, room)
    await world.advance(300)
    [unnamed] = set(users) - {user for user, _ in typing(ann)}
    assert unnamed != users[0]
    clients[0].clear()
    type_in(clients[0], room, False)
    await world.advance(200)
    assert (unnamed, True) in typing(clients[0])


async def test_typing_when_removed_from_the_conversation_then_it_ends(world: World) -> None:
    ann, bob, room = await pair(world)
    type_in(bob, room)
    await world.advance(200)
    await ann.ask("conversation_update", {"conversation": room, "remove": ["bob"]})
    await world.advance(200)
    assert typing(ann) == [("bob", True), ("bob", False)]


async def test_states_when_the_reader_is_behind_then_dropped_and_answers_are_not(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", hub={"outbox_bytes": 65_536})
    ann, bob, room = await pair(world)
    ann.reading = False
    ref = ann.send("ping", {})
    for _ in range(2000):
        type_in(bob, room)
        world.clock.ns += 200_000_000
        world.messaging.tick(world.clock.ns)
        type_in(bob, room, False)
        world.clock.ns += 200_000_000
        world.messaging.tick(world.clock.ns)
    assert world.hub.queued_bytes(ann.handle) <= 65_536
    ann.reading = True
    assert (await ann.answer(ref))[0] == "ok"
    assert ann.close_code is None
    await close_world(world)


async def test_states_when_the_reader_is_behind_then_the_latest_of_each_user_waits(world: World) -> None:
    ann, bob, room = await pair(world)
    carl = await world.connect("carl")
    await ann.ask("conversation_update", {"conversation": room, "add": ["carl"]})
    await ann.ask("presence_subscribe", {"conversation": room})
    ann.clear()
    ann.reading = False
    for number in range(20):
        type_in(bob, room, number % 2 == 0)
        await world.advance(120)
        await carl.ask("presence", {"status": ("busy", "away")[number % 2]})
        await world.advance(120)
    type_in(carl, room)
    await world.advance(120)
    ann.reading = True
    await world.settle()
    assert sorted(typing(ann)) == [("bob", False), ("carl", True)]
    assert presence(ann) == [("carl", "away")]


# -- presence


async def test_presence_when_subscribed_then_answer_has_the_state_and_changes_follow(world: World) -> None:
    ann, bob, _ = await pair(world)
    answer = await ann.ask("presence_subscribe", {"users": ["bob", "ann"]})
    assert answer == {
        "users": [
            {"user": "bob", "status": "online", "last_seen": None, "metadata": None},
            {"user": "ann", "status": "online", "last_seen": None, "metadata": None},
        ]
    }
    metadata = {"mood": [1, 2.5, "π"]}
    assert await bob.ask("presence", {"status": "busy", "metadata": metadata}) == {}
    [body] = ann.bodies("state_batch")
    assert "conversation" not in body
    [update] = body["updates"]
    assert update["type"] == "presence"
    assert (update["user"], update["status"], update["metadata"]) == ("bob", "busy", metadata)


async def test_presence_when_nobody_subscribed_then_nobody_is_told(world: World) -> None:
    ann, bob, _ = await pair(world)
    await bob.ask("presence", {"status": "away"})
    await world.advance(500)
    assert presence(ann) == []


async def test_presence_when_metadata_crosses_encodings_then_it_is_the_same_value(world: World) -> None:
    ann = await world.connect("ann", Encoding.MSGPACK)
    bob = await world.connect("bob", Encoding.JSON)
    await world.group(ann, ["bob"])
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await bob.ask("presence", {"status": "busy", "metadata": {"b": {"$bytes": "AAEC"}}})
    assert ann.bodies("state_batch")[0]["updates"][0]["metadata"] == {"b": b"\x00\x01\x02"}
    assert await bob.fails("presence", {"status": "busy", "metadata": "x" * 1100}) == "bad_request"


async def test_presence_when_changed_often_then_first_at_once_and_the_latest_at_the_windows_end(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    carl = await world.connect("carl")
    await ann.ask("conversation_update", {"conversation": room, "add": ["carl"]})
    await ann.ask("presence_subscribe", {"users": ["bob", "carl"]})
    for status in ("busy", "away", "online", "away"):
        await bob.ask("presence", {"status": status})
    await carl.ask("presence", {"status": "busy"})
    assert presence(ann) == [("bob", "busy")]
    await world.advance(120)
    assert sorted(presence(ann)[1:]) == [("bob", "away"), ("carl", "busy")]
    assert len(ann.bodies("state_batch")) == 2


async def test_presence_when_several_devices_then_the_busiest_counts(world: World) -> None:
    ann, bob, _ = await pair(world)
    phone = await world.connect("bob", device="phone")
    await ann.ask("presence_subscribe", {"users": ["bob"]})

    async def told() -> str:
        await world.advance(200)
        return presence(ann)[-1][1] if presence(ann) else ""

    await bob.ask("presence", {"status": "away"})
    assert await told() == ""  # the phone is online
    await phone.ask("presence", {"status": "away"})
    assert await told() == "away"
    await bob.ask("presence", {"status": "busy"})
    assert await told() == "busy"
    await phone.ask("presence", {"status": "online"})
    assert await told() == "busy"
    await bob.leave()
    assert await told() == "online"


async def test_presence_when_one_of_several_devices_leaves_then_not_offline(world: World) -> None:
    ann, bob, _ = await pair(world)
    await world.connect("bob", device="phone")
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await bob.leave()
    await world.advance(60_000, step_ms=1000)
    assert presence(ann) == []


async def test_presence_when_the_last_device_leaves_then_offline_after_the_grace_time(world: World) -> None:
    ann, bob, _ = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    left_ms = world.clock.now_ms()
    await bob.leave()
    await world.advance(9_900)
    assert presence(ann) == []
    await world.advance(200)
    [update] = ann.bodies("state_batch")[0]["updates"]
    assert (update["status"], update["last_seen"], update["metadata"]) == ("offline", left_ms, None)
    answer = await ann.ask("presence_subscribe", {"users": ["bob"]})
    assert answer["users"] == [{"user": "bob", "status": "offline", "last_seen": left_ms, "metadata": None}]
    await world.connect("bob", device="d1")
    assert presence(ann)[-1] == ("bob", "online")


async def test_presence_when_back_within_the_grace_time_then_nobody_is_told(world: World) -> None:
    ann, bob, _ = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    for _ in range(5):
        await bob.leave()
        await world.advance(5_000)
        bob = await world.connect("bob", device="d1")
        await world.advance(5_000)
    assert presence(ann) == []


async def test_presence_when_a_busy_session_resumes_then_still_busy(world: World) -> None:
    ann, bob, _ = await pair(world)
    await bob.ask("presence", {"status": "busy", "metadata": "talk"})
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await bob.leave()
    await world.advance(2_000)
    await world.connect("bob", device="d1", resume={"session": bob.hello["session"]})
    await world.advance(20_000)
    assert presence(ann) == []
    answer = await ann.ask("presence_subscribe", {"users": ["bob"]})
    assert (answer["users"][0]["status"], answer["users"][0]["metadata"]) == ("busy", "talk")


async def test_presence_when_connected_for_hours_then_still_online(world: World) -> None:
    ann, _, _ = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await world.advance(3 * 3_600_000, step_ms=10_000)
    assert presence(ann) == []


async def test_presence_when_the_server_goes_then_nobody_is_told_that_everybody_left(world: World) -> None:
    ann, bob, _ = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    world.messaging.drain()
    await bob.leave()
    await world.advance(20_000)
    assert presence(ann) == []


async def test_presence_when_no_conversation_is_shared_then_forbidden_and_never_told(world: World) -> None:
    ann, _, _ = await pair(world)
    eve = await world.connect("eve")
    for users in (["ann"], ["nobody"], ["ann", "bob"]):
        with pytest.raises(AnswerError) as caught:
            await eve.ask("presence_subscribe", {"users": users})
        assert caught.value.code == "forbidden"
    await ann.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert presence(eve) == []
    # Those who share one are answered, the others as if they did not exist.
    answer = await ann.ask("presence_subscribe", {"users": ["bob", "eve", "nobody"]})
    assert [u["user"] for u in answer["users"]] == ["bob"]


async def test_presence_when_the_user_is_offline_then_sharing_is_read_from_the_store(world: World) -> None:
    ann = await world.connect("ann")
    await world.group(ann, ["gone", "away"])
    await ann.ask("conversation_create", {"kind": "direct", "members": ["peer"]})
    answer = await ann.ask("presence_subscribe", {"users": ["peer", "gone", "stranger"]})
    assert [(u["user"], u["status"]) for u in answer["users"]] == [("peer", "offline"), ("gone", "offline")]
    await world.connect("gone")
    await world.connect("peer")
    await world.advance(200)
    assert presence(ann) == [("gone", "online"), ("peer", "online")]


async def test_presence_when_the_shared_conversation_ends_then_no_more_is_told(world: World) -> None:
    ann, bob, room = await pair(world)
    await bob.ask("presence_subscribe", {"users": ["ann"]})
    await bob.ask("presence_subscribe", {"conversation": room})
    await ann.ask("conversation_update", {"conversation": room, "remove": ["bob"]})
    await ann.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert presence(bob) == []
    assert await bob.fails("presence_subscribe", {"users": ["ann"]}) == "forbidden"


async def test_presence_when_subscribed_to_a_conversation_then_later_members_too(
    world: World,
) -> None:
    ann, bob, room = await pair(world)
    answer = await ann.ask("presence_subscribe", {"conversation": room})
    assert {u["user"]: u["status"] for u in answer["users"]} == {"ann": "online", "bob": "online"}
    await ann.ask("conversation_update", {"conversation": room, "add": ["carl"]})
    carl = await world.connect("carl")
    await world.advance(200)
    assert presence(ann) == [("carl", "online")]
    await bob.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert presence(ann)[-1] == ("bob", "busy")
    assert await ann.ask("presence_subscribe", {"conversation": room, "unsubscribe": True}) == {"users": []}
    ann.clear()
    await carl.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert presence(ann) == []


async def test_presence_when_unsubscribed_then_silent(world: World) -> None:
    ann, bob, _ = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await ann.ask("presence_subscribe", {"users": ["bob", "never"], "unsubscribe": True})
    await bob.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert presence(ann) == []
    assert world.messaging.stats()["presence_watchers"] == 0


async def test_presence_when_the_subscriber_leaves_then_nothing_is_left_of_it(world: World) -> None:
    ann, bob, room = await pair(world)
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await ann.ask("presence_subscribe", {"conversation": room})
    await ann.leave()
    assert world.messaging.stats()["presence_watchers"] == 0
    await bob.ask("presence", {"status": "busy"})


async def test_presence_when_shared_only_is_off_then_anybody_may_look(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", presence_shared_only=False)
    eve: Client = await world.connect("eve")
    bob = await world.connect("bob")
    answer: dict[str, Any] = await eve.ask("presence_subscribe", {"users": ["bob", "nobody"]})
    assert [u["status"] for u in answer["users"]] == ["online", "offline"]
    await bob.ask("presence", {"status": "away"})
    assert presence(eve) == [("bob", "away")]
    await close_world(world)


async def test_presence_when_a_user_has_many_devices_then_each_change_counts(world: World) -> None:
    ann, bob, _ = await pair(world)
    devices = [bob, *[await world.connect("bob", device=f"d{i}") for i in range(2, 30)]]
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    for device in devices:
        await device.ask("presence", {"status": "away"})
    await devices[10].ask("presence", {"status": "busy", "metadata": 10})
    await world.advance(200)
    await devices[20].ask("presence", {"status": "busy", "metadata": 20})
    await world.advance(200)
    await devices[20].leave()
    await world.advance(200)
    await devices[10].leave()
    await world.advance(200)
    told = [(u["status"], u["metadata"]) for body in ann.bodies("state_batch") for u in body["updates"]]
    assert told == [("away", None), ("busy", 10), ("busy", 20), ("busy", 10), ("away", None)]
    for device in devices:
        if device in world.clients.values():
            await device.leave()
    await world.advance(11_000)
    assert presence(ann)[-1] == ("bob", "offline")


async def test_presence_when_a_device_floods_changes_then_the_subscribers_are_looked_for_once_a_window(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, bob, room = await pair(world)
    await ann.ask("presence_subscribe", {"conversation": room})
    await world.advance(200)
    looks = 0
    tell = Watchers.tell

    def counting(*arguments: Any) -> None:
        nonlocal looks
        looks += 1
        tell(*arguments)

    monkeypatch.setattr(Watchers, "tell", counting)
    before = len(ann.bodies("state_batch"))
    for number in range(500):
        bob.send("presence", {"status": ("busy", "away")[number % 2]}, ask=False)
    assert looks == 1
    await world.advance(300)
    assert looks == 2
    told = [update["status"] for body in ann.bodies("state_batch")[before:] for update in body["updates"]]
    assert told == ["busy", "away"]


async def test_presence_when_removed_while_the_members_are_read_then_forbidden(world: World) -> None:
    ann, bob, room = await pair(world)
    ref = bob.send("presence_subscribe", {"conversation": room})
    removal = ann.send("conversation_update", {"conversation": room, "remove": ["bob"]})
    answer = await bob.answer(ref)
    assert answer[0] == "error"
    assert answer[1]["code"] == "forbidden"
    assert (await ann.answer(removal))[0] == "ok"
