"""The front: what is upgraded, what is refused, and who is closed for saying nothing."""

from __future__ import annotations

import json

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.e2e.serving import ServerProcess, Start, open_client, raw_socket, read_all
from tests.e2e.test_bad_input import HANDSHAKE, Raw, bad_tokens


async def refused(server: ServerProcess, path: str = "/ws", **options: object) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(server.ws.removesuffix("/ws") + path, proxy=None, **options):
            pass
    return caught.value


async def test_subprotocol_when_only_unknown_then_400_names_the_two(shared: ServerProcess) -> None:
    error = await refused(shared, subprotocols=["fastim.v9.json", "graphql-ws"])
    assert error.response.status_code == 400
    assert b"fastim.v1.json" in error.response.body
    assert b"fastim.v1.msgpack" in error.response.body


async def test_subprotocol_when_one_is_known_then_chosen(shared: ServerProcess) -> None:
    async with connect(shared.ws, subprotocols=["other", "fastim.v1.msgpack"], proxy=None) as client:
        assert client.subprotocol == "fastim.v1.msgpack"
    async with connect(shared.ws, proxy=None) as client:
        assert client.subprotocol is None
        await client.send(json.dumps(["hello", {"token": shared.token("u")}, 1]))
        assert json.loads(await client.recv())[0] == "ok"


async def test_token_in_header_when_good_then_hello_needs_none(shared: ServerProcess) -> None:
    headers = {"Authorization": f"Bearer {shared.token('headed')}"}
    async with open_client(shared, additional_headers=headers) as client:
        event, ok = await client.request("hello", {})
        assert (event, ok["user"]) == ("ok", "headed")


async def test_token_in_header_or_url_when_bad_then_401_before_the_upgrade(shared: ServerProcess) -> None:
    for name, token in bad_tokens(shared).items():
        if token.isascii():
            error = await refused(shared, additional_headers={"Authorization": f"Bearer {token}"})
            assert error.response.status_code == 401, name
            assert error.response.headers["Content-Type"] == "application/problem+json"
            error = await refused(shared, f"/ws?token={token}")
            assert error.response.status_code == 401, name


async def test_token_in_url_when_allowed_then_taken_and_never_logged(shared: ServerProcess) -> None:
    token = shared.token("by-url")
    async with connect(f"{shared.ws}?x=1&token={token}", proxy=None) as client:
        await client.send(json.dumps(["hello", {}, 1]))
        assert json.loads(await client.recv())[1]["user"] == "by-url"
    with raw_socket(shared) as connection:
        connection.sendall(
            f"GET /nowhere?token={token} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert b" 404 " in read_all(connection)
    assert "/nowhere" in shared.log()
    assert token not in shared.log()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://127.0.0.1:{port}", True),
        ("https://app.example.com", True),
        ("https://app.example.com:443", True),
        ("https://app.example.com.evil.example", False),
        ("http://app.example.com", False),
        ("http://127.0.0.1:1", False),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
    ],
)
async def test_origin_when_sent_then_it_must_be_allowed(
    shared: ServerProcess, origin: str | None, allowed: bool
) -> None:
    headers = {} if origin is None else {"Origin": origin.format(port=shared.port)}
    if allowed:
        async with open_client(shared, "u", additional_headers=headers):
            pass
    else:
        assert (await refused(shared, additional_headers=headers)).response.status_code == 403


async def test_upgrade_when_on_another_path_then_404(shared: ServerProcess) -> None:
    assert (await refused(shared, "/other")).response.status_code == 404


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        ("Version: 13", "Version: 12", 426),
        ("Sec-WebSocket-Version: 13\r\n", "", 426),
        ("GET ", "POST ", 405),
        ("HTTP/1.1", "HTTP/1.0", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=", 400),
        ("dGhlIHNhbXBsZSBub25jZQ==", "????????????????????????", 400),
        ("Host: 127.0.0.1:{port}\r\n", "", 400),
        ("Connection: Upgrade", "Connection: close", 400),
        ("Host:", "Host :", 400),
        ("Host: ", "Host: a\r\nHost: ", 400),
        ("Upgrade: websocket", "Upgrade: websocket\r\n folded", 400),
        ("Upgrade: websocket", "Upgrade: websocket\nX: y", 400),
        ("GET /ws", "GET  /ws", 400),
        ("\r\n{more}", "\r\nContent-Length: 5\r\n", 400),
        ("Upgrade: websocket\r\n", "", 426),
    ],
)
def test_handshake_when_wrong_then_refused_with_a_problem(
    shared: ServerProcess, old: str, new: str, status: int
) -> None:
    assert old in HANDSHAKE
    with raw_socket(shared) as connection:
        connection.sendall(HANDSHAKE.replace(old, new).format(port=shared.port, more="").encode())
        answer = read_all(connection)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    problem = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert problem["status"] == status
    assert problem["detail"]


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
        ("permessage-deflate; server_max_window_bits=8", None),
        (
            "permessage-deflate; server_max_window_bits=11, permessage-deflate; client_max_window_bits",
            "bits=12",
        ),
        ("permessage-deflate; client_max_window_bits=10", "client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", "server_max_window_bits=12"),
        ("permessage-deflate; unknown=1", None),
        ("permessage-bzip2", None),
    ],
)
def test_deflate_when_offered_then_negotiated(shared: ServerProcess, offer: str, answer: str | None) -> None:
    raw = Raw(shared, f"Sec-WebSocket-Extensions: {offer}\r\n")
    raw.socket.close()
    if answer is None:
        assert b"Extensions" not in raw.head
    else:
        assert answer.encode() in raw.head


def test_deflate_when_the_offer_breaks_the_grammar_then_400(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        more = "Sec-WebSocket-Extensions: permessage-deflate; =\r\n"
        connection.sendall(HANDSHAKE.format(port=shared.port, more=more).encode())
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")


def test_frame_when_behind_the_head_then_kept(shared: ServerProcess) -> None:
    hello = json.dumps(["hello", {"token": shared.token("eager")}, 1]).encode()
    frame = bytes([0x81, 0x80 | 126]) + len(hello).to_bytes(2, "big") + bytes(4) + hello
    with raw_socket(shared) as connection:
        connection.sendall(HANDSHAKE.format(port=shared.port, more="").encode() + frame)
        received = b""
        while b'"ok"' not in received:
            received += connection.recv(65536)
    assert b" 101 " in received


def test_client_when_silent_then_closed(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        assert read_all(connection) == b""


def test_client_when_dripping_a_head_then_closed_with_408(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        connection.sendall(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_head_when_too_large_then_431(shared: ServerProcess) -> None:
    with raw_socket(shared) as connection:
        connection.sendall(b"GET /ws HTTP/1.1\r\nX: " + b"x" * 20_000)
        assert read_all(connection).startswith(b"HTTP/1.1 431 ")


async def test_client_when_without_hello_then_closed_with_4014(shared: ServerProcess) -> None:
    async with open_client(shared) as client:
        await client.send("echo", 1)
        assert (await client.closed())[0] == 4014


def test_connects_when_over_the_limit_of_an_address_then_429(start: Start) -> None:
    server = start(
        FASTIM_BANS__ALLOW="",
        FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="3",
        FASTIM_LIMITS__CONNECTS_PER_MINUTE="5",
    )
    for _ in range(3):
        Raw(server).socket.close()
    with raw_socket(server) as connection:
        connection.sendall(HANDSHAKE.format(port=server.port, more="").encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 429 ")
    assert b"Retry-After: " in answer
    with raw_socket(server) as connection:  # HTTP is not a connect
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_connects_when_over_the_limit_of_all_then_503(start: Start) -> None:
    server = start(FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0", FASTIM_LIMITS__CONNECTS_PER_MINUTE="2")
    for _ in range(2):
        Raw(server).socket.close()
    with raw_socket(server) as connection:
        connection.sendall(HANDSHAKE.format(port=server.port, more="").encode())
        assert read_all(connection).startswith(b"HTTP/1.1 503 ")


def test_server_when_no_more_may_enter_then_503(start: Start) -> None:
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="1", FASTIM_LIMITS__ENTERING_CONNECTIONS="1")
    first, second = Raw(server), Raw(server)
    with raw_socket(server) as connection:
        connection.sendall(HANDSHAKE.format(port=server.port, more="").encode())
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: " in answer
    first.socket.close()
    second.socket.close()
