"""Engine.IO from outside: TLS, proxies, limits, and many clients that do as they please."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.e2e.serving import ServerProcess, Start, figures, rest, wait_until
from tests.support.polling import WAIT_S, HttpConnection, PollingClient

APPLICATION = "tests.e2e.application:app"


@contextlib.asynccontextmanager
async def going_over(
    server: ServerProcess, client: PollingClient, context: ssl.SSLContext | None = None
) -> AsyncIterator[ClientConnection]:
    """Open the WebSocket of a session that polls, and probe it."""
    scheme = "ws" if context is None else "wss"
    address = (
        f"{scheme}://127.0.0.1:{server.port}/engine.io/?EIO=4&transport=websocket&sid={client.opened['sid']}"
    )
    async with connect(address, proxy=None, ssl=context) as socket:
        await socket.send("2probe")
        assert await asyncio.wait_for(socket.recv(), WAIT_S) == "3probe"
        yield socket


async def test_session_over_tls_polls_and_goes_over(start: Start, certificate: tuple[Path, Path]) -> None:
    server = start(APPLICATION, "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    context = ssl.create_default_context(cafile=str(certificate[0]))
    async with PollingClient(server.port, context=context) as client:
        await client.open()
        await client.getting.send("GET", client.target)
        await client.send(b"4held\x1ebAQI=")
        assert (await client.getting.answer()).body == b"4held\x1ebAQI="
        large = b"4" + b"x" * 90_000
        await client.send(large)
        assert await client.receive() == large
        async with going_over(server, client, context) as socket:
            await client.send(b"4before")
            await socket.send("5")
            await socket.send("4after")
            received = [await asyncio.wait_for(socket.recv(), WAIT_S) for _ in range(2)]
            assert received == ["4before", "4after"]


async def test_poll_that_vanishes_over_tls_ends_the_session(
    start: Start, certificate: tuple[Path, Path]
) -> None:
    server = start(APPLICATION, "--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    context = ssl.create_default_context(cafile=str(certificate[0]))
    async with PollingClient(server.port, context=context) as client:
        await client.open()
        await client.getting.send("GET", client.target)
        client.getting.abort()
        answer = await client.post(b"4x")
        while answer.status == 200:
            answer = await client.post(b"4x")
        assert answer.error[1] == 1


async def test_many_sessions_that_poll_and_go_over_while_they_talk_lose_nothing(start: Start) -> None:
    server = start(
        APPLICATION,
        FASTIM_LIMITS__PACKETS_PER_SECOND="0",
        FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0",
    )
    count = 300

    async def talk() -> list[str]:
        """Send numbers by polling, then over the WebSocket; return what came back, in order."""
        received: list[str] = []
        async with PollingClient(server.port) as client:
            await client.open()
            half = count // 2
            for first in range(0, half, 50):
                await client.send(b"\x1e".join(b"4%d" % number for number in range(first, first + 50)))
                if first == 50:
                    received += (await client.get()).body.decode().split("\x1e")
            async with going_over(server, client) as socket:
                received += (await client.get()).body.decode().split("\x1e")
                await client.send(b"4%d" % half)
                await socket.send("5")
                for number in range(half + 1, count):
                    await socket.send(f"4{number}")
                while len(received) < count:
                    received.append(str(await asyncio.wait_for(socket.recv(), WAIT_S)))
        return received

    for received in await asyncio.gather(*(talk() for _ in range(40))):
        assert received == [f"4{number}" for number in range(count)]
    wait_until(lambda: figures(server)["fastim_engineio_websocket_sessions"] == 0, "all sessions are gone")
    assert figures(server)["fastim_engineio_upgraded_total"] == 40
    assert figures(server)["fastim_engineio_polling_sessions"] == 0


async def test_polls_of_one_sid_from_everywhere_end_that_session_alone(shared: ServerProcess) -> None:
    async with PollingClient(shared.port) as client, PollingClient(shared.port) as other:
        await client.open()
        await other.open()

        async def poll() -> int:
            async with HttpConnection(shared.port) as http:
                return (await http.request("GET", client.target)).status

        statuses = await asyncio.gather(*(poll() for _ in range(200)))
        assert sorted(set(statuses)) == [200, 400]
        assert statuses.count(200) == 1
        await other.send(b"4still here")
        assert await other.receive() == b"4still here"


async def test_payload_that_is_too_large_is_not_read(shared: ServerProcess) -> None:
    async with PollingClient(shared.port) as client:
        await client.open()
        assert client.opened["maxPayload"] == 102_400
        await client.posting.send("POST", client.target, length=102_401)
        assert (await client.posting.answer()).status == 413
        await client.send(b"4x")
        assert await client.receive() == b"4x"


async def test_client_behind_a_proxy_has_its_own_address(start: Start) -> None:
    server = start(
        APPLICATION,
        FASTIM_SERVER__TRUSTED_PROXIES="127.0.0.1",
        FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="2",
    )
    target = "/engine.io/?EIO=4&transport=polling"
    async with HttpConnection(server.port) as http:

        async def status(address: str) -> int:
            return (await http.request("GET", target, X_Forwarded_For=address)).status

        assert [await status("203.0.113.1") for _ in range(3)] == [200, 200, 429]
        assert await status("203.0.113.2") == 200
    with rest(server) as admin:
        answer = admin.post("/v1/bans", json={"address": "203.0.113.2"})
        assert answer.is_success, answer.text
    async with HttpConnection(server.port) as http:
        assert (await http.request("GET", target, X_Forwarded_For="203.0.113.2")).status == 403


async def test_page_of_another_origin_polls_where_it_is_allowed_to(shared: ServerProcess) -> None:
    origin = "https://app.example.com"
    async with HttpConnection(shared.port) as http:
        target = "/engine.io/?EIO=4&transport=polling"
        answer = await http.request("OPTIONS", target, Origin=origin, Access_Control_Request_Method="POST")
        assert answer.status == 204
        answer = await http.request("GET", target, Origin=origin)
        assert answer.fields["access-control-allow-origin"] == origin
        assert (await http.request("GET", target, Origin="https://evil.example.com")).status == 403


async def test_connection_that_asked_for_something_else_before_is_served(shared: ServerProcess) -> None:
    async with httpx.AsyncClient(base_url=shared.http, trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 200
        answer = await http.get("/engine.io/?EIO=4&transport=polling")
        assert answer.text[0] == "0"
        sid = json.loads(answer.text[1:])["sid"]
        target = f"/engine.io/?EIO=4&transport=polling&sid={sid}"
        assert (await http.post(target, content=b"4x")).text == "ok"
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get(target)).text == "4x"


async def test_server_that_ends_answers_open_polls(start: Start) -> None:
    server = start(APPLICATION)
    async with PollingClient(server.port) as client:
        await client.open()
        await client.getting.send("GET", client.target)
        # The poll is there before the signal is.
        wait_until(lambda: figures(server)["fastim_engineio_polls_total"] == 1, "the poll has come")
        assert await asyncio.to_thread(server.stop) == 0
        assert (await client.getting.answer()).body == b"1"


@pytest.mark.parametrize("preset", ["default", "mobile"])
async def test_preset_is_what_clients_are_told(start: Start, preset: str) -> None:
    server = start(APPLICATION, FASTIM_ENGINEIO__PRESET=preset)
    async with PollingClient(server.port) as client:
        await client.open()
        told = client.opened["pingInterval"], client.opened["pingTimeout"]
        assert told == {"default": (15_000, 10_000), "mobile": (25_000, 20_000)}[preset]
