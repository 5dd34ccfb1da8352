"""The same events in JSON and in msgpack: each kind, in both directions, and the values that are hard."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import pytest

from tests.e2e.serving import Client, ServerProcess, open_client, rest

numbers = itertools.count()

# As clients of msgpack may call the events.
TYPING, PRESENCE, ACK, BINARY, MESSAGE = 2, 3, 4, 6, 1
TIMES = [0, 1_700_000_000_123, 2**53 + 1, -1]


@contextlib.asynccontextmanager
async def pair(server: ServerProcess, first_binary: bool) -> AsyncIterator[tuple[Client, Client, str]]:
    """Two clients of different encodings, and their conversation."""
    number = next(numbers)
    users = (f"enc-a{number}", f"enc-b{number}")
    async with (
        open_client(server, users[0], binary=first_binary) as one,
        open_client(server, users[1], binary=not first_binary) as two,
    ):
        made = {"kind": "group", "members": [users[1]], "conversation": f"enc-{number}"}
        event, answer = await one.request("conversation_create", made)
        assert event == "ok", answer
        yield one, two, made["conversation"]  # type: ignore[misc]


def written(client: Client, data: bytes) -> Any:
    """Bytes as a client of its encoding writes and reads them."""
    return data if client.binary else {"$bytes": base64.b64encode(data).decode()}


def named(client: Client, name: str, code: int) -> str | int:
    return code if client.binary else name


@pytest.mark.parametrize("first_binary", [False, True], ids=["from_json", "from_msgpack"])
async def test_kinds_when_sent_in_one_encoding_then_read_in_the_other(
    shared: ServerProcess, first_binary: bool
) -> None:
    async with pair(shared, first_binary) as (one, two, name):
        # text
        event, ok = await one.request(
            named(one, "message", MESSAGE), {"conversation": name, "content": "grüße \U0001f600"}
        )
        assert (event, ok["seq"]) == ("ok", 1)
        message = await two.receive_event("new_message")
        assert (message["kind"], message["content"]) == ("text", "grüße \U0001f600")
        assert (message["id"], message["seq"], message["time"]) == (ok["id"], ok["seq"], ok["time"])
        # ack: tells the sender that it was delivered
        await two.send(named(two, "ack", ACK), {"conversation": name, "seq": 1})
        receipt = (await one.receive_event("receipt"))["receipts"][0]
        assert receipt["delivered"] == 1
        assert type(receipt["time"]) is int
        # typing
        await one.send(named(one, "typing", TYPING), {"conversation": name, "typing": True})
        update = (await two.receive_event("state_batch"))["updates"][0]
        assert (update["type"], update["typing"]) == ("typing", True)
        # presence, with values of its own
        event, _ = await two.request("presence_subscribe", {"conversation": name})
        assert event == "ok"
        metadata = {"mood": written(one, b"\x00\xff"), "since": 2**64 - 1}
        event, _ = await one.request(
            named(one, "presence", PRESENCE), {"status": "busy", "metadata": metadata}
        )
        assert event == "ok"
        while True:
            update = (await two.receive_event("state_batch"))["updates"][0]
            if update["type"] == "presence" and update["status"] == "busy":
                break
        assert update["metadata"] == {"mood": written(two, b"\x00\xff"), "since": 2**64 - 1}
        # binary
        body = {"conversation": name, "data": written(one, bytes(range(256))), "name": "f", "type": "a/b"}
        event, ok = await one.request(named(one, "binary", BINARY), body)
        assert event == "ok", ok
        message = await two.receive_event("new_message")
        assert message["kind"] == "binary"
        assert message["content"] == {"data": written(two, bytes(range(256))), "name": "f", "type": "a/b"}
        # system
        with rest(shared) as http:
            assert http.post("/v1/system", json={"text": "soon", "conversation": name}).json() == {
                "connections": 2
            }
        for client in (one, two):
            notice = await client.receive_event("system")
            assert (notice["text"], notice["level"]) == ("soon", "info")
            assert type(notice["time"]) is int


@pytest.mark.parametrize("first_binary", [False, True], ids=["from_json", "from_msgpack"])
async def test_values_when_nested_then_bytes_times_and_big_integers_survive(
    shared: ServerProcess, first_binary: bool
) -> None:
    async with pair(shared, first_binary) as (one, two, name):
        for time in TIMES:
            content = {
                "at": time,
                "deep": [{"$key" if one.binary else "$$key": [written(one, b"\x80")]}, 0.1],
            }
            event, answer = await one.request(
                "message", {"conversation": name, "content": content, "kind": "own"}
            )
            assert event == "ok", answer
            live = (await two.receive_event("new_message"))["content"]
            key = "$key" if two.binary else "$$key"
            expected = {"at": time, "deep": [{key: [written(two, b"\x80")]}, 0.1]}
            assert live == expected
            assert type(live["at"]) is int
            _, page = await two.request("history", {"conversation": name, "limit": 1})
            assert page["messages"][0]["content"] == expected


@pytest.mark.parametrize(
    "content",
    [
        msgpack.Timestamp(1_700_000_000, 5),
        {"at": [msgpack.Timestamp(1)]},
        msgpack.ExtType(42, b"mine"),
    ],
    ids=["timestamp", "nested_timestamp", "own"],
)
async def test_extension_when_in_msgpack_then_refused_by_name(shared: ServerProcess, content: Any) -> None:
    """JSON has none: a time is an integer, in milliseconds, in either encoding."""
    async with pair(shared, True) as (one, _, name):
        event, error = await one.request("message", {"conversation": name, "content": content, "kind": "own"})
        assert (event, error["code"]) == ("error", "bad_request")
        assert error["message"].startswith("content: ")
        assert "extension" in error["message"]
        assert (await one.request("message", {"conversation": name, "content": "still here"}))[0] == "ok"


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 10**30])
async def test_integer_when_no_64_bits_hold_it_then_refused(shared: ServerProcess, number: int) -> None:
    async with pair(shared, False) as (one, _, name):
        event, error = await one.request("message", {"conversation": name, "content": number, "kind": "own"})
        assert (event, error["code"]) == ("error", "bad_request")
        assert error["message"].startswith("content: ")


async def test_system_when_for_everybody_or_a_user_then_each_connection_has_it_once(
    shared: ServerProcess,
) -> None:
    async with (
        open_client(shared, "sys-a") as one,
        open_client(shared, "sys-a", binary=True) as other_device,
        open_client(shared, "sys-b") as stranger,
        open_client(shared) as nobody,
    ):
        with rest(shared) as http:
            answer = http.post("/v1/system", json={"text": "for a", "level": "warning", "user": "sys-a"})
            assert (answer.status_code, answer.json()) == (200, {"connections": 2})
            assert http.post("/v1/system", json={"text": "for all"}).json() == {"connections": 3}
        for client, texts in ((one, ["for a", "for all"]), (other_device, ["for a", "for all"])):
            assert [(await client.receive_event("system"))["text"] for _ in texts] == texts
        assert (await stranger.receive_event("system"))["text"] == "for all"
        assert await stranger.request("announce", {"text": "from the application", "user": "sys-a"}) == [
            "ok",
            None,
        ]
        for client in (one, other_device):
            notice = await client.receive_event("system")
            assert (notice["text"], notice["level"]) == ("from the application", "info")
        assert (await stranger.request("announce", {"text": ""}))[1]["code"] == "internal"
        await nobody.send("ping", {}, 1)  # before its hello nobody is told anything
        assert (await nobody.receive())[0] == "error"


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"text": ""}, 400, "text"),
        ({"text": "x" * 4_097}, 400, "4096"),
        ({"text": "x", "level": "loud"}, 422, "level"),
        ({"text": "x", "user": "a", "conversation": "b"}, 400, "conversation"),
        ({"text": "x", "conversation": "there-is-none"}, 404, "there-is-none"),
        ({"text": "x", "extra": 1}, 422, "extra"),
        ({}, 422, "text"),
    ],
)
def test_system_when_it_cannot_be_sent_then_told_why(
    shared: ServerProcess, body: dict[str, Any], status: int, word: str
) -> None:
    with rest(shared) as http:
        answer = http.post("/v1/system", json=body)
        assert answer.status_code == status
        assert word in json.dumps(answer.json())
