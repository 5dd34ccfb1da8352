"""The hand-over to uvicorn on asyncio's own loop; the end-to-end tests have uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fastim.server.front.handover import MAX_HTTP_CONNECTIONS, MAX_PIPELINED, HandOver, HandOverOptions

Send = Callable[[dict[str, Any]], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Send) -> None:
    """Answer with the path and the size of the body."""
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = f"{scope['path']} {size};".encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def make_door(tasks: list[asyncio.Task[Any]], head_timeout_s: float = 5.0) -> HandOver:
    loop = asyncio.get_running_loop()

    def no_bridge() -> Any:
        raise AssertionError("no upgrade here")

    return HandOver(
        loop,
        application,
        no_bridge,
        lambda it: tasks.append(loop.create_task(it)),
        lambda path: path == b"/front",
        HandOverOptions(head_timeout_s=head_timeout_s),
    )


async def exchange(first: bytes, *later: bytes, head_timeout_s: float = 5.0) -> bytes:
    """Hand a connection over with its first bytes, send the others, and return all that is answered."""
    tasks: list[asyncio.Task[Any]] = []
    door = make_door(tasks, head_timeout_s)
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        for data in later[:1]:
            await loop.sock_sendall(ours, data)  # before the transport reads: must not overtake the first
        door.accept(theirs.detach(), first)
        for data in later[1:]:
            await asyncio.sleep(0)
            await loop.sock_sendall(ours, data)
        received = b""
        async with asyncio.timeout(10):
            while data := await loop.sock_recv(ours, 65536):
                received += data
    await asyncio.gather(*tasks)
    await door.stop(1)
    await asyncio.sleep(0)
    return received


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


CLOSE = "Connection: close\r\n"


async def test_request_when_read_before_then_answered() -> None:
    assert b"/a 0;" in await exchange(get("/a", CLOSE))


@pytest.mark.parametrize("cut", [1, 10, 200])
async def test_requests_when_pipelined_over_the_hand_over_then_in_order(cut: int) -> None:
    stream = b"".join(get(f"/{number}") for number in range(20)) + get("/last", CLOSE)
    answer = await exchange(stream[:cut], stream[cut : cut + 100], stream[cut + 100 :])
    positions = [answer.index(f"/{name} 0;".encode()) for name in [*range(20), "last"]]
    assert positions == sorted(positions)


async def test_body_when_larger_than_the_buffers_then_read_whole() -> None:
    body = b"x" * 1_000_000
    head = f"POST /b HTTP/1.1\r\nHost: x\r\n{CLOSE}Content-Length: {len(body)}\r\n\r\n".encode()
    stream = head + body
    answer = await exchange(stream[:100_000], stream[100_000:150_000], stream[150_000:])
    assert b"/b 1000000;" in answer


async def test_client_when_its_address_has_a_zone_then_known_without_it() -> None:
    class Transport(asyncio.Transport):
        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return self if name == "socket" else default

        def getpeername(self) -> tuple[str, int, int, int]:
            return "fe80::1%eth0", 4711, 0, 2

        getsockname = getpeername

    protocol = make_door([]).protocol(b"")
    protocol.connection_made(Transport())
    assert protocol.client == ("fe80::1", 4711)


async def test_request_when_malformed_then_400() -> None:
    assert (await exchange(b"GET / HTTP/1.1\r\nHost: x\r\nA\x01: b\r\n\r\n")).startswith(b"HTTP/1.1 400 ")


async def test_next_head_when_it_does_not_end_then_closed() -> None:
    answer = await exchange(get("/a"), b"GET /b HTTP/1.1\r\nHos", head_timeout_s=0.05)
    assert b"/a 0;" in answer
    assert b"/b" not in answer


async def test_next_head_when_it_goes_on_and_on_then_closed() -> None:
    tasks: list[asyncio.Task[Any]] = []
    door = make_door(tasks, head_timeout_s=60)
    peer = open_protocol(door, get("/a") + b"GET /b HTTP/1.1\r\nA: ")
    with peer, contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):
            while True:
                await asyncio.get_running_loop().sock_sendall(peer, b"x" * 65_536)
    assert not door.state.connections
    await asyncio.gather(*tasks)


async def test_requests_when_many_are_pipelined_then_all_answered() -> None:
    answer = await exchange(get("/a") * 1_000 + get("/last", CLOSE))
    assert answer.count(b"/a 0;") == 1_000
    assert b"/last 0;" in answer


async def test_requests_when_many_are_pipelined_behind_chunks_then_some_answered_and_closed() -> None:
    chunked = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = await exchange(chunked + get("/a") * 2_000)
    assert b"/c 3;" in answer
    assert 1 <= answer.count(b"/a 0;") <= MAX_PIPELINED + 1


@pytest.mark.parametrize(
    "offer", ["Connection: Upgrade\r\nUpgrade: h2c\r\n", "Connection: Upgrade\r\nUpgrade: x\r\n"]
)
async def test_upgrade_when_to_another_protocol_then_answered_and_closed(offer: str) -> None:
    answer = await exchange(get("/a", offer) + b"PRI * HTTP/2.0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"/a 0;" in answer


async def test_path_of_the_front_when_read_with_a_chunked_body_then_closed_behind_the_answer() -> None:
    chunked = b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = await exchange(chunked + get("/front?x") + get("/a"))
    assert b"/c 3;" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_request_when_malformed_behind_a_good_one_then_400_behind_the_good_answer() -> None:
    answer = await exchange(get("/a") + b"GET /b HTTP/1.1\nHost: x\n\n")
    assert answer.count(b"HTTP/1.1 ") == 2
    assert answer.index(b"/a 0;") < answer.index(b"HTTP/1.1 400 ")


def open_protocol(door: HandOver, first: bytes) -> socket.socket:
    """Give the door a connection, and return its other end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    door.accept(theirs.detach(), first)
    return ours


async def test_door_when_all_wait_for_their_clients_then_one_makes_room() -> None:
    tasks: list[asyncio.Task[Any]] = []
    door = make_door(tasks)
    peers = [open_protocol(door, b"GET /slow HTTP/1.1\r\n") for _ in range(MAX_HTTP_CONNECTIONS)]
    assert len(tasks) == MAX_HTTP_CONNECTIONS  # those on their way in count too
    assert not door.state.connections
    assert not door.make_room()
    await asyncio.gather(*tasks)
    assert len(door.state.connections) == MAX_HTTP_CONNECTIONS
    assert door.make_room()
    assert len(door.state.connections) == MAX_HTTP_CONNECTIONS - 1
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(peers[0], 1), 10) == b""
    await door.stop(1)
    await asyncio.sleep(0)
    for peer in peers:
        peer.close()


async def test_door_when_all_are_being_served_then_full() -> None:
    door = make_door([])
    assert door.make_room()
    for _ in range(MAX_HTTP_CONNECTIONS):
        protocol = door.protocol(b"")
        protocol.transport = _OpenTransport()
        door.state.connections.add(protocol)
    assert not door.make_room()


class _OpenTransport(asyncio.Transport):
    def is_closing(self) -> bool:
        return False
