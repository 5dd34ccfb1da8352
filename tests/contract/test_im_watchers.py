"""Subscriptions to presence: windows, frames that many share, what ends them, and their way over a resume."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastim.im.presence import MAX_MISSED
from tests.contract.im_world import Client, World, close_world, open_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await open_world(tmp_path / "im.db")
    yield world
    await close_world(world)


def told(client: Client) -> list[tuple[str, str]]:
    """User and status of each update so far, in order."""
    return [
        (update["user"], update["status"])
        for body in client.bodies("state_batch")
        for update in body["updates"]
        if update["type"] == "presence"
    ]


def frames(client: Client) -> int:
    return len(client.bodies("state_batch"))


async def come_together(world: World, users: list[str]) -> list[Client]:
    """Let users come while the clock stands still."""
    return [await world.connect(user) for user in users]


@pytest.mark.parametrize("by", ["conversation", "users"])
async def test_presence_when_many_come_at_once_then_one_frame_names_all_but_the_first(
    world: World, by: str
) -> None:
    ann = await world.connect("ann")
    users = [f"u{number:03}" for number in range(200)]
    room = await world.group(ann, users)
    wanted: Any = room if by == "conversation" else users
    await ann.ask("presence_subscribe", {by: wanted})
    await come_together(world, users)
    assert told(ann) == [("u000", "online")]
    await world.advance(200)
    assert sorted(told(ann)) == [(user, "online") for user in users]
    assert frames(ann) == 2


@pytest.mark.parametrize("by", ["conversation", "users"])
async def test_presence_when_a_frame_would_be_large_then_the_rest_comes_with_the_next_windows(
    tmp_path: Path, by: str
) -> None:
    world = await open_world(tmp_path / "im.db", state_bytes=4096)
    ann = await world.connect("ann")
    users = [f"u{number:03}" for number in range(100)]
    room = await world.group(ann, users)
    clients = await come_together(world, users)
    await ann.ask("presence_subscribe", {by: room if by == "conversation" else users})
    for client in clients:
        await client.ask("presence", {"status": "busy", "metadata": "x" * 300})
    await world.advance(2_000)
    assert sorted(told(ann)) == [(user, "busy") for user in users]
    sizes = [len(json.dumps(body, separators=(",", ":"))) for body in ann.bodies("state_batch")]
    assert max(sizes) <= 4096
    assert 9 < len(sizes) < 20
    await close_world(world)


async def test_presence_when_subscribers_watch_different_users_then_each_is_told_of_its_own(
    world: World,
) -> None:
    users = [f"u{number}" for number in range(12)]
    clients = await come_together(world, users)
    await world.group(clients[0], users[1:])
    for number, client in enumerate(clients):
        await client.ask("presence_subscribe", {"users": [users[(number + k) % 12] for k in (1, 2, 3)]})
    for status in ("busy", "away", "busy"):
        for client in clients:
            await client.ask("presence", {"status": status})
    await world.advance(300)
    for number, client in enumerate(clients):
        latest = dict(told(client))
        assert latest == {users[(number + k) % 12]: "busy" for k in (1, 2, 3)}
        assert frames(client) <= 4


async def test_presence_when_encodings_differ_then_both_are_told_the_same(world: World) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob", 1)
    carl = await world.connect("carl")
    room = await world.group(ann, ["bob", "carl"])
    for client in (ann, bob):
        await client.ask("presence_subscribe", {"users": ["carl"]})
    await carl.ask("presence", {"status": "busy"})
    await carl.ask("presence", {"status": "away"})
    await world.advance(200)
    assert told(ann) == told(bob) == [("carl", "busy"), ("carl", "away")]
    for client in (ann, bob):
        await client.ask("presence_subscribe", {"conversation": room})
        await client.ask("presence_subscribe", {"users": ["carl"], "unsubscribe": True})
        client.clear()
    await carl.ask("presence", {"status": "busy"})
    assert told(ann) == told(bob) == [("carl", "busy")]


async def test_presence_when_a_watched_user_is_removed_while_away_then_its_return_is_not_told(
    world: World,
) -> None:
    ann, eve = await world.connect("ann"), await world.connect("eve")
    room = await world.group(ann, ["bob", "eve"])
    other = await world.group(ann, ["bob"])
    for client in (ann, eve):
        await client.ask("presence_subscribe", {"users": ["bob"]})
    await world.messaging.update_conversation(room, remove=["bob"])
    bob = await world.connect("bob")
    await world.advance(200)
    assert told(ann) == [("bob", "online")]
    assert told(eve) == []
    await bob.ask("presence_subscribe", {"users": ["ann"]})
    await world.messaging.update_conversation(other, remove=["bob"])
    await ann.ask("presence", {"status": "busy"})
    await bob.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert (told(bob), told(ann)) == ([], [("bob", "online")])


async def test_presence_when_the_last_subscriber_of_a_conversation_goes_then_its_topic_does(
    world: World,
) -> None:
    ann, bob = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    before = world.hub.stats()["topics"]
    for client in (ann, bob):
        await client.ask("presence_subscribe", {"conversation": room})
    assert world.hub.stats()["topics"] == before + 1
    await ann.ask("presence_subscribe", {"conversation": room, "unsubscribe": True})
    assert world.hub.stats()["topics"] == before + 1
    await bob.leave()
    assert world.hub.stats()["topics"] == before
    await ann.ask("presence", {"status": "busy"})
    await world.advance(200)


# -- over a resume


async def watching(world: World) -> tuple[Client, Client, str]:
    ann, bob = await world.connect("ann", device="a"), await world.connect("bob")
    room = await world.group(ann, ["bob", "carl"])
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    await ann.ask("presence_subscribe", {"conversation": room})
    await ann.leave()
    return ann, bob, room


async def resumed(world: World, gone: Client, **fields: Any) -> Client:
    return await world.connect("ann", device="a", resume={"session": gone.hello["session"]}, **fields)


async def test_presence_when_a_session_resumes_then_its_subscriptions_go_on_and_what_changed_is_told(
    world: World,
) -> None:
    ann, bob, _ = await watching(world)
    await bob.ask("presence", {"status": "busy"})
    carl = await world.connect("carl")
    await world.advance(1_000)
    back = await resumed(world, ann)
    assert (back.hello["resumed"], back.hello["presence"]) == (True, True)
    assert sorted(told(back)) == [("bob", "busy"), ("carl", "online")]
    back.clear()
    await carl.ask("presence", {"status": "away"})
    await world.advance(200)
    assert told(back) == [("carl", "away")]


async def test_presence_when_a_live_session_is_taken_over_then_the_new_connection_is_told_alone(
    world: World,
) -> None:
    ann, bob = await world.connect("ann", device="a"), await world.connect("bob")
    await world.group(ann, ["bob"])
    await ann.ask("presence_subscribe", {"users": ["bob"]})
    back = await resumed(world, ann)
    await bob.ask("presence", {"status": "busy"})
    assert back.hello["presence"]
    assert told(back) == [("bob", "busy")]
    assert told(ann) == []


async def test_presence_when_too_much_changed_meanwhile_then_the_resumed_client_is_told_to_subscribe_anew(
    world: World,
) -> None:
    ann, bob, _ = await watching(world)
    helper = await world.connect("helper")
    await helper.ask("presence_subscribe", {"users": []})
    users = [f"u{number}" for number in range(MAX_MISSED + 1)]
    for user in users:
        client = await world.connect(user)
        await client.leave()
    back = await resumed(world, ann)
    assert (back.hello["resumed"], back.hello["presence"]) == (True, False)
    await bob.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert told(back) == []
    assert world.messaging.stats()["presence_kept"] == 0


async def test_presence_when_removed_while_away_then_the_resume_brings_no_subscription_back(
    world: World,
) -> None:
    ann, bob, room = await watching(world)
    await world.messaging.update_conversation(room, remove=["ann"])
    back = await resumed(world, ann)
    await bob.ask("presence", {"status": "busy"})
    await world.advance(200)
    assert told(back) == []


@pytest.mark.parametrize("by", ["conversation", "users"])
async def test_presence_when_nothing_is_left_to_watch_after_a_resume_then_the_session_goes_on_without(
    world: World, by: str
) -> None:
    ann, bob = await world.connect("ann", device="a"), await world.connect("bob")
    room, other = await world.group(ann, ["bob"]), await world.group(ann, ["carl"])
    carl = await world.connect("carl")
    await ann.ask("presence_subscribe", {by: room if by == "conversation" else ["bob"]})
    await ann.leave()
    await world.messaging.update_conversation(room, remove=["ann"])
    await bob.ask("presence", {"status": "busy"})
    back = await resumed(world, ann)
    await carl.say(other)
    await world.settle()
    assert (back.seqs(other), told(back)) == ([1], [])
    assert world.messaging.stats()["presence_watchers"] == 0


async def test_presence_when_a_session_is_over_then_its_subscriptions_are_forgotten(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db", session_life_s=60)
    await watching(world)
    assert world.messaging.stats()["presence_kept"] == 2
    await world.advance(61_000, step_ms=1_000)
    assert world.messaging.stats()["presence_kept"] == 0
    await close_world(world)


# -- over a restart


async def restarted(world: World, path: Path, **options: Any) -> World:
    """End a world in order and open another on the same file."""
    await close_world(world)
    again = await open_world(path, **options)
    again.clock.ns += 5_000 * 1_000_000
    return again


async def test_presence_when_restarted_then_those_who_come_back_are_no_news(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "im.db")
    ann, bob = await world.connect("ann"), await world.connect("bob")
    await world.connect("carl")
    room = await world.group(ann, ["bob", "carl", "eve"])
    await bob.ask("presence", {"status": "busy", "metadata": "gone with the restart"})
    world = await restarted(world, tmp_path / "im.db")
    ann = await world.connect("ann")
    answer = await ann.ask("presence_subscribe", {"conversation": room})
    assert {user["user"]: user["status"] for user in answer["users"]} == {
        "ann": "online",
        "bob": "busy",
        "carl": "online",
        "eve": "offline",
    }
    await world.connect("carl")
    await world.connect("eve")
    await world.advance(200)
    assert told(ann) == [("eve", "online")]
    bob = await world.connect("bob")
    await world.advance(200)
    assert told(ann)[1:] == [("bob", "online")]  # busy before: that has changed
    await close_world(world)


@pytest.mark.parametrize("by", ["conversation", "users"])
async def test_presence_when_restarted_and_somebody_stays_away_then_offline_since_the_end(
    tmp_path: Path, by: str
) -> None:
    world = await open_world(tmp_path / "im.db")
    ann, _ = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    ended_ms = world.clock.now_ms()
    world = await restarted(world, tmp_path / "im.db", restart_grace_ms=20_000)
    ann = await world.connect("ann")
    await ann.ask("presence_subscribe", {by: room if by == "conversation" else ["bob"]})
    await world.advance(14_000)
    assert told(ann) == []
    await world.advance(7_000)
    [update] = ann.bodies("state_batch")[0]["updates"]
    assert (update["user"], update["status"], update["last_seen"]) == ("bob", "offline", ended_ms)
    # What was kept counts once.
    world = await restarted(world, tmp_path / "im.db")
    world = await restarted(world, tmp_path / "im.db")
    ann = await world.connect("ann")
    answer = await ann.ask("presence_subscribe", {"users": ["bob"]})
    assert answer["users"][0]["status"] == "offline"
    await close_world(world)


@pytest.mark.parametrize("by", ["conversation", "users"])
async def test_presence_when_restarted_and_given_up_while_away_then_the_resumed_session_is_told(
    tmp_path: Path, by: str
) -> None:
    world = await open_world(tmp_path / "im.db")
    ann, _ = await world.connect("ann"), await world.connect("bob")
    room = await world.group(ann, ["bob"])
    world = await restarted(world, tmp_path / "im.db", restart_grace_ms=20_000)
    ann = await world.connect("ann", device="a")
    await ann.ask("presence_subscribe", {by: room if by == "conversation" else ["bob"]})
    await ann.leave()
    await world.advance(21_000)
    back = await resumed(world, ann)
    assert (back.hello["resumed"], back.hello["presence"]) == (True, True)
    assert [each for each in told(back) if each[0] == "bob"] == [("bob", "offline")]
    await close_world(world)


@pytest.mark.parametrize("restart", [False, True])
async def test_presence_when_very_many_stay_away_then_some_a_tick_turn_offline_and_all_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool
) -> None:
    monkeypatch.setattr("fastim.im.presence.LEAVING_A_TICK", 2)
    world = await open_world(tmp_path / "im.db")
    ann, users = await world.connect("ann"), [f"u{number}" for number in range(5)]
    room = await world.group(ann, users)
    clients = await come_together(world, users)
    if restart:
        world = await restarted(world, tmp_path / "im.db", restart_grace_ms=10_000)
        ann = await world.connect("ann")
    await ann.ask("presence_subscribe", {"conversation": room})
    for client in clients if not restart else ():
        await client.leave()
    world.clock.ns += 10_000 * 1_000_000
    left = []
    for _ in range(3):
        world.messaging.tick(world.clock.ns)
        stats = world.messaging.stats()
        left.append(stats["users_expected"] + stats["users_leaving"])
    assert left == [3, 1, 0]
    await world.advance(200)
    assert sorted(told(ann)) == [(user, "offline") for user in users]
    await close_world(world)


async def test_presence_when_restarts_are_to_be_told_or_the_end_was_long_ago_then_nobody_is_there(
    tmp_path: Path,
) -> None:
    for down_ms, options in ((0, {"restart_grace_ms": 0}), (700_000, {})):
        world = await open_world(tmp_path / f"{down_ms}.db")
        ann, _ = await world.connect("ann"), await world.connect("bob")
        await world.group(ann, ["bob"])
        world.clock.epoch_ms -= down_ms
        world = await restarted(world, tmp_path / f"{down_ms}.db", **options)
        ann = await world.connect("ann")
        answer = await ann.ask("presence_subscribe", {"users": ["bob"]})
        assert answer["users"][0]["status"] == "offline"
        await close_world(world)
