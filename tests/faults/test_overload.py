"""A server that has too much to do: it spares itself step by step, says so, and comes back by itself."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest, wait_until
from tests.e2e.test_tiers import come, come_deaf, metrics

QUICK = {
    "FASTIM_PRESSURE__RISE_S": "0.4",
    "FASTIM_PRESSURE__FALL_S": "0.4",
    "FASTIM_PRESSURE__LEAVE_S": "0",
    "FASTIM_PRESSURE__LAG_MS": "0",
    "FASTIM_PRESSURE__MEMORY_SHARE": "0",
    "FASTIM_PRESSURE__OUTBOX_BYTES": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
}
LINE = re.compile(r"pressure: step (\d), .* because of (\w+) ")


def readiness(server: ServerProcess) -> tuple[int, Any]:
    with httpx.Client(base_url=server.http, trust_env=False) as http:
        answer = http.get("/readyz")
    return answer.status_code, answer.json()


def steps(server: ServerProcess) -> list[tuple[str, str]]:
    return LINE.findall(server.log())


async def wait_for_step(server: ServerProcess, step: int) -> None:
    await asyncio.to_thread(
        wait_until, lambda: metrics(server)["fastim_pressure_step"] == step, f"step {step}"
    )


async def fill(server: ServerProcess, sender: Client, topic: str, more_bytes: int) -> None:
    """Let so much wait for a client that does not read."""
    before = metrics(server)["fastim_hub_outbox_bytes"]
    while metrics(server)["fastim_hub_outbox_bytes"] < before + more_bytes:
        for _ in range(5):
            await sender.send("publish", {"topic": topic, "value": "x" * 10_000})
        assert (await sender.request("ping", {}))[0] == "ok"


async def test_outboxes_when_they_hold_too_much_then_step_by_step_and_back_in_reverse(start: Start) -> None:
    server = start("tests.e2e.application:app", **QUICK | {"FASTIM_PRESSURE__OUTBOX_BYTES": "700000"})
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
    async with open_client(server, "a") as one, open_client(server, "b") as two:
        async with come(server, "low", "degraded") as degraded, come_deaf(server, "critical") as deaf:
            await deaf.request("join", "noise")
            await fill(server, one, "noise", 700_000)
            told = await degraded.receive_event("server_shutdown")
            assert told["reconnect"] is True
            assert told["reason"] == "overloaded"
            assert 30_000 <= told["retry_after_ms"] <= 60_000
            assert await degraded.closed() == (4012, "overloaded: come back later")
            await wait_for_step(server, 3)
            # Typing is not sent, messages are.
            await one.send("typing", {"conversation": "c", "typing": True})
            event, _ = await one.request("message", {"conversation": "c", "content": "still"})
            assert event == "ok"
            assert (await two.receive())[0] == "new_message"
            assert metrics(server)["fastim_hub_low_dropped_total"] >= 1
            # Nobody is let in, and the probe says so.
            with pytest.raises(InvalidStatus) as caught:
                async with open_client(server):
                    pass
            assert caught.value.response.status_code == 503
            assert int(caught.value.response.headers["Retry-After"]) >= 30
            status, answer = readiness(server)
            assert status == 503
            assert "pressure: new connections are refused; outbox at" in answer["reason"]
            assert metrics(server)["fastim_pressure_outbox_percent"] >= 100
            deaf.socket.transport.abort()
        await wait_for_step(server, 0)
        assert readiness(server) == (200, {"status": "ok"})
        await one.send("typing", {"conversation": "c", "typing": False})
        await one.send("typing", {"conversation": "c", "typing": True})
        assert (await two.receive_event("state_batch"))["updates"][0]["type"] == "typing"
        async with come(server, "low", "degraded") as again:
            assert again.ok["tier"] == "degraded"
    assert [step for step, _ in steps(server)] == ["1", "2", "3", "2", "1", "0"]
    assert [why for _, why in steps(server)] == ["outbox"] * 3 + ["calm"] * 3


async def test_loop_when_a_handler_blocks_it_again_and_again_then_lag_is_the_cause_and_it_recovers(
    start: Start,
) -> None:
    more = {"FASTIM_PRESSURE__LAG_MS": "150", "FASTIM_PRESSURE__RISE_S": "0", "FASTIM_PRESSURE__FALL_S": "0"}
    server = start("tests.e2e.application:app", **QUICK | more)
    async with open_client(server, "a") as client:
        for _ in range(20):
            await client.request("block", 0.5)
            if ("1", "lag") in steps(server):
                break
        assert ("1", "lag") in steps(server)
        await wait_for_step(server, 0)
        assert readiness(server)[0] == 200
        assert steps(server)[-1] == ("0", "calm")


async def test_memory_when_it_is_over_its_share_then_new_connections_are_refused_and_those_there_served(
    start: Start,
) -> None:
    server = start(**QUICK | {"FASTIM_PRESSURE__MEMORY_SHARE": "0.0001", "FASTIM_PRESSURE__RISE_S": "0.5"})
    async with open_client(server, "a") as client:
        await wait_for_step(server, 3)
        assert readiness(server)[0] == 503
        assert (await client.request("ping", {}))[0] == "ok"
        figures = metrics(server)
        assert figures["fastim_pressure_memory_percent"] > 100
        assert figures["fastim_pressure_lag_percent"] == figures["fastim_pressure_outbox_percent"] == 0
    assert steps(server) == [("1", "memory"), ("2", "memory"), ("3", "memory")]
    assert server.stop() == 0
