"""Tiers on a running server: their figures, full ones, and who gives way."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.serving import Client, ServerProcess, Start, open_client, wait_until

CAPS = {
    "FASTIM_TIER_CRITICAL__CONNECTIONS": "1",
    "FASTIM_TIER_STANDARD__CONNECTIONS": "2",
    "FASTIM_TIER_DEGRADED__CONNECTIONS": "2",
}


def come(server: ServerProcess, user: str, tier: str) -> contextlib.AbstractAsyncContextManager[Client]:
    """Connect with a token of a tier in the hello."""
    return open_client(server, user, hello={"token": server.token(user, tier=tier)})


def metrics(server: ServerProcess) -> dict[str, float]:
    with httpx.Client(base_url=server.http, trust_env=False) as http:
        lines = http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


async def refused(client: Client, server: ServerProcess, tier: str) -> Any:
    """Say hello and return the error that answers it."""
    event, error = await client.request("hello", {"token": server.token("late", tier=tier)})
    assert event == "error"
    return error


async def is_served(client: Client) -> bool:
    event, _ = await client.request("ping", {})
    return event == "ok"


async def test_hello_when_its_tier_is_full_then_the_next_lower_one_is_given_and_told(start: Start) -> None:
    server = start(**CAPS)
    async with contextlib.AsyncExitStack() as stack:
        given = []
        for number in range(5):
            client = await stack.enter_async_context(come(server, f"u{number}", "critical"))
            given.append(client.ok["tier"])
        assert given == ["critical", "standard", "standard", "degraded", "degraded"]
        late = await stack.enter_async_context(open_client(server))
        error = await refused(late, server, "critical")
        assert error["code"] == "unavailable"
        assert error["retry_after_ms"] >= 5_000
        assert await late.closed() == (4013, "the server is full")
        figures = metrics(server)
        assert figures["fastim_tiers_critical_connections"] == 1
        assert figures["fastim_tiers_standard_connections"] == 2
        assert figures["fastim_tiers_degraded_connections"] == 2
        assert figures["fastim_tiers_lowered_total"] == 4
        assert figures["fastim_tiers_refused_total"] == 1
    wait_until(lambda: metrics(server)["fastim_tiers_critical_connections"] == 0, "the places are free again")
    async with come(server, "again", "critical") as client:
        assert client.ok["tier"] == "critical"


async def test_server_when_full_then_the_longest_idle_of_the_lowest_tier_gives_way(start: Start) -> None:
    """Neither the oldest nor one of a higher tier; and the newcomer is in, not refused all the same."""
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="4")
    async with (
        come(server, "standard", "standard") as standard,
        come(server, "oldest", "degraded") as oldest,
        come(server, "idlest", "degraded") as idlest,
        come(server, "youngest", "degraded") as youngest,
    ):
        for client in (youngest, oldest):
            assert await is_served(client)
        async with come(server, "new", "standard") as newcomer:
            assert newcomer.ok["tier"] == "standard"
            assert await is_served(newcomer)
            told = await idlest.receive_event("forced_disconnect")
            assert told["reason"] == "evicted"
            assert told["retry_after_ms"] >= 5_000
            assert (await idlest.closed())[0] == 4010
            for client in (standard, youngest, oldest):
                assert await is_served(client)
            async with come(server, "critical", "critical") as another:
                assert another.ok["tier"] == "critical"
                assert (await youngest.closed())[0] == 4010  # spoke before the oldest did
                assert await is_served(oldest)
        assert metrics(server)["fastim_tiers_evicted_total"] == 2


async def test_server_when_full_of_equals_then_nobody_gives_way_and_the_newcomer_is_refused(
    start: Start,
) -> None:
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="2")
    async with come(server, "a", "standard") as one, come(server, "b", "standard") as two:
        for tier in ("standard", "degraded"):
            async with open_client(server) as late:
                assert (await refused(late, server, tier))["code"] == "unavailable"
                assert (await late.closed())[0] == 4013
            # With the token in the head it is told before the upgrade.
            headers = {"Authorization": f"Bearer {server.token('late', tier=tier)}"}
            with pytest.raises(InvalidStatus) as caught:
                async with open_client(server, additional_headers=headers):
                    pass
            assert caught.value.response.status_code == 503
            assert 5 <= int(caught.value.response.headers["Retry-After"]) <= 15
        headers = {"Authorization": f"Bearer {server.token('boss', tier='critical')}"}
        async with open_client(server, additional_headers=headers) as boss:
            assert (await boss.request("hello", {}))[1]["tier"] == "critical"
            assert (await one.closed())[0] == 4010
        assert await is_served(two)


async def test_server_when_full_of_silent_sockets_then_a_place_is_still_a_place(start: Start) -> None:
    """Sockets that never say hello take no places."""
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="2", FASTIM_LIMITS__ENTERING_CONNECTIONS="8")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(6):
            await stack.enter_async_context(open_client(server))
        for number in range(2):
            client = await stack.enter_async_context(come(server, f"u{number}", "standard"))
            assert await is_served(client)


async def test_resume_when_the_server_is_full_then_it_gets_the_place_of_the_connection_it_replaces(
    start: Start,
) -> None:
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="1")
    async with come(server, "a", "standard") as before:
        resume = {"session": before.ok["session"], "seen": {}}
        async with open_client(server, "a", hello={"device": before.ok["device"], "resume": resume}) as after:
            assert after.ok["resumed"] is True
            assert await is_served(after)
            async with open_client(server) as late:
                body = {"token": server.token("b"), "resume": {"session": "x", "seen": {}}}
                assert (await late.request("hello", body))[0] == "error"
                assert (await late.closed())[0] == 4013
            assert await is_served(after)


async def test_login_when_the_server_is_full_then_it_gets_the_place_of_the_one_that_gives_way(
    start: Start,
) -> None:
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="1", FASTIM_SESSION__POLICY="user")
    async with come(server, "a", "standard") as before, come(server, "a", "standard") as after:
        assert (await before.closed())[0] == 4004
        assert await is_served(after)
        async with open_client(server) as late:
            assert (await refused(late, server, "standard"))["code"] == "unavailable"
        wait_until(lambda: metrics(server)["fastim_tiers_standard_connections"] == 1, "one place is taken")


async def test_refresh_when_its_token_names_another_tier_then_it_moves_there_if_there_is_room(
    start: Start,
) -> None:
    server = start(**CAPS)
    async with come(server, "a", "degraded") as client, come(server, "b", "critical"):

        async def refresh(tier: str) -> str:
            event, body = await client.request("refresh", {"token": server.token("a", tier=tier)})
            assert event == "ok"
            return str(body["tier"])

        assert await refresh("critical") == "standard"  # that one is full
        assert metrics(server)["fastim_tiers_standard_connections"] == 1
        assert await refresh("degraded") == "degraded"
        async with come(server, "c", "standard"), come(server, "d", "standard"):
            assert await refresh("standard") == "degraded"
        assert metrics(server)["fastim_tiers_degraded_connections"] == 1


@contextlib.asynccontextmanager
async def come_deaf(server: ServerProcess, tier: str) -> AsyncIterator[Client]:
    """Connect a client that takes nothing after its hello, until it is asked to."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plug.connect(("127.0.0.1", server.port))
    hello = {"token": server.token("deaf", tier=tier)}
    async with open_client(
        server, "deaf", hello=hello, sock=plug, max_queue=1, ping_interval=None, close_timeout=0.1
    ) as client:
        yield client


async def test_outbox_when_its_client_does_not_read_then_bounded_by_the_tiers_queued_messages(
    start: Start,
) -> None:
    server = start("tests.e2e.application:app", FASTIM_LIMITS__PACKETS_PER_SECOND="0")
    held: list[float] = []  # the most of each tier, as it was looked at in steps of 200 KB
    async with open_client(server, "watch") as watch:
        for tier, messages in [("degraded", 100), ("standard", 500), ("critical", 1_000)]:
            async with come_deaf(server, tier) as deaf:
                await deaf.request("join", tier)
                before = metrics(server)
                most = 0.0
                closed = False
                while not closed:
                    for _ in range(20):
                        await watch.send("publish", {"topic": tier, "value": "x" * 10_000})
                    assert await is_served(watch)
                    now = await asyncio.to_thread(metrics, server)
                    closed = now["fastim_hub_slow_closed_total"] > before["fastim_hub_slow_closed_total"]
                    most = max(most, now["fastim_hub_chunk_bytes"] - before["fastim_hub_chunk_bytes"])
                # Chunks have room to grow: at most twice what waits, beside the arenas of a tick.
                assert most <= 2 * messages * 1024 + (1 << 20)
                held.append(most)
                async for _ in deaf.receive_until_closed():
                    pass
                assert (await deaf.closed())[0] in (4008, 1006)
    assert held[0] < held[1] < held[2]
    assert held[1] >= 500 * 1024 - 200_000
    assert held[2] >= 1_000 * 1024 - 200_000
