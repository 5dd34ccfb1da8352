"""Idempotency, order, resuming and who gets what, over real connections."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from tests.e2e.serving import Client, ServerProcess, open_client

numbers = itertools.count()


async def room(one: Client, *others: str) -> str:
    name = f"messages-{next(numbers)}"
    event, answer = await one.request(
        "conversation_create", {"kind": "group", "members": list(others), "conversation": name}
    )
    assert event == "ok", answer
    return name


async def say(client: Client, conversation: str, count: int = 1) -> None:
    packets = [["message", {"conversation": conversation, "content": "x"}, 1000 + i] for i in range(count)]
    await client.socket.send(json.dumps(packets))
    for _ in range(count):
        await client.receive_event("ok")


async def until_ping(client: Client) -> list[list[Any]]:
    """Return all that comes before the answer to a ping sent now."""
    await client.send("ping", {}, 9)
    packets = []
    while (packet := await client.receive())[0] != "ok" or packet[2] != 9:
        packets.append(packet)
    return packets


async def test_client_id_when_sent_by_two_devices_at_once_then_stored_once(shared: ServerProcess) -> None:
    async with (
        open_client(shared, "dup-ann", hello={"device": "1"}) as one,
        open_client(shared, "dup-ann", binary=True, hello={"device": "2"}) as two,
        open_client(shared, "dup-bob") as bob,
    ):
        name = await room(one, "dup-bob")
        for number in range(20):
            body = {"conversation": name, "client_id": str(number)}
            answers = await asyncio.gather(
                one.request("message", {**body, "content": {"a": 1, "b": {"$bytes": "eA=="}, "c": 1.0}}),
                # The same value, its keys in another order.
                two.request("message", {**body, "content": {"c": 1.0, "b": b"x", "a": 1}}),
            )
            assert [event for event, _ in answers] == ["ok", "ok"], answers
            (_, first), (_, second) = answers
            assert (first["id"], first["seq"]) == (second["id"], second["seq"])
            assert first["seq"] == number + 1
            assert sorted((first["duplicate"], second["duplicate"])) == [False, True]
            assert (await bob.receive_event("new_message"))["seq"] == number + 1
        assert await until_ping(bob) == []


async def test_client_id_when_the_content_is_another_number_then_conflict(shared: ServerProcess) -> None:
    async with open_client(shared, "num-ann") as ann:
        name = await room(ann)
        for content, code in (
            ({"n": 1}, None),
            ({"n": 1.0}, "conflict"),
            ({"n": True}, "conflict"),
            ({"n": 1}, None),
        ):
            body = {"conversation": name, "client_id": "n", "content": content}
            event, answer = await ann.request("message", body)
            assert event == ("error" if code else "ok")
            assert answer.get("code") == code


async def test_messages_when_two_send_at_once_then_everyone_sees_one_order(shared: ServerProcess) -> None:
    count = 500
    async with (
        open_client(shared, "ord-ann", hello={"batch": True}) as ann,
        open_client(shared, "ord-bob", binary=True, hello={"batch": True}) as bob,
        open_client(shared, "ord-carl") as carl,
    ):
        name = await room(ann, "ord-bob", "ord-carl")

        async def send(client: Client) -> None:
            for number in range(count):
                await client.send("message", {"conversation": name, "content": "x"}, 1000 + number)

        async def seqs(client: Client) -> list[int]:
            seen: list[int] = []
            while len(seen) < 2 * count:
                packet = await client.receive()
                if packet[0] in ("new_message", "ok"):
                    seen.append(packet[1]["seq"])
            return seen

        *_, one, two, three = await asyncio.gather(send(ann), send(bob), seqs(ann), seqs(bob), seqs(carl))
        assert one == two == three == list(range(1, 2 * count + 1))


async def test_resume_when_the_device_is_not_named_then_it_is_the_sessions(shared: ServerProcess) -> None:
    async with open_client(shared, "res-ann") as ann, open_client(shared, "res-bob") as bob:
        name = await room(ann, "res-bob")
        resume = {"resume": {"session": bob.ok["session"], "seen": {name: 0}}}
        # Live: it is replaced, and nobody hears of it.
        async with open_client(shared, "res-bob", hello=resume) as back:
            assert (back.ok["resumed"], back.ok["device"]) == (True, bob.ok["device"])
            assert (await bob.closed())[0] == 4004
        await say(ann, name, 3)
        # Gone; the session of another user is nobody's way in.
        async with open_client(shared, "res-bob", hello=resume) as back:
            assert (back.ok["resumed"], back.ok["device"]) == (True, bob.ok["device"])
            assert [(await back.receive_event("new_message"))["seq"] for _ in range(3)] == [1, 2, 3]
        async with open_client(shared, "res-eve", hello=resume) as eve:
            assert eve.ok["resumed"] is False
            assert eve.ok["device"] != bob.ok["device"]
            assert eve.ok["session"] != bob.ok["session"]


async def test_resume_when_more_than_500_are_missed_then_500_a_gap_and_live_ones(
    shared: ServerProcess,
) -> None:
    async with open_client(shared, "gap-ann") as ann, open_client(shared, "gap-bob") as first:
        name = await room(ann, "gap-bob")
        await first.socket.close()
        await say(ann, name, 600)
        hello = {"resume": {"session": "unknown", "seen": {name: 5}}}
        async with open_client(shared, "gap-bob", binary=True, hello=hello) as bob:
            assert bob.ok["resumed"] is False
            assert [(await bob.receive_event("new_message"))["seq"] for _ in range(500)] == [*range(6, 506)]
            assert await bob.receive() == [24, {"conversation": name, "have": 505, "last": 600}]
            await say(ann, name)
            assert (await bob.receive_event("new_message"))["seq"] == 601


async def test_member_when_removed_or_gone_then_gets_nothing_any_more(shared: ServerProcess) -> None:
    async with (
        open_client(shared, "rem-ann") as ann,
        open_client(shared, "rem-bob") as bob,
        open_client(shared, "rem-eve") as eve,
    ):
        name = await room(ann, "rem-bob", "rem-eve")
        await bob.request("presence_subscribe", {"conversation": name})
        await ann.request("conversation_update", {"conversation": name, "remove": ["rem-bob"]})
        event, _ = await eve.request("conversation_update", {"conversation": name, "remove": ["rem-eve"]})
        assert event == "ok"
        while (await bob.receive_event("conversation"))["change"] != "removed":
            pass
        await until_ping(eve)
        await ann.send("typing", {"conversation": name, "typing": True})
        await say(ann, name)
        await ann.request("presence", {"status": "busy"})
        await ann.request("read_receipt", {"conversation": name, "seq": 1})
        for client in (bob, eve):
            assert await until_ping(client) == []
            # And what is answered does not tell the conversation from one that never was.
            for event, body in (
                ("message", {"content": "x"}),
                ("binary", {"data": {"$bytes": ""}}),
                ("ack", {"seq": 1}),
                ("read_receipt", {"seq": 1}),
                ("typing", {"typing": True}),
                ("presence_subscribe", {}),
                ("history", {}),
                ("members", {}),
                ("conversation_update", {"title": "t"}),
            ):
                here = await client.request(event, {**body, "conversation": name})
                nowhere = await client.request(event, {**body, "conversation": "never-was"})
                assert here == nowhere
                assert here[1]["code"] == "forbidden"


async def test_direct_when_created_from_both_sides_at_once_then_one(shared: ServerProcess) -> None:
    async with open_client(shared, "dir-ann") as ann, open_client(shared, "dir-bob", binary=True) as bob:
        (_, one), (_, two) = await asyncio.gather(
            ann.request("conversation_create", {"kind": "direct", "members": ["dir-bob"]}),
            bob.request("conversation_create", {"kind": "direct", "members": ["dir-ann", "dir-bob"]}),
        )
        assert one["conversation"] == two["conversation"]
        assert (one["peer"], two["peer"]) == ("dir-bob", "dir-ann")


async def test_marks_when_moved_back_or_past_the_end_then_stay_between(shared: ServerProcess) -> None:
    async with open_client(shared, "mark-ann") as ann, open_client(shared, "mark-bob") as bob:
        name = await room(ann, "mark-bob")
        await say(ann, name, 5)
        for seq, read in ((3, 3), (2, 3), (0, 3), (99, 5)):
            assert await bob.request("read_receipt", {"conversation": name, "seq": seq}) == ["ok", {}]
            event, page = await bob.request("conversations", {})
            item = next(item for item in page["conversations"] if item["conversation"] == name)
            assert (item["last_seq"], item["read_seq"], item["unread"]) == (5, read, 5 - read)
        event, body = await bob.request("read_receipt", {"conversation": name, "seq": -1})
        assert (event, body["code"]) == ("error", "bad_request")
