"""What suites of Engine.IO's protocol ask of a server, over real sockets and in its own time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.support.polling import WAIT_S, HttpConnection, PollingClient

ROOT = Path(__file__).parents[2]
TARGET = "/engine.io/?EIO=4&transport=polling"
KEYS = ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    log = tmp_path_factory.mktemp("engineio") / "log"
    command = [sys.executable, str(ROOT / "tests/compliance/engineio_suite.py"), "0"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT) as process,
    ):
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()
            assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


@pytest.fixture
async def client(port: int) -> AsyncIterator[PollingClient]:
    async with PollingClient(port) as opened:
        yield await opened.open()


@pytest.fixture
async def http(port: int) -> AsyncIterator[HttpConnection]:
    async with HttpConnection(port) as connection:
        yield connection


@contextlib.asynccontextmanager
async def websocket(port: int, query: str = "EIO=4&transport=websocket") -> AsyncIterator[ClientConnection]:
    async with connect(f"ws://127.0.0.1:{port}/engine.io/?{query}", proxy=None) as socket:
        yield socket


async def read(socket: ClientConnection) -> str | bytes:
    return await asyncio.wait_for(socket.recv(), WAIT_S)


async def closed(socket: ClientConnection) -> None:
    """Read until the server has closed."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await read(socket)


async def gone(client: PollingClient) -> bool:
    """Whether its session is known no more."""
    return (await client.get()).error == (400, 1, "Session ID unknown")


# -- the handshake


async def test_polling_handshake(http: HttpConnection) -> None:
    answer = await http.request("GET", TARGET)

    assert answer.status == 200
    content = json.loads(answer.body.removeprefix(b"0"))
    assert list(content) == KEYS
    assert isinstance(content["sid"], str)
    assert list(content.values())[1:] == [["websocket"], 300, 200, 1_000_000]


async def test_websocket_handshake(port: int) -> None:
    async with websocket(port) as socket:
        first = await read(socket)
        assert isinstance(first, str)
        content = json.loads(first.removeprefix("0"))
        assert list(content) == KEYS
        assert list(content.values())[1:] == [[], 300, 200, 1_000_000]


@pytest.mark.parametrize(
    ("method", "query"),
    [
        ("GET", "transport=polling"),
        ("GET", "EIO=abc&transport=polling"),
        ("GET", "EIO=4"),
        ("GET", "EIO=4&transport=abc"),
        ("POST", "EIO=4&transport=polling"),
        ("PUT", "EIO=4&transport=polling"),
    ],
)
async def test_bad_polling_handshake(http: HttpConnection, method: str, query: str) -> None:
    assert (await http.request(method, f"/engine.io/?{query}")).status == 400


@pytest.mark.parametrize(
    "query", ["transport=websocket", "EIO=abc&transport=websocket", "EIO=4", "EIO=4&transport=abc"]
)
async def test_bad_websocket_handshake(port: int, query: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with websocket(port, query):
            pass
    assert caught.value.response.status_code == 400


# -- messages


@pytest.mark.parametrize("payload", [b"4hello", b"4test1\x1e4test2\x1e4test3", b"4hello\x1ebAQIDBA=="])
async def test_payload_comes_back_as_it_went(client: PollingClient, payload: bytes) -> None:
    answer = await client.post(payload)
    assert (answer.status, answer.body) == (200, b"ok")

    assert await client.receive() == payload


async def test_bad_packet_ends_a_polling_session(client: PollingClient) -> None:
    assert (await client.post(b"abc")).status == 400
    assert await gone(client)


async def test_second_poll_ends_the_session(client: PollingClient, http: HttpConnection) -> None:
    await client.getting.send("GET", client.target)
    answer = await http.request("GET", f"{client.target}&t=burst")

    assert answer.status == 400
    first = await client.getting.answer()
    assert (first.status, first.body) == (200, b"1")
    assert await gone(client)


async def test_poll_that_is_cancelled_ends_the_session(client: PollingClient) -> None:
    await client.getting.send("GET", client.target)
    client.getting.abort()
    # The abort is seen at once; a poll that comes before is one too many. Either ends the session.
    assert (await client.get()).status == 400
    assert await gone(client)


async def test_messages_over_websocket_come_back_as_they_went(port: int) -> None:
    async with websocket(port) as socket:
        await read(socket)
        await socket.send("4hello")
        assert await read(socket) == "4hello"
        await socket.send(b"\1\2\3\4")
        assert await read(socket) == b"\1\2\3\4"


async def test_bad_packet_closes_a_websocket(port: int) -> None:
    async with websocket(port) as socket:
        await socket.send("abc")
        await closed(socket)


# -- the heartbeat


async def test_pings_come_by_poll(client: PollingClient) -> None:
    for _ in range(3):
        assert (await client.get()).body == b"2"
        await client.send(b"3")


async def test_polling_session_without_a_pong_is_gone(client: PollingClient) -> None:
    assert (await client.get()).body == b"2"
    assert (await client.get()).body == b"1"
    assert await gone(client)


async def test_pings_come_over_websocket(port: int) -> None:
    async with websocket(port) as socket:
        await read(socket)
        for _ in range(3):
            assert await read(socket) == "2"
            await socket.send("3")


async def test_websocket_without_a_pong_is_closed(port: int) -> None:
    async with websocket(port) as socket:
        await closed(socket)
        assert socket.close_code == 4009


# -- the end


async def test_client_that_closes_frees_its_poll(client: PollingClient) -> None:
    await client.getting.send("GET", client.target)
    await client.send(b"1")

    answer = await client.getting.answer()
    assert (answer.status, answer.body) == (200, b"6")
    assert await gone(client)


async def test_client_that_closes_a_websocket_is_closed(port: int) -> None:
    async with websocket(port) as socket:
        await read(socket)
        await socket.send("1")
        await closed(socket)


# -- from polling to WebSocket


async def test_session_goes_over(client: PollingClient, port: int) -> None:
    async with websocket(port, f"EIO=4&transport=websocket&sid={client.sid}") as socket:
        await socket.send("2probe")
        assert await read(socket) == "3probe"
        answer = await client.get()
        assert (answer.status, answer.body) == (200, b"6")
        await socket.send("5")
        await socket.send("4hello")
        assert await read(socket) == "4hello"


async def test_requests_of_a_session_that_went_over_are_refused(client: PollingClient, port: int) -> None:
    async with websocket(port, f"EIO=4&transport=websocket&sid={client.sid}") as socket:
        await socket.send("2probe")
        assert await read(socket) == "3probe"
        await socket.send("5")
        await socket.send("4gone over")
        assert await read(socket) == "4gone over"

        assert (await client.get()).error == (400, 3, "Bad request")
        assert (await client.post(b"4x")).error == (400, 3, "Bad request")
        await socket.send("4hello")
        assert await read(socket) == "4hello"


async def test_second_websocket_of_a_session_is_closed(client: PollingClient, port: int) -> None:
    query = f"EIO=4&transport=websocket&sid={client.sid}"
    async with websocket(port, query) as socket:
        await socket.send("2probe")
        assert await read(socket) == "3probe"
        await socket.send("5")
        async with websocket(port, query) as other:
            await closed(other)
        await socket.send("4hello")
        assert await read(socket) == "4hello"
