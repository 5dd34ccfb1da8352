"""Transports of asyncio's own loop that carry connections of the hub; end to end there are uvloop and TLS."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from fastim.server.app import Context, FastIM
from fastim.server.tls import FedBridge
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
