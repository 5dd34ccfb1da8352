"""What a served process answers to each kind of client: the first look at a server."""

from __future__ import annotations

import httpx
from websockets.asyncio.client import connect

from tests.e2e.serving import ServerProcess, open_client
from tests.support.polling import PollingClient


def test_http_client_is_told_that_it_is_healthy(shared: ServerProcess) -> None:
    assert httpx.get(f"{shared.http}/healthz", trust_env=False).status_code == 200


async def test_native_client_says_hello_and_is_answered(shared: ServerProcess) -> None:
    async with open_client(shared, "first-look") as client:
        assert (await client.request("ping", {}))[0] == "ok"


async def test_client_of_bare_engine_io_gets_its_message_back(shared: ServerProcess) -> None:
    async with PollingClient(shared.port) as client:
        await client.open()
        await client.send(b"4hello")
        assert await client.receive() == b"4hello"
        await client.send(b"1")
    async with connect(
        f"ws://127.0.0.1:{shared.port}/engine.io/?EIO=4&transport=websocket", proxy=None
    ) as socket:
        assert str(await socket.recv()).startswith("0{")
        await socket.send("4hello")
        assert await socket.recv() == "4hello"
