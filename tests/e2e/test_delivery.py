"""Acknowledgements, what is sent again, and what is told of messages that do not arrive."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx

from tests.e2e.serving import WAIT_S, Client, ServerProcess, Start, open_client, rest


async def room(one: Client, name: str, *others: str) -> str:
    event, answer = await one.request(
        "conversation_create", {"kind": "group", "members": list(others), "conversation": name}
    )
    assert event == "ok", answer
    return name


async def say(client: Client, name: str, content: str = "hi") -> int:
    event, answer = await client.request("message", {"conversation": name, "content": content})
    assert event == "ok", answer
    return int(answer["seq"])


async def seqs_until(client: Client, wanted: Counter[int]) -> Counter[int]:
    """Count the messages that come, by seq, until there are so many of each."""
    found: Counter[int] = Counter()
    while not wanted <= found:
        found[(await client.receive_event("new_message"))["seq"]] += 1
    return found


async def test_message_when_not_acknowledged_then_sent_again_three_times_and_no_more(start: Start) -> None:
    server = start(FASTIM_MESSAGING__ACK_TIMEOUT_S="0.15")
    async with open_client(server, "ann") as ann, open_client(server, "bob", hello={"acks": True}) as bob:
        await room(ann, "r", "bob")
        await say(ann, "r")
        assert await seqs_until(bob, Counter({1: 4})) == Counter({1: 4})
        await say(ann, "r")
        # While the second is sent again and again, the first one is the resume's.
        assert await seqs_until(bob, Counter({2: 4})) == Counter({2: 4})
        await say(ann, "r")
        await bob.receive_event("new_message")
        await bob.send("ack", {"conversation": "r", "seq": 3})
        await say(ann, "r")
        assert (await bob.receive_event("new_message"))["seq"] == 4


async def test_message_when_not_acknowledged_before_a_reconnect_then_sent_again_behind_it(
    start: Start,
) -> None:
    """Retries keyed by connection, elsewhere: after a reconnect nothing was sent again."""
    server = start(FASTIM_MESSAGING__ACK_TIMEOUT_S="0.3")
    async with open_client(server, "ann") as ann:
        async with open_client(server, "bob", hello={"acks": True, "device": "b"}) as bob:
            await room(ann, "r", "bob")
            for _ in range(3):
                await say(ann, "r")
            await seqs_until(bob, Counter({1: 1, 2: 1, 3: 1}))
            await bob.send("ack", {"conversation": "r", "seq": 1})
            assert (await bob.request("ping", {}))[0] == "ok"
            session = bob.ok["session"]
        hello = {"acks": True, "device": "b", "resume": {"session": session, "seen": {}}}
        async with open_client(server, "bob", hello=hello) as bob:
            # By the resume, and by a retry of it; what was acknowledged does not come again.
            assert await seqs_until(bob, Counter({2: 2, 3: 2})) == Counter({2: 2, 3: 2})
            await bob.send("ack", {"conversation": "r", "seq": 3})
            await say(ann, "r")
            assert (await bob.receive_event("new_message"))["seq"] == 4


async def test_ack_when_from_a_stranger_or_past_the_end_then_it_moves_nothing(shared: ServerProcess) -> None:
    """An ack that took any id from anyone, elsewhere."""
    async with (
        open_client(shared, "ack-ann") as ann,
        open_client(shared, "ack-bob", hello={"acks": True}) as bob,
        open_client(shared, "ack-eve") as eve,
    ):
        await room(ann, "ack-room", "ack-bob")
        await say(ann, "ack-room")
        for body in ({"conversation": "ack-room", "seq": 1}, {"conversation": "no-such-room", "seq": 1}):
            await eve.send("ack", body)
            error = await eve.receive_event("error")
            assert (error["code"], error["event"]) == ("forbidden", "ack")
        assert await delivered(ann) == {"ack-ann": 0, "ack-bob": 0}
        await bob.send("ack", {"conversation": "ack-room", "seq": 2**53})
        receipt = (await ann.receive_event("receipt"))["receipts"][0]
        assert (receipt["user"], receipt["delivered"]) == ("ack-bob", 1)
        async with asyncio.timeout(WAIT_S):
            while await delivered(ann) != {"ack-ann": 0, "ack-bob": 1}:
                pass


async def delivered(client: Client) -> dict[str, int]:
    event, page = await client.request("members", {"conversation": "ack-room"})
    assert event == "ok"
    return {member["user"]: member["delivered"] for member in page["members"]}


async def test_message_when_its_sender_has_other_devices_then_they_get_it(shared: ServerProcess) -> None:
    """The sender's other devices never saw the message, elsewhere."""
    async with (
        open_client(shared, "dev-ann", hello={"device": "desk"}) as desk,
        open_client(shared, "dev-ann", binary=True, hello={"device": "phone"}) as phone,
    ):
        await room(desk, "dev-room")
        assert await say(desk, "dev-room", "from the desk") == 1
        message = await phone.receive_event("new_message")
        assert (message["sender"], message["device"], message["content"]) == (
            "dev-ann",
            "desk",
            "from the desk",
        )
        assert await say(phone, "dev-room", "from the phone") == 2
        assert (await desk.receive_event("new_message"))["device"] == "phone"


async def test_acks_when_given_then_their_latency_is_in_the_metrics(start: Start) -> None:
    server = start()
    async with open_client(server, "ann") as ann, open_client(server, "bob", hello={"acks": True}) as bob:
        await room(ann, "r", "bob")
        for seq in range(1, 6):
            await say(ann, "r")
            await bob.receive_event("new_message")
            if seq != 4:
                await bob.send("ack", {"conversation": "r", "seq": seq})
        assert (await bob.request("ping", {}))[0] == "ok"
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"{server.http}/metrics")).text
        [count] = [line for line in text.splitlines() if "ack_latency" in line and "_count" in line]
        assert float(count.rpartition(" ")[2]) == 5


async def test_undelivered_when_members_are_away_or_silent_then_the_application_is_told_once(
    start: Start,
) -> None:
    server = start("tests.e2e.application:app", FASTIM_MESSAGING__UNDELIVERED_AFTER_S="0.3")
    async with (
        open_client(server, "ann") as ann,
        open_client(server, "silent", hello={"acks": True}) as silent,
        open_client(server, "good", hello={"acks": True}) as good,
        open_client(server, "plain"),
    ):
        await room(ann, "r", "away", "silent", "good", "plain")
        for _ in range(3):
            await say(ann, "r")
        for client, seq in ((good, 3), (silent, 1)):
            await seqs_until(client, Counter({1: 1, 2: 1, 3: 1}))
            await client.send("ack", {"conversation": "r", "seq": seq})
        with rest(server) as http:
            path = "/v1/conversations"
            body = {"members": ["away", "gone"], "conversation": "quiet"}
            assert http.post(path, json=body).status_code == 201
            answer = http.post(f"{path}/quiet/messages", json={"content": "x", "sender": "away"})
            assert answer.status_code == 201
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(WAIT_S):
            while len(events) < 2:
                _, events = await ann.request("undelivered", None)
        by_room = {event["conversation"]: event for event in events}
        assert set(by_room) == {"r", "quiet"}
        event = by_room["r"]
        assert (event["event"], event["first_seq"], event["last_seq"]) == ("undelivered", 1, 3)
        assert event["users"] == [{"user": "away", "have": 0}, {"user": "silent", "have": 1}]
        assert event["time"] >= event["stored"]
        assert by_room["quiet"]["users"] == [{"user": "gone", "have": 0}]
        assert len({event["id"] for event in events}) == 2
