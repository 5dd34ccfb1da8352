"""The HTTP side as scripts, probes and people with curl meet it."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest

from tests.e2e.serving import ServerProcess, open_client, raw_socket, read_all, rest

numbers = itertools.count()


def make_conversation(client: httpx.Client, *members: str) -> str:
    name = f"http-{next(numbers)}"
    answer = client.post("/v1/conversations", json={"conversation": name, "members": list(members)})
    assert answer.status_code == 201, answer.text
    return f"/v1/conversations/{name}"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/v1/openapi.json"])
def test_head_when_asked_then_as_get_without_the_body(shared: ServerProcess, path: str) -> None:
    with rest(shared) as client:
        for _ in range(2):  # the connection stays usable
            head = client.head(path)
            assert (head.status_code, head.content) == (200, b"")
        assert client.get(path).headers["Content-Type"] == head.headers["Content-Type"]
        assert client.head("/v1/conversations").status_code == 405


@pytest.mark.parametrize("media_type", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_body_when_its_type_is_not_json_then_415_says_what_to_send(
    shared: ServerProcess, media_type: str | None
) -> None:
    with rest(shared) as client:
        headers = {} if media_type is None else {"Content-Type": media_type}
        answer = client.post("/v1/conversations", content=b'{"kind": "group"}', headers=headers)
        assert answer.status_code == 415
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert "Content-Type: application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"{", "the body: no JSON"),
        (b'{"kind": "group"} x', "the body: no JSON"),
        (b"[1]", "the body: expected an object"),
        (b'{"members": ["a\\n"]}', "members.0: expected no control characters"),
        ('{"members": ["%s"]}' % ("é" * 65), "members.0: expected 1 to 128 bytes, got 130"),
        (b'{"members": [""]}', "members.0: expected 1 to 128 bytes, got 0"),
        (b'{"creator": "a\\u0000"}', "creator: expected no control characters"),
        (b'{"conversation": "a\\nb"}', "conversation: expected no control characters"),
        ('{"conversation": "%s"}' % ("é" * 65), "conversation: expected 1 to 128 bytes, got 130"),
        ('{"title": "%s"}' % ("t" * 257), "title: expected 1 to 256 bytes, got 257"),
        ('{"client_id": "%s"}' % ("é" * 33), "client_id: expected 1 to 64 bytes, got 66"),
    ],
)
def test_conversation_when_its_names_are_none_of_the_protocol_then_422_names_the_field(
    shared: ServerProcess, body: bytes | str, detail: str
) -> None:
    with rest(shared) as client:
        headers = {"Content-Type": "application/json"}
        answer = client.post("/v1/conversations", content=body, headers=headers)
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"].startswith(detail)


@pytest.mark.parametrize(
    ("content", "kind"),
    [("text", "text"), ({"$bytes": "AA=="}, "binary"), ({"a": 1.0}, "data"), (None, "data")],
)
async def test_message_when_posted_without_a_kind_then_the_content_gives_it(
    shared: ServerProcess, content: Any, kind: str
) -> None:
    async with open_client(shared, "http-ann") as ann:
        with rest(shared) as client:
            path = make_conversation(client, "http-ann")
            answer = client.post(f"{path}/messages", json={"content": content})
            assert answer.status_code == 201, answer.text
        message = await ann.receive_event("new_message")
        assert (message["content"], message["kind"], message["sender"]) == (content, kind, "")


@pytest.mark.parametrize(
    "content", [b'"\\ud800"', b"NaN", b"1e999", b"18446744073709551616", b'{"$x": 1}', b"[" * 65 + b"]" * 65]
)
def test_message_when_its_content_is_no_value_then_400_names_it(
    shared: ServerProcess, content: bytes
) -> None:
    with rest(shared) as client:
        path = make_conversation(client)
        body = b'{"kind": "own", "content": ' + content + b"}"
        headers = {"Content-Type": "application/json"}
        answer = client.post(f"{path}/messages", content=body, headers=headers)
        assert answer.status_code == 400, answer.text
        assert answer.json()["detail"].startswith("content: ")


@pytest.mark.parametrize("count", [1, 3])
def test_upgrade_when_pipelined_then_what_came_before_is_answered(shared: ServerProcess, count: int) -> None:
    upgrade = (
        "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with raw_socket(shared) as connection:
        connection.sendall(("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * count + upgrade).encode())
        assert read_all(connection).count(b"HTTP/1.1 200 ") == count
