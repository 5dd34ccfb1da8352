"""Hearts that stop and tokens that end."""

from __future__ import annotations

import asyncio
import json

from tests.e2e.serving import Start, open_client
from tests.e2e.test_bad_input import Raw


async def test_client_when_it_answers_no_ping_then_closed_with_4009(start: Start) -> None:
    server = start(FASTIM_HEARTBEAT__INTERVAL_S="0.2", FASTIM_HEARTBEAT__TIMEOUT_S="0.2")
    raw = Raw(server)
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u")}, 1]).encode())
    assert b'"ok"' in raw.receive()[1]
    first, _ = raw.receive()
    assert first == 0x89  # ping
    assert raw.close_code() == 4009
    raw.socket.close()


async def test_client_when_it_answers_pings_then_stays(start: Start) -> None:
    server = start(
        "tests.e2e.application:app", FASTIM_HEARTBEAT__INTERVAL_S="0.1", FASTIM_HEARTBEAT__TIMEOUT_S="0.3"
    )
    async with open_client(server, "u", ping_interval=None) as client:
        with_pings = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < with_pings:
            await client.send("ask.briefly", None, 1)
            await client.receive_event("ok")
        assert await client.request("echo", 1) == ["ok", 1]


async def test_token_when_it_ends_then_a_warning_and_4002(start: Start) -> None:
    server = start()
    async with open_client(server, hello={}) as client:
        event, _ = await client.request("hello", {"token": server.token("u", ttl_s=2)})
        assert event == "ok"
        warning = await client.receive_event("token_expiring")
        assert warning["exp"] > 0
        assert (await client.closed())[0] == 4002


async def test_token_when_refreshed_then_the_connection_stays(start: Start) -> None:
    server = start("tests.e2e.application:app")
    async with open_client(server) as client:
        await client.request("hello", {"token": server.token("u", ttl_s=2)})
        await client.receive_event("token_expiring")
        event, error = await client.request("refresh", {"token": server.token("other")})
        assert (event, error["code"]) == ("error", "unauthorized")
        event, answer = await client.request("refresh", {"token": server.token("u", ttl_s=3600)})
        assert event == "ok"
        assert answer["exp"] > 0
        event, _ = await client.request("sleep", 2.2)
        assert event == "ok"
        assert await client.request("echo", 1) == ["ok", 1]


async def test_client_when_over_its_packets_then_all_are_served_in_the_end(start: Start) -> None:
    server = start("tests.e2e.application:app", FASTIM_LIMITS__PACKETS_PER_SECOND="50")
    async with open_client(server, "flooder") as client, open_client(server, "neighbour") as neighbour:
        for number in range(1, 151):
            await client.send("echo", number, number)
        assert await neighbour.request("echo", 1) == ["ok", 1]
        assert [(await client.receive())[2] for _ in range(150)] == list(range(1, 151))
        for number in range(20):
            assert await client.request("echo", number) == ["ok", number]
