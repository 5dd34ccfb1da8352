"""Transports of asyncio's own loop that carry connections of the hub; end to end there are uvloop and TLS."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from fastim.server.application.app import Context, FastIM
from fastim.server.front.handover import HandOver, HttpProtocol
from fastim.server.front.tls import FedBridge
from tests.unit.server.fed_service import World, running

Eventually = Callable[..., Awaitable[Any]]
app = FastIM()


@app.on("echo")
def echo(ctx: Context, body: Any) -> Any:
    return body


@asynccontextmanager
async def bridged(world: World) -> AsyncIterator[ClientConnection]:
    """Connect over a pair of sockets, one end a transport with a bridge; say hello."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    await world.service.loop.connect_accepted_socket(lambda: FedBridge(world.service), theirs)
    async with connect("ws://unit.test/ws", sock=ours, compression=None, proxy=None, max_queue=2) as client:
        await client.send(json.dumps(["hello", {"token": world.token()}, 1]))
        assert json.loads(await client.recv())[0] == "ok"
        yield client


async def test_bridge_when_the_reader_is_slow_then_nothing_is_lost(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with running(tmp_path, app) as world:
        async with bridged(world) as client:
            text = "x" * 20_000
            for number in range(1, 41):
                await client.send(json.dumps(["echo", text, number]))
            await eventually(lambda: world.service.hub.stats()["received_frames_total"] >= 41)
            received = [json.loads(await client.recv()) for _ in range(40)]
            assert received == [["ok", text, number] for number in range(1, 41)]
        await eventually(lambda: world.service.hub.connections == 0)
        assert not world.service.bridges


async def test_bridge_when_the_client_vanishes_then_its_row_is_free(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with running(tmp_path, app) as world, bridged(world) as client:
        client.transport.abort()
        await eventually(lambda: world.service.hub.connections == 0)
        assert not world.service.connections
        assert not world.service.bridges


async def test_bridge_when_the_server_closes_then_its_row_is_free(
    tmp_path: Path, eventually: Eventually
) -> None:
    async with running(tmp_path, app) as world, bridged(world) as client:
        connection = next(iter(world.service.connections))
        world.service.runtime.close(connection, 4005, "removed")
        await client.wait_closed()
        assert client.close_code == 4005
        await eventually(lambda: world.service.hub.connections == 0)
        assert not world.service.bridges


class Wire(asyncio.Transport):
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 1)})
        self.reading = True
        self.closing = False
        self.protocol: asyncio.BaseProtocol | None = None

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol


class Http:
    """What takes requests over, and leaves them."""

    def __init__(self) -> None:
        self.first = b""

    def make_room(self) -> bool:
        return True

    def protocol(self, first: bytes) -> HttpProtocol:
        self.first = first
        return cast(HttpProtocol, asyncio.Protocol())


async def test_bridge_when_much_waits_before_the_upgrade_is_decided_then_it_is_read_on_in_the_end(
    tmp_path: Path,
) -> None:
    handshake = ClientProtocol(parse_uri("ws://unit.test/ws"))
    handshake.send_request(handshake.connect())
    async with running(tmp_path, app) as world:
        wire, bridge = Wire(), FedBridge(world.service)
        bridge.connection_made(wire)
        # Pings without payload, masked
        bridge.data_received(b"".join(handshake.data_to_send()) + b"\x89\x80\0\0\0\0" * 50_000)
        assert not wire.reading
        assert not bridge.read_again()
        for _ in range(1_000):
            await world.turns()
            if wire.reading or wire.closing:
                break
        assert wire.reading
        assert bridge not in world.service.held


async def test_bridge_when_a_long_request_is_handed_over_then_http_reads_the_rest(tmp_path: Path) -> None:
    async with running(tmp_path, app) as world:
        http = Http()
        world.service.http = cast(HandOver, http)
        wire, bridge = Wire(), FedBridge(world.service)
        bridge.connection_made(wire)
        request = b"POST /v1/x HTTP/1.1\r\nHost: unit.test\r\nContent-Length: 400000\r\n\r\n" + b"x" * 300_000
        bridge.data_received(request)
        assert not wire.reading
        await world.turns()
        assert http.first == request
        assert isinstance(wire.protocol, asyncio.Protocol)
        assert wire.reading
        assert bridge not in world.service.held
