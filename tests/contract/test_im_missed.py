"""All that a session missed since a moment, or nothing: exactly once, in the order of commits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fastim._core.hub import Hub
from fastim.im.missed import MissedMessage
from fastim.im.session import Session
from fastim.im.sessions import MovedSession
from fastim.store.sqlite import SQLiteStore
from fastim.wire.native import decode_message, decode_value
from tests.contract.im_world import Client, World, close_world, open_world


class Recoverable(Session):
    """A session whose messages are stored with where they came from, as those of recoverable connections."""

    __slots__ = ("origin",)

    def __init__(self, hub: Hub, handle: int, encoding: int) -> None:
        super().__init__(hub, handle, encoding)
        self.origin = None


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await open_world(tmp_path / "store.db")
    made.session_type = Recoverable
    yield made
    await close_world(made)


async def come(world: World, user: str, encoding: int = 0) -> Client:
    """Connect, as a recoverable connection does."""
    client = await world.connect(user, encoding)
    client.session.origin = client.session.session_id
    return client


async def come_back(
    world: World, user: str, session: str, since: int, encoding: int = 0
) -> tuple[Client, list[Any] | None]:
    """Attach again, send what was missed, and begin; returns the bodies of that."""
    client = world.open(encoding)
    client.hello = await attach_again(world, client, user, session)
    missed = await world.messaging.missed(client.session, since)
    send(client, missed or [])
    world.messaging.begin(client.session)
    world.turn()
    client.session.origin = session
    return client, None if missed is None else [decoded(packet, encoding) for _, packet in missed]


async def attach_again(world: World, client: Client, user: str, session: str) -> dict[str, Any]:
    moved = MovedSession(session, 2, None)
    return await world.attach(client, user, resume={"session": session}, moved=moved, replay=False)


def send(client: Client, missed: list[MissedMessage]) -> None:
    for message in missed:
        client.session.hub.send(client.handle, message.packet)


def decoded(packet: bytes, encoding: int) -> Any:
    ((_, body, _),) = decode_message(packet, encoding)
    return decode_value(body, encoding)["content"]  # type: ignore[arg-type]


def contents(client: Client) -> list[Any]:
    return [body["content"] for body in client.bodies("new_message")]


@pytest.mark.parametrize("encoding", [0, 1])
async def test_missed_when_of_several_conversations_then_comes_in_the_order_of_commits(
    world: World, encoding: int
) -> None:
    ann, bob = await come(world, "ann", encoding), await come(world, "bob")
    groups = [await world.group(bob, ["ann"]) for _ in range(3)]
    await bob.say(groups[0], "got")
    await ann.event("new_message")
    since = world.messaging.last_key
    await ann.leave()
    for n in range(9):
        await bob.say(groups[n * 2 % 3], n)
    back, missed = await come_back(world, "ann", ann.hello["session"], since, encoding)
    assert missed == list(range(9))
    assert back.hello["resumed"]
    await bob.say(groups[1], "live")
    await back.event("new_message", 10)
    assert contents(back) == [*range(9), "live"]


async def test_missed_when_the_rings_have_it_then_nothing_is_read(world: World) -> None:
    ann, bob = await come(world, "ann"), await come(world, "bob")
    groups = [await world.group(bob, ["ann"]) for _ in range(3)]
    since = world.messaging.last_key
    await ann.leave()
    for group in groups[:2]:
        await bob.say(group, "new")
    reads = world.store.stats()["reads_total"]
    _, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == ["new", "new"]
    assert world.store.stats()["reads_total"] == reads


async def test_missed_when_some_of_it_is_older_than_the_ring_then_the_rest_is_read(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "store.db", ring_bytes=3_000)
    ann, bob = await come_to(world, "ann"), await come_to(world, "bob")
    group, other = await world.group(bob, ["ann"]), await world.group(bob, ["ann"])
    await bob.say(group, "before")
    keys = [world.messaging.last_key]
    await ann.leave()
    for n in range(20):
        await bob.say(group if n % 4 else other, n)
        keys.append(world.messaging.last_key)
    for after, since in enumerate(keys):
        client, missed = await come_back(world, "ann", ann.hello["session"], since)
        assert missed == list(range(after, 20))
        await client.leave()
    await close_world(world)


async def come_to(world: World, user: str) -> Client:
    world.session_type = Recoverable
    return await come(world, user)


async def test_missed_when_the_server_was_restarted_then_comes_from_the_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    world = await open_world(path)
    ann, bob = await come_to(world, "ann"), await come_to(world, "bob")
    group = await world.group(bob, ["ann"])
    await bob.say(group, "got")
    since = world.messaging.last_key
    await ann.say(group, "own")
    await bob.say(group, "missed 1")
    await close_world(world)
    world = await open_world(path)
    bob = await come_to(world, "bob")
    await bob.say(group, "missed 2")
    back, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == ["missed 1", "missed 2"]
    assert back.hello["session"] == ann.hello["session"]
    await close_world(world)


async def test_missed_when_sent_by_itself_then_is_left_out_and_by_the_same_device_not(world: World) -> None:
    ann = await come(world, "ann")
    twin = await world.connect("ann", device=ann.hello["device"])
    twin.session.origin = twin.session.session_id
    bob = await come(world, "bob")
    group = await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.say(group, "own")
    await twin.say(group, "the twin's")
    await bob.say(group, "bob's")
    await ann.leave()
    _, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == ["the twin's", "bob's"]


async def test_missed_when_more_than_is_sent_then_is_nothing(tmp_path: Path) -> None:
    world = await open_world(tmp_path / "store.db", missed_messages=5, missed_bytes=2_000)
    ann, bob = await come_to(world, "ann"), await come_to(world, "bob")
    group, other = await world.group(bob, ["ann"]), await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.leave()
    for n in range(5):
        await bob.say(group if n % 2 else other, n)
    client, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == list(range(5))
    await client.leave()
    await bob.say(group, "one more")
    client, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed is None
    await client.leave()
    since = world.messaging.last_key
    await bob.say(group, "x" * 1_900)
    _, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed is None  # the fields around it are too much
    await close_world(world)


async def test_missed_when_it_is_too_much_for_a_read_then_is_nothing_but_for_a_late_member(
    tmp_path: Path,
) -> None:
    world = await open_world(tmp_path / "store.db", missed_messages=5, ring_bytes=0)
    ann, bob, cat = [await come_to(world, user) for user in ("ann", "bob", "cat")]
    group = await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.leave()
    await cat.leave()
    for n in range(8):
        await bob.say(group, n)
    await bob.ask("conversation_update", {"conversation": group, "add": ["cat"]})
    await bob.say(group, "for cat too")
    _, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed is None
    _, missed = await come_back(world, "cat", cat.hello["session"], since)
    assert missed == ["for cat too"]
    await close_world(world)


class LateReplay(SQLiteStore):
    """Lets something happen behind each read of what was missed."""

    async def replay(self, wanted: Any, limit: int) -> Any:
        found = await super().replay(wanted, limit)
        await self.meanwhile()
        return found

    async def meanwhile(self) -> None:
        return


async def test_missed_when_more_comes_while_it_is_read_then_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    store = LateReplay(tmp_path / "store.db", synchronous="normal")
    world = await open_world(tmp_path / "store.db", store=store, ring_bytes=1_200)
    ann, bob = await come_to(world, "ann"), await come_to(world, "bob")
    group, other = await world.group(bob, ["ann"]), await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.leave()
    for n in range(6):
        await bob.say(group, n)
    news = iter((("a", "b", "c", "d"), ("e",)))

    async def meanwhile() -> None:
        for content in next(news, ()):
            await bob.say(group if content != "b" else other, content)

    store.meanwhile = meanwhile  # type: ignore[method-assign]
    back, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == [*range(6), "a", "b", "c", "d", "e"]
    await bob.say(other, "live")
    await back.event("new_message", 12)
    assert contents(back) == [*missed, "live"]
    await close_world(world)


async def test_missed_when_the_user_was_removed_meanwhile_then_nothing_of_it_comes(world: World) -> None:
    ann, bob = await come(world, "ann"), await come(world, "bob")
    group, other = await world.group(bob, ["ann"]), await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.leave()
    await bob.say(group, "not ann's any more")
    await bob.say(other, "ann's")
    await bob.ask("conversation_update", {"conversation": group, "remove": ["ann"]})
    _, missed = await come_back(world, "ann", ann.hello["session"], since)
    assert missed == ["ann's"]


async def test_missed_when_committed_and_not_reported_as_the_user_is_loaded_then_comes_once(
    tmp_path: Path,
) -> None:
    """The user is read from the store after the commit of a message whose report comes later."""
    path = tmp_path / "store.db"
    world = await open_world(path, session_life_s=0, offline_grace_ms=0)
    ann, bob = await come_to(world, "ann"), await come_to(world, "bob")
    group = await world.group(bob, ["ann"])
    since = world.messaging.last_key
    await ann.leave()
    await world.advance(100)
    for n in range(20):
        bob.send("message", {"conversation": group, "content": n})
        back, missed = await come_back(world, "ann", ann.hello["session"], since)
        await world.settle()
        assert missed is not None
        assert contents(back) == [n]
        since = world.messaging.last_key
        await back.leave()
        await world.advance(100)
    await close_world(world)


class Notebook:
    """A journal that writes down what it is told."""

    def __init__(self) -> None:
        self.number = 0
        self.kept: list[tuple[str, str, str]] = []
        self.waiting: set[Session] = set()

    def message_offset(self, key: int) -> bytes:
        return b""

    def keep_for(self, user: str, event: str, body: Mapping[str, Any], exclude: Session | None) -> bytes:
        self.number += 1
        self.kept.append((user, event, body["change"]))
        return b""

    def change(self) -> tuple[int, bytes]:
        self.number += 1
        return self.number, b""

    def is_waiting(self, session: Session) -> bool:
        return session in self.waiting


async def test_changes_when_conversations_change_then_each_is_told_as_it_is_now(world: World) -> None:
    notebook = Notebook()
    world.messaging.keep_journal(notebook)
    ann, bob = await come(world, "ann"), await come(world, "bob")
    first, second = await world.group(bob, ["ann"]), await world.group(bob, ["ann"])
    assert notebook.kept == [("bob", "conversation", "added"), ("ann", "conversation", "added")] * 2
    since = notebook.number
    for conversation, title in ((first, "old"), (second, "other"), (first, "new")):
        await bob.ask("conversation_update", {"conversation": conversation, "title": title})
    changes = world.messaging.changes(ann.session, since)
    told: list[Any] = [decode_value(decode_message(packet, 0)[0][1], 0) for _, packet in changes]  # type: ignore[arg-type]
    assert [(body["change"], body["conversation"]["title"]) for body in told] == [
        ("changed", "other"),
        ("changed", "new"),
    ]
    # Whoever made the last change has its answer; what was told is not told again.
    assert world.messaging.changes(bob.session, since) == []
    assert world.messaging.changes(ann.session, notebook.number) == []


async def test_told_when_a_session_is_waiting_then_comes_with_what_it_missed_alone(world: World) -> None:
    notebook = Notebook()
    world.messaging.keep_journal(notebook)
    ann, bob = await come(world, "ann"), await come(world, "bob")
    notebook.waiting.add(ann.session)
    await world.group(bob, ["ann"])
    assert ("ann", "conversation", "added") in notebook.kept
    notebook.waiting.clear()
    await world.group(bob, ["ann"])
    await ann.event("conversation")
    assert len(ann.bodies("conversation")) == 1
