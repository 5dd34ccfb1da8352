"""Typing and presence on a running server: storms, windows, slow readers, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

from tests.e2e.serving import WAIT_S, Client, ServerProcess, Start, open_client, rest
from tests.support.herd import herding

USERS = 1_000
WATCHERS = 5
UNLIMITED = {
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
}


class Seen:
    """What a client was told of states: frames, updates, and where each user stands."""

    def __init__(self) -> None:
        self.frames = 0
        self.updates = 0
        self.largest = 0
        self.named = 0
        self.presence: dict[str, str] = {}
        self.typing: dict[str, bool] = {}
        self.typists = 0

    def take(self, body: dict[str, Any]) -> None:
        self.frames += 1
        self.updates += len(body["updates"])
        self.largest = max(self.largest, len(json.dumps(body, separators=(",", ":"))))
        for update in body["updates"]:
            if update["type"] == "typing":
                self.typing[update["user"]] = update["typing"]
            else:
                self.presence[update["user"]] = update["status"]
        if "conversation" in body:
            self.named = max(self.named, sum(self.typing.values()))
            self.typists = sum(self.typing.values()) + body.get("more", 0)


async def watch_until(client: Client, seen: Seen, done: Any) -> None:
    async with asyncio.timeout(3 * WAIT_S):
        while not done(seen):
            seen.take(await client.receive_event("state_batch"))


async def test_storm_when_a_thousand_come_and_type_at_once_then_a_tenth_of_the_frames_tell_of_all(
    start: Start, tmp_path: Path
) -> None:
    server = start(**UNLIMITED)
    users = [f"u{number:04}" for number in range(USERS)]
    watchers = [f"w{number}" for number in range(WATCHERS)]
    tokens = tmp_path / "tokens"
    tokens.write_text("\n".join(server.token(user) for user in users))
    with rest(server) as http:
        body = {"members": [*users, *watchers], "conversation": "storm", "creator": "owner"}
        assert http.post("/v1/conversations", json=body).status_code == 201
    async with contextlib.AsyncExitStack() as stack:
        watching = [await stack.enter_async_context(open_client(server, user)) for user in watchers]
        for client in watching:
            event, _ = await client.request("presence_subscribe", {"conversation": "storm"})
            assert event == "ok"
        herd = stack.enter_context(herding())
        online = [Seen() for _ in watching]
        await asyncio.gather(
            herd.ask("connect", port=server.port, tokens=str(tokens)),
            *(
                watch_until(client, seen, lambda seen: len(seen.presence) >= USERS)
                for client, seen in zip(watching, online, strict=True)
            ),
        )
        for seen in online:
            assert set(users) <= {user for user, status in seen.presence.items() if status == "online"}
            assert seen.frames <= USERS // 10
            assert seen.largest <= 32_768
        typing = [Seen() for _ in watching]
        packet = ["typing", {"conversation": "storm", "typing": True}]
        await asyncio.gather(
            herd.ask("send", packets=[[index, packet] for index in range(USERS)]),
            *(
                watch_until(client, seen, lambda seen: seen.typists >= USERS)
                for client, seen in zip(watching, typing, strict=True)
            ),
        )
        for seen in typing:
            assert seen.named == 20
            assert seen.updates <= 20
            assert seen.frames <= USERS // 10
        assert (await watching[0].request("ping", {}))[0] == "ok"
    assert server.stop() == 0


async def test_typing_when_nothing_follows_then_it_ends_by_itself(start: Start) -> None:
    server = start(FASTIM_MESSAGING__TYPING_TIMEOUT_S="0.3")
    async with open_client(server, "ann") as ann, open_client(server, "bob", binary=True) as bob:
        await ann.request("conversation_create", {"kind": "group", "members": ["bob"], "conversation": "r"})
        await bob.send("typing", {"conversation": "r", "typing": True})
        told = [(await ann.receive_event("state_batch"))["updates"][0]["typing"] for _ in range(2)]
        assert told == [True, False]


async def test_presence_when_the_server_restarts_then_nobody_is_told_that_everybody_left_and_came(
    start: Start,
) -> None:
    """A deploy that tells everybody that everybody left and came, and leaves zombies, elsewhere."""
    settings = {"FASTIM_PRESENCE__RESTART_GRACE_S": "2", "FASTIM_PRESENCE__GRACE_S": "0.2"}
    server = start(**settings)

    async def look(ann: Client) -> dict[str, str]:
        event, answer = await ann.request("presence_subscribe", {"conversation": "r"})
        assert event == "ok", answer
        return {user["user"]: user["status"] for user in answer["users"]}

    here = {"ann": "online", "bob": "online", "carl": "busy", "eve": "offline"}
    async with (
        open_client(server, "ann") as ann,
        open_client(server, "bob"),
        open_client(server, "carl") as carl,
    ):
        body = {"kind": "group", "members": ["bob", "carl", "eve"], "conversation": "r"}
        await ann.request("conversation_create", body)
        await carl.request("presence", {"status": "busy"})
        assert await look(ann) == here
        server.process.terminate()
        packets = [packet async for packet in ann.receive_until_closed()]
        assert [packet for packet in packets if packet[0] == "state_batch"] == []
    assert server.wait() == 0
    server = start(**settings)
    async with open_client(server, "ann") as ann:
        assert await look(ann) == here
        async with open_client(server, "bob"):
            # Bob is back, which is no news; Carl is not, and is told of once the time is over.
            [update] = (await ann.receive_event("state_batch"))["updates"]
            assert (update["user"], update["status"]) == ("carl", "offline")
            assert update["last_seen"] < update["time"]
            assert await look(ann) == here | {"carl": "offline"}
    server.kill()
    server = start(**settings)  # an end that nobody announced: nobody is there
    async with open_client(server, "ann") as ann:
        assert await look(ann) == dict.fromkeys(here, "offline") | {"ann": "online"}


async def test_presence_when_a_client_resumes_then_its_subscriptions_go_on(shared: ServerProcess) -> None:
    async with open_client(shared, "sub-bob") as bob:
        await bob.request(
            "conversation_create", {"kind": "group", "members": ["sub-ann"], "conversation": "sub"}
        )
        async with open_client(shared, "sub-ann", hello={"device": "a"}) as ann:
            assert (await ann.request("presence_subscribe", {"conversation": "sub"}))[0] == "ok"
            session = ann.ok["session"]
        await bob.request("presence", {"status": "busy"})
        hello = {"device": "a", "resume": {"session": session, "seen": {}}}
        async with open_client(shared, "sub-ann", hello=hello) as ann:
            assert (ann.ok["resumed"], ann.ok["presence"]) == (True, True)
            seen = Seen()
            await watch_until(ann, seen, lambda seen: seen.presence.get("sub-bob") == "busy")
            await bob.request("presence", {"status": "away"})
            await watch_until(ann, seen, lambda seen: seen.presence.get("sub-bob") == "away")


async def test_presence_when_one_of_two_devices_leaves_then_its_user_is_still_there(start: Start) -> None:
    """Offline when one of several devices leaves, or when a time has passed since the connect, elsewhere."""
    server = start(FASTIM_PRESENCE__GRACE_S="0.2")
    async with open_client(server, "ann") as ann, open_client(server, "bob") as stays:
        await ann.request(
            "conversation_create", {"kind": "group", "members": ["bob", "carl"], "conversation": "r"}
        )
        async with open_client(server, "bob"):
            assert (await ann.request("presence_subscribe", {"conversation": "r"}))[0] == "ok"
        # Carl comes and goes after the device: when he is offline, its grace time is over as well.
        async with open_client(server, "carl"):
            pass
        told = []
        while ("carl", "offline") not in told:
            updates = (await ann.receive_event("state_batch"))["updates"]
            told += [(update["user"], update["status"]) for update in updates]
        assert told == [("carl", "online"), ("carl", "offline")]
        await stays.socket.close()
        [update] = (await ann.receive_event("state_batch"))["updates"]
        assert (update["user"], update["status"]) == ("bob", "offline")
        assert update["last_seen"] <= update["time"]


async def test_receipts_when_a_mark_would_go_back_then_the_author_hears_of_the_furthest_alone(
    shared: ServerProcess,
) -> None:
    """Receipts to the reader's own devices and never to the author, and cursors that go back, elsewhere."""
    async with open_client(shared, "cursor-ann") as ann, open_client(shared, "cursor-bob") as bob:
        body = {"kind": "group", "members": ["cursor-bob"], "conversation": "marks"}
        await ann.request("conversation_create", body)
        for _ in range(3):
            await ann.request("message", {"conversation": "marks", "content": "hi"})
        for seq in (2, 1, 3, 2):
            assert await bob.request("read_receipt", {"conversation": "marks", "seq": seq}) == ["ok", {}]
        read: list[int] = []
        while read[-1:] != [3]:
            read += [receipt["read"] for receipt in (await ann.receive_event("receipt"))["receipts"]]
        assert read == sorted(set(read))
        # One's own messages are not unread.
        for client, unread in ((ann, 0), (bob, 0)):
            [line] = (await client.request("conversations", {}))[1]["conversations"]
            assert (line["read_seq"], line["unread"]) == (3, unread)
        await bob.request("message", {"conversation": "marks", "content": "mine"})
        for client, unread in ((ann, 1), (bob, 0)):
            [line] = (await client.request("conversations", {}))[1]["conversations"]
            assert (line["last_seq"], line["unread"]) == (4, unread)
