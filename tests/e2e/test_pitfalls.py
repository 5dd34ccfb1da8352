"""What went wrong in other servers, tried on a running one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import ServerProcess, Start, open_client, raw_socket, read_all, rest, wait_until
from tests.support.visits import frame, hello

HOST = b"Host: 127.0.0.1\r\n"
GET = b"GET /healthz HTTP/1.1\r\n" + HOST
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
SMUGGLED = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"


def open_sockets(server: ServerProcess) -> int:
    count = 0
    for link in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(link.readlink()).startswith("socket:")
    return count


def ask(server: ServerProcess, request: bytes) -> bytes:
    """Send bytes and return all that is answered until the server closes."""
    with raw_socket(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        return read_all(connection)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /healthz HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"
        + SMUGGLED,
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n" + SMUGGLED,
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"POST /healthz HTTP/1.1\r\n" + HOST + b"Content-Length: +3\r\n\r\nabc" + SMUGGLED,
        GET + b"A: b\r\n c: d\r\n\r\n" + SMUGGLED,
        GET + b"A: b\n\n" + SMUGGLED,
        GET + b"A: b\rB: c\r\n\r\n" + SMUGGLED,
        GET + b"A: \0\r\n\r\n" + SMUGGLED,
        GET + HOST + b"\r\n" + SMUGGLED,
        b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"Content-Length: 3\r\n\r\nabc" + SMUGGLED,
        b"GET /ws HTTP/1.0\r\n" + HOST + UPGRADE + b"\r\n" + SMUGGLED,
        b"GET /other HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n" + SMUGGLED,
        b"GET /\r\n" + SMUGGLED,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
        GET + b"\r\n" + b"GET /healthz HTTP/1.1\nHost: x\n\n" + SMUGGLED,
        GET
        + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
        + SMUGGLED,
    ],
)
def test_request_when_it_can_be_read_in_two_ways_then_nothing_behind_it_is(
    shared: ServerProcess, request_bytes: bytes
) -> None:
    answer = ask(shared, request_bytes)
    statuses = re.findall(rb"HTTP/1\.1 (\d+) ", answer)
    assert len(statuses) <= 1 or statuses == [
        b"200",
        b"400",
    ]  # a whole one, and what cannot be read behind it
    assert b" 404 " not in answer or b"/other" in request_bytes
    assert "/smuggled" not in shared.log()


def test_refusals_when_a_client_leaves_its_requests_alone_then_no_traceback(start: Start) -> None:
    server = start()
    for _ in range(20):
        ask(server, GET + b"\r\n" + b"GET /healthz HTTP/1.1\nHost: x\n\n")
        ask(server, GET + b"\r\n" + b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n")
        ask(server, (GET + b"\r\n") * 500)
    assert server.stop() == 0
    assert "Traceback" not in server.log()


def test_http_when_all_its_places_are_held_then_a_newcomer_has_one(start: Start) -> None:
    server = start()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(raw_socket(server)) for _ in range(300)]
        for number, connection in enumerate(held):
            # A half body, a half head behind an answer, and an idle one.
            connection.sendall((GET + b"\r\n", GET + b"Content-Length: 5\r\n\r\nab")[number % 2])
        for connection in held:  # until then they are being served, and none of them gives way
            with contextlib.suppress(ConnectionResetError):
                connection.recv(1)
        for _ in range(3):
            assert httpx.get(f"{server.http}/readyz", trust_env=False).status_code == 200


def test_forwarded_address_when_it_says_loopback_then_nothing_is_gained(start: Start) -> None:
    """The address that limits and bans are kept by is the socket's, whatever a header says."""
    server = start(FASTIM_BANS__ALLOW="", FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="3")
    head = b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE
    for number in range(4):
        with raw_socket(server) as connection:
            connection.sendall(head + b"X-Forwarded-For: 192.0.2.%d\r\n\r\n" % number)
            status = connection.recv(12)
        assert status == (b"HTTP/1.1 101" if number < 3 else b"HTTP/1.1 429")


def test_cors_when_a_foreign_page_asks_then_it_is_told_nothing(shared: ServerProcess) -> None:
    page = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    with httpx.Client(base_url=shared.http, trust_env=False) as client:
        for path in ("/healthz", "/v1/conversations", "/metrics"):
            for answer in (client.get(path, headers=page), client.options(path, headers=page)):
                assert not [name for name in answer.headers if name.startswith("access-control")]
        rebound = {"Host": f"rebound.example:{shared.port}"}
        assert client.get("/metrics", headers=rebound).status_code == 401


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://app.example.com.evil.example",
        "https://evilapp.example.com",
        "https://app.example.com:8443",
        "http://app.example.com",
        "https://app.example.com@evil.example",
        "https://app.example.com/",
        "file://",
    ],
)
def test_origin_when_it_only_looks_like_an_allowed_one_then_403(shared: ServerProcess, origin: str) -> None:
    head = b"GET /ws HTTP/1.1\r\n" + HOST + UPGRADE + b"Origin: " + origin.encode() + b"\r\n\r\n"
    assert ask(shared, head).startswith(b"HTTP/1.1 403 ")


async def test_pages_when_asked_for_and_never_taken_then_bounded(shared: ServerProcess) -> None:
    """Whoever asks for page after page and reads nothing is refused, and holds no memory of ours."""
    async with open_client(shared, "pit-a") as owner:
        _, made = await owner.request("conversation_create", {"kind": "group", "members": ["pit-b"]})
        room = made["conversation"]
        for _ in range(10):
            assert (await owner.request("message", {"conversation": room, "content": "x" * 90_000}))[
                0
            ] == "ok"
        async with open_client(shared, "pit-b", max_queue=1) as greedy:
            batch = json.dumps([["history", {"conversation": room}, n + 1_000] for n in range(1_000)])
            for _ in range(4):
                await greedy.socket.send(batch)
            assert (await owner.request("echo", "still here")) == ["ok", "still here"]
            codes: Counter[str] = Counter()
            while codes["rate_limited"] < 100:  # they come before the pages
                event, body, _ = await greedy.receive()
                codes[body["code"] if event == "error" else event] += 1
            assert set(codes) <= {"ok", "rate_limited"}


async def test_secrets_when_shown_in_every_place_then_never_logged(start: Start) -> None:
    server = start(
        "tests.e2e.application:app", FASTIM_SERVER__LOG_LEVEL="debug", FASTIM_AUTH__TOKEN_IN_URL="true"
    )
    token = server.token("shy")
    marks = [
        token,
        token[-20:],
        "PAYLOAD",
        server.api_key,
        "BADTOKEN",
        (server.data / "secret").read_text().strip(),
    ]
    async with open_client(server, "shy", hello={"token": token}) as client:
        _, made = await client.request(
            "conversation_create", {"kind": "group", "members": [], "title": "PAYLOAD"}
        )
        room = made["conversation"]
        await client.request("message", {"conversation": room, "content": "PAYLOAD"})
        await client.request(
            "message", {"conversation": room, "content": 1, "kind": "text", "client_id": "PAYLOAD"}
        )
        await client.request("refresh", {"token": token})
        await client.request("refresh", {"token": "BADTOKEN"})
        await client.request("PAYLOAD", "PAYLOAD")
        await client.socket.send("PAYLOAD")
        with rest(server) as http:
            path = f"/v1/conversations/{room}/messages"
            assert http.post(path, json={"content": "PAYLOAD"}).status_code == 201
            assert http.post(path, json={"content": "PAYLOAD", "kind": 1}).status_code == 422
            assert http.post(path, content=b'{"PAYLOAD').status_code == 415
            broken = http.post(path, content=b'{"PAYLOAD', headers={"Content-Type": "application/json"})
            assert broken.status_code == 422
            assert http.get(path, params={"after": "PAYLOAD"}).status_code == 422
            assert http.get("/healthz", params={"token": token}).status_code == 200
        ask(server, b"GET /ws?token=BADTOKEN HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n")
        ask(server, b"GET /ws?token=" + token.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        ask(
            server,
            b"GET /healthz?token=" + token.encode() + b" HTTP/1.1\r\n" + HOST + b"A\x01: BADTOKEN\r\n\r\n",
        )
    assert server.stop() == 0
    log = server.log()
    assert "fastim.http" in log
    assert not [mark for mark in marks if mark in log]


async def test_resume_when_two_connections_bring_one_session_back_at_once_then_one_has_it(
    shared: ServerProcess,
) -> None:
    async with open_client(shared, "twice", hello={"device": "d"}) as first:
        session = first.ok["session"]
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(shared)) for _ in range(5)]
        body = {"token": shared.token("twice"), "device": "d", "resume": {"session": session, "seen": {}}}
        for client in clients:
            await client.send("hello", body, 1)
        ends = [asyncio.create_task(client.socket.wait_closed()) for client in clients]
        open_count = len(clients)
        async with asyncio.timeout(10):
            while open_count > 1:
                await asyncio.wait([end for end in ends if not end.done()], return_when="FIRST_COMPLETED")
                open_count = sum(not end.done() for end in ends)
        assert Counter(client.socket.close_code for client in clients) == {4004: 4, None: 1}
        (left,) = [client for client in clients if client.socket.close_code is None]
        assert (await left.receive_event("ok"))["session"] == session
        assert await left.request("echo", 1) == ["ok", 1]
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)


def test_descriptors_when_many_connect_and_say_nothing_then_all_come_back(start: Start) -> None:
    server = start(FASTIM_LIMITS__HEAD_TIMEOUT_S="0.5")

    before = open_sockets(server)
    with contextlib.ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(raw_socket(server))
        wait_until(lambda: open_sockets(server) <= before + 2, "the silent ones are closed")


@pytest.mark.parametrize("reused", [False, True])
def test_descriptor_when_a_client_never_takes_its_answers_then_it_comes_back(
    start: Start, reused: bool
) -> None:
    """Also behind a hand-over to HTTP and back, where asyncio's transport has bytes that nobody takes."""
    server = start("tests.e2e.application:app", FASTIM_LIMITS__CLOSE_TIMEOUT_S="0.5")
    before = open_sockets(server)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        if reused:
            connection.sendall(GET + b"\r\n")
            while b'"ok"' not in connection.recv(4096):
                pass
        connection.sendall(hello(server.token("deaf")))
        while b'"resumed"' not in connection.recv(4096):
            pass
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            for _ in range(1_000):
                connection.sendall(frame(0x81, b'["echo","' + b"x" * 50_000 + b'",1]'))
        wait_until(lambda: open_sockets(server) <= before, "its descriptor is back")


async def test_stranger_when_it_writes_into_a_conversation_of_others_then_nothing_of_it_arrives(
    shared: ServerProcess,
) -> None:
    """No membership check: a stranger posts into any conversation, sends typing and receipts."""
    async with open_client(shared, "str-a") as owner, open_client(shared, "str-x", binary=True) as stranger:
        _, made = await owner.request("conversation_create", {"kind": "group", "members": ["str-b"]})
        room = made["conversation"]
        assert (await owner.request("message", {"conversation": room, "content": "ours"}))[0] == "ok"
        for event, body in (
            ("message", {"content": "mine"}),
            ("binary", {"data": b"mine"}),
            ("typing", {"typing": True}),
            ("ack", {"seq": 1}),
            ("read_receipt", {"seq": 1}),
            ("history", {}),
            ("members", {}),
            ("presence_subscribe", {}),
            ("conversation_update", {"title": "mine"}),
        ):
            answer, error = await stranger.request(event, {"conversation": room, **body})
            assert (answer, error["code"]) == ("error", "forbidden"), event
        _, page = await owner.request("history", {"conversation": room})
        assert [message["content"] for message in page["messages"]] == ["ours"]
        _, members = await owner.request("members", {"conversation": room})
        marks = {each["user"]: (each["delivered"], each["read"]) for each in members["members"]}
        assert marks["str-b"] == (0, 0)
        assert "str-x" not in marks


async def test_client_id_when_others_chose_the_same_then_each_message_is_stored(
    shared: ServerProcess,
) -> None:
    """The client's id as the key: ids forged across users, and one duplicate stops all storing for ever."""
    async with open_client(shared, "cid-a") as one, open_client(shared, "cid-b", binary=True) as two:
        rooms = []
        for _ in range(2):
            _, made = await one.request("conversation_create", {"kind": "group", "members": ["cid-b"]})
            rooms.append(made["conversation"])
        ids = set()
        for room in rooms:
            for client, text in ((one, "a"), (two, "b")):
                body = {"conversation": room, "content": text, "client_id": "same"}
                event, answer = await client.request("message", body)
                assert (event, answer["duplicate"]) == ("ok", False)
                ids.add(answer["id"])
                event, again = await client.request("message", body)
                assert (event, again["duplicate"], again["id"]) == ("ok", True, answer["id"])
                event, error = await client.request("message", body | {"content": "another"})
                assert (event, error["code"]) == ("error", "conflict")
        assert len(ids) == 4
        for room in rooms:
            _, page = await one.request("history", {"conversation": room, "after": 0})
            assert [(m["seq"], m["sender"]) for m in page["messages"]] == [(1, "cid-a"), (2, "cid-b")]
        for seq in (3, 4):
            event, answer = await two.request("message", {"conversation": rooms[0], "content": "on it goes"})
            assert (event, answer["seq"]) == ("ok", seq)
