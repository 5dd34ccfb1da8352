"""A server under limits, and one whose store does not answer."""

from __future__ import annotations

import sqlite3

import httpx

from tests.e2e.serving import Start, open_client, rest, wait_until


async def test_messages_when_over_the_limit_then_rate_limited_for_that_user_alone(start: Start) -> None:
    server = start(FASTIM_LIMITS__MESSAGES_PER_MINUTE="5")
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
    async with (
        open_client(server, "a") as one,
        open_client(server, "a") as other_device,
        open_client(server, "b") as two,
    ):
        assert one.ok["limits"]["messages_per_minute"] == 5
        body = {"conversation": "c", "content": "x"}
        assert [(await one.request("message", body))[0] for _ in range(5)] == ["ok"] * 5
        for client in (one, other_device):
            event, error = await client.request("message", body)
            assert (event, error["code"]) == ("error", "rate_limited")
            assert 0 < error["retry_after_ms"] <= 64_000
        assert (await two.request("message", body))[0] == "ok"
        assert (await one.request("history", {"conversation": "c"}))[0] == "ok"


async def test_store_when_locked_then_unavailable_and_recovers_by_itself(start: Start) -> None:
    server = start(FASTIM_STORE__BUSY_TIMEOUT_S="0.1")
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
    async with open_client(server, "a") as one, open_client(server, "b") as two:
        body = {"conversation": "c", "content": "x", "client_id": "1"}
        holder = sqlite3.connect(server.data / "fastim.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        event, error = await one.request("message", body)
        assert (event, error["code"]) == ("error", "unavailable")
        with httpx.Client(base_url=server.http, trust_env=False) as http:
            ready = http.get("/readyz")
            assert ready.status_code == 503
            assert "store" in ready.json()["reason"]
            assert "fastim_store_ok 0.0" in http.get("/metrics").text
            assert http.get("/healthz").status_code == 200
            holder.execute("ROLLBACK")
            holder.close()
            event, answer = await one.request("message", body)
            assert (event, answer["seq"], answer["duplicate"]) == ("ok", 1, False)
            assert (await two.receive_event("new_message"))["seq"] == 1
            wait_until(lambda: http.get("/readyz").status_code == 200, "ready again")


async def test_connections_when_they_come_and_go_then_nothing_is_left(start: Start) -> None:
    server = start("tests.e2e.application:app", FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0")

    def figure(name: str) -> float:
        with httpx.Client(base_url=server.http, trust_env=False) as http:
            for line in http.get("/metrics").text.splitlines():
                if line.startswith(f"{name} "):
                    return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    async with open_client(server, "watcher") as watcher:
        topics = figure("fastim_hub_topics")
        for number in range(100):
            async with open_client(server, f"user-{number}") as client:
                await client.request("join", f"topic-{number}")
                await watcher.request("echo", number)
        wait_until(lambda: figure("fastim_connections") == 1, "all others are gone")
        assert figure("fastim_hub_topics") == topics
    wait_until(lambda: figure("fastim_connections") == 0, "the last is gone")
