"""Socket.IO over long-polling, and over to WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.serving import ServerProcess, Start
from tests.e2e.test_socketio import APPLICATION, FREE, both, plain
from tests.support.sio import ACK, CONNECT, DISCONNECT, EVENT, WAIT_S, going_over, open_polling, open_sio

__all__ = ["plain"]  # the server, used here too

VALUES: list[Any] = [1, "é\x1e\n", None, {"a": [b"x", {}]}, b"", b"\x00\xff"]


@both
async def test_polling_when_in_namespaces_then_served_as_over_websocket(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_polling(plain.port, packed=packed) as client:
        assert "sid" in await client.connect({"greet": 1})
        assert await client.event("auth") == [{"greet": 1}]
        await client.connect(namespace="/chat")
        assert await client.refused(namespace="/random") == {"message": "Invalid namespace"}
        for event in ("echo", "echo.async"):
            assert await client.call(event, *VALUES) == VALUES
        assert await client.call("echo", b"x", namespace="/chat") == [b"x"]
        for number in range(50):
            await client.emit("echo-event", number, b"x" if number % 7 == 0 else "y")
        for number in range(50):
            assert await client.event("echo-event-back") == [number, b"x" if number % 7 == 0 else "y"]


@both
async def test_polling_when_asked_then_its_answer_counts(plain: ServerProcess, packed: bool) -> None:
    async with open_polling(plain.port, packed=packed) as client:
        await client.connect()
        await client.send(EVENT, "/", 50, ["ask-me", "?"])
        kind, _, ref, data = await client.receive()
        assert (kind, data) == (EVENT, ["question", "?"])
        await client.send(ACK, "/", ref, [b"answer"])
        assert await client.receive() == (ACK, "/", 50, [b"answer"])


@both
async def test_polling_when_namespaces_end_then_the_session_stays(plain: ServerProcess, packed: bool) -> None:
    async with open_polling(plain.port, packed=packed) as client:
        await client.connect()
        await client.connect(namespace="/chat")
        await client.emit("kick", namespace="/chat")
        assert await client.receive() == (DISCONNECT, "/chat", None, None)
        await client.send(DISCONNECT, "/", None)
        await client.connect()
        assert await client.call("echo", 1) == [1]


async def test_polling_when_several_packets_are_posted_then_one_answer_holds_what_they_cause(
    plain: ServerProcess,
) -> None:
    async with open_polling(plain.port) as client:
        await client.connect()
        payload = '420["echo",1]\x1e421["echo",2]\x1e451-2["echo",{"_placeholder":true,"num":0}]\x1ebAQI='
        await client.send_raw(payload)
        got = [await client.receive() for _ in range(3)]
        assert got == [(ACK, "/", 0, [1]), (ACK, "/", 1, [2]), (ACK, "/", 2, [b"\x01\x02"])]


@pytest.mark.parametrize("sent", ["4abc", '42/chat,["echo"]', "bAQI=", '451-["echo",{"_placeholder":true}]'])
async def test_polling_when_no_client_in_order_sends_it_then_the_session_ends_alone(
    plain: ServerProcess, sent: str
) -> None:
    async with open_sio(plain.port) as other, open_polling(plain.port) as client:
        await other.connect()
        await client.connect()
        with contextlib.suppress(ConnectionClosed):  # the answer to the POST may say it
            await client.send_raw(sent)
        await client.closed()
        assert await other.call("echo", 1) == [1]


async def test_polling_when_no_connect_comes_then_the_session_ends(plain: ServerProcess) -> None:
    async with open_polling(plain.port) as client:
        await client.closed()


async def test_polling_when_the_client_leaves_before_on_connect_begins_then_the_application_never_sees_it(
    plain: ServerProcess,
) -> None:
    async with open_polling(plain.port) as client:
        await client.connect()
        await client.send_raw("40/late,\x1e41/late,")
        assert await client.call("doors", "/late") == [[]]
        await client.send_raw("40/doors,\x1e41/doors,")
        assert await client.call("doors", "/doors") == [["first", "last"]]


async def test_going_over_when_no_connect_comes_then_the_transport_ends(plain: ServerProcess) -> None:
    async with open_polling(plain.port) as client, going_over(plain.port, client) as socket:
        await socket.send("5")
        client.socket = socket
        assert await client.closed() == 4014


@both
async def test_going_over_when_packets_are_on_their_way_then_none_is_lost_or_twice(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_polling(plain.port, packed=packed) as client:
        await client.connect()
        await client.connect(namespace="/chat")
        for number in range(5):
            await client.emit("echo-event", number, b"x")
        async with going_over(plain.port, client) as socket:
            for number in range(5, 10):
                await client.emit("echo-event", number, b"x")
            await socket.send("5")
            client.socket = socket
            for number in range(10, 15):
                await client.emit("echo-event", number, b"x")
            got = [await client.event("echo-event-back") for _ in range(15)]
            assert got == [[number, b"x"] for number in range(15)]
            assert await client.call("echo", 1, namespace="/chat") == [1]
            assert await client.call("transport") == ["websocket"]
            await client.emit("kick", namespace="/chat")
            assert await client.receive() == (DISCONNECT, "/chat", None, None)


async def test_going_over_when_attachments_are_awaited_then_they_may_come_by_the_new_way(
    plain: ServerProcess,
) -> None:
    async with open_polling(plain.port) as client:
        await client.connect()
        assert await client.call("transport") == ["polling"]
        await client.send_raw('451-7["echo",{"_placeholder":true,"num":0}]')
        async with going_over(plain.port, client) as socket:
            await socket.send("5")
            client.socket = socket
            await client.send_raw(b"late")
            assert await client.receive() == (ACK, "/", 7, [b"late"])
            await client.send_raw('451-7["echo",{"_placeholder":true,"num":0}]')
            assert await client.closed() == 1002


async def test_going_over_when_attachments_never_come_then_it_is_their_time_that_ends_it(
    start: Start,
) -> None:
    server = start(APPLICATION, **{**FREE, "FASTIM_SOCKETIO__CONNECT_TIMEOUT_S": "600"})
    async with open_polling(server.port) as client:
        await client.connect()
        await client.send_raw('451-7["echo",{"_placeholder":true,"num":0}]')
        async with going_over(server.port, client) as socket:
            await socket.send("5")
            client.socket = socket
            assert await asyncio.wait_for(client.closed(), WAIT_S) == 1002


async def test_polling_when_many_at_once_then_each_gets_its_own(plain: ServerProcess) -> None:
    async def talk(number: int) -> None:
        async with open_polling(plain.port, packed=bool(number % 2)) as client:
            await client.connect()
            for turn in range(10):
                assert await client.call("echo", number, turn, b"x") == [number, turn, b"x"]
            await client.send(CONNECT, "/chat", None)
            assert (await client.receive())[:2] == (CONNECT, "/chat")

    await asyncio.gather(*(talk(number) for number in range(20)))
