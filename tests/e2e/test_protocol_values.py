"""What a value is in one encoding it is in the other, and for whoever reads it later."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest

from tests.e2e.serving import Client, ServerProcess, open_client

numbers = itertools.count()

SAME = [
    None,
    True,
    -(2**63),
    2**63,
    2**64 - 1,
    2**53 + 1,
    1.0,
    -0.0,
    0.1,
    1e16,
    5e-324,
    1e308,
    "nul\x00 and \x7f, \u2028, \U0001f600",
    "",
    [],
    {},
    {"": 1},
    [[[1.5, [None]]]],
]
WRITTEN = [  # in msgpack, and as it stands in JSON
    (b"", {"$bytes": ""}),
    (b"\x00\xff", {"$bytes": "AP8="}),
    ({"$bytes": "AA=="}, {"$$bytes": "AA=="}),
    ({"$": 1, "$$a": {"$b": [b"x"]}}, {"$$": 1, "$$$a": {"$$b": [{"$bytes": "eA=="}]}}),
]


def same(left: Any, right: Any) -> bool:
    """Equality that tells 1 from 1.0 and 0.0 from -0.0."""
    return repr(left) == repr(right)


async def room(one: Client, *others: str) -> str:
    name = f"values-{next(numbers)}"
    event, answer = await one.request(
        "conversation_create", {"kind": "group", "members": list(others), "conversation": name}
    )
    assert event == "ok", answer
    return name


async def through(conversation: str, writer: Client, reader: Client, content: Any) -> tuple[Any, Any]:
    """Send content; return what the reader gets live and what the writer finds in the history."""
    body = {"conversation": conversation, "content": content, "kind": "own"}
    event, answer = await writer.request("message", body)
    assert event == "ok", (content, answer)
    live = await reader.receive_event("new_message")
    event, page = await writer.request("history", {"conversation": conversation, "limit": 1})
    assert event == "ok", page
    return live["content"], page["messages"][0]["content"]


async def test_values_when_they_cross_the_encodings_then_are_the_same(shared: ServerProcess) -> None:
    async with open_client(shared, "val-ann") as ann, open_client(shared, "val-bob", binary=True) as bob:
        name = await room(ann, "val-bob")
        for value in SAME:
            for writer, reader in ((ann, bob), (bob, ann)):
                live, stored = await through(name, writer, reader, value)
                assert same(live, value)
                assert same(stored, value)
        for binary, text in WRITTEN:
            assert await through(name, ann, bob, text) == (binary, text)
            assert await through(name, bob, ann, binary) == (text, binary)


@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
async def test_message_when_exactly_as_large_as_allowed_then_taken_and_one_byte_more_is_1009(
    shared: ServerProcess, binary: bool
) -> None:
    async with open_client(shared, "val-max", binary=binary) as client:
        name = await room(client)
        max_bytes = client.ok["limits"]["max_message_bytes"]
        for size in (max_bytes, max_bytes + 1):
            await client.socket.send(message_of(size, name, binary))
            if size == max_bytes:
                packet = await client.receive()
                assert packet[0] == "ok", packet
        assert (await client.closed())[0] == 1009


def message_of(size: int, conversation: str, binary: bool) -> bytes | str:
    head = json.dumps(["message", {"conversation": conversation, "content": ""}, 7])
    if not binary:
        return head.replace('""', f'"{"x" * (size - len(head))}"')
    parts = [b"\x93\x01\x82\xacconversation", bytes([0xA0 + len(conversation)]), conversation.encode()]
    before = b"".join(parts) + b"\xa7content\xdb"
    length = size - len(before) - 5
    return before + length.to_bytes(4, "big") + b"x" * length + b"\x07"


async def test_history_when_messages_are_large_then_pages_hold_256_kib(shared: ServerProcess) -> None:
    async with open_client(shared, "val-pages", max_size=None) as client:
        name = await room(client)
        for _ in range(4):
            event, answer = await client.request("message", {"conversation": name, "content": "x" * 90_000})
            assert event == "ok", answer
        for question, expected in (({"after": 0}, [1, 2]), ({"before": 5}, [4, 3]), ({}, [4, 3])):
            event, page = await client.request("history", {"conversation": name, **question})
            assert event == "ok"
            assert [item["seq"] for item in page["messages"]] == expected
            assert page["more"] is True
            assert len(json.dumps(page)) <= 262_144


async def test_content_when_not_finite_in_msgpack_then_bad_request(shared: ServerProcess) -> None:
    async with open_client(shared, "val-nan", binary=True) as client:
        name = await room(client)
        for value in (math.nan, math.inf, -math.inf):
            event, answer = await client.request("message", {"conversation": name, "content": value})
            assert (event, answer["code"]) == ("error", "bad_request")
            assert answer["message"].startswith("content: ")
