"""Typing, presence and receipts as others see them."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

from tests.e2e.serving import WAIT_S, Client, ServerProcess, open_client

numbers = itertools.count()


async def room(one: Client, *others: str) -> str:
    name = f"states-{next(numbers)}"
    event, answer = await one.request(
        "conversation_create", {"kind": "group", "members": list(others), "conversation": name}
    )
    assert event == "ok", answer
    return name


async def next_update(client: Client) -> dict[str, Any]:
    (update,) = (await client.receive_event("state_batch"))["updates"]
    assert isinstance(update, dict)
    return update


async def test_typing_when_started_and_stopped_at_once_then_it_ends_as_stopped(shared: ServerProcess) -> None:
    async with open_client(shared, "typ-ann") as ann, open_client(shared, "typ-bob", binary=True) as bob:
        name = await room(ann, "typ-bob")
        packets = [["typing", {"conversation": name, "typing": typing}] for typing in (True, False)]
        await ann.socket.send(json.dumps(packets))
        seen = [await next_update(bob)]
        while seen[-1]["typing"]:
            seen.append(await next_update(bob))
        assert {item["user"] for item in seen} == {"typ-ann"}
        assert [item["typing"] for item in seen] in ([True, False], [False])


async def test_presence_when_two_devices_differ_then_the_busiest_counts(shared: ServerProcess) -> None:
    async with (
        open_client(shared, "pre-ann") as ann,
        open_client(shared, "pre-bob") as one,
        open_client(shared, "pre-bob", binary=True) as two,
    ):
        await room(ann, "pre-bob")
        event, answer = await ann.request("presence_subscribe", {"users": ["pre-bob", "pre-stranger"]})
        expected = {"user": "pre-bob", "status": "online", "last_seen": None, "metadata": None}
        assert (event, answer) == ("ok", {"users": [expected]})
        metadata = {"n": 1.0, "b": b"x"}
        await two.request("presence", {"status": "busy", "metadata": metadata})
        update = await next_update(ann)
        assert (update["status"], update["metadata"]) == ("busy", {"n": 1.0, "b": {"$bytes": "eA=="}})
        await one.request("presence", {"status": "away"})  # busy still counts
        await two.request("presence", {"status": "online"})
        while (update := await next_update(ann))["status"] == "busy":
            pass
        assert update["status"] == "online"
        await two.request("presence", {"status": "away"})
        assert (await next_update(ann))["status"] == "away"


async def test_receipts_when_read_then_the_others_and_ones_own_devices_are_told(
    shared: ServerProcess,
) -> None:
    async with (
        open_client(shared, "rec-ann", binary=True) as ann,
        open_client(shared, "rec-bob") as bob,
        open_client(shared, "rec-bob") as other,
    ):
        name = await room(ann, "rec-bob")
        for number in range(3):
            event, _ = await ann.request("message", {"conversation": name, "content": str(number)})
            assert event == "ok"
        await bob.send("ack", {"conversation": name, "seq": 2})
        await bob.request("read_receipt", {"conversation": name, "seq": 99})
        for client in (ann, other):
            told: dict[str, Any] = {}
            while not {"read", "delivered"} <= told.keys():
                body = await client.receive_event("receipt")
                assert body["conversation"] == name
                for receipt in body["receipts"]:
                    told |= receipt
            assert (told["user"], told["read"], told["delivered"]) == ("rec-bob", 3, 2)
            assert isinstance(told["time"], int)
        expected = {"rec-ann": ("owner", 0, 3), "rec-bob": ("member", 2, 3)}
        async with asyncio.timeout(WAIT_S):  # a delivered mark is told before it is stored
            while await marks(ann, name) != expected:
                pass


async def marks(client: Client, conversation: str) -> dict[str, tuple[str, int, int]]:
    event, page = await client.request("members", {"conversation": conversation})
    assert event == "ok", page
    return {item["user"]: (item["role"], item["delivered"], item["read"]) for item in page["members"]}
