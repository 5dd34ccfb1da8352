"""Sessions on a running server: they outlive their connections, in bounds, and their end is told once."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from fastim.guard.tokens import issue
from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest

APPLICATION = "tests.e2e.application:app"


def metric(server: ServerProcess, name: str) -> float:
    """A number that the server tells."""
    text = httpx.get(f"{server.http}/metrics", trust_env=False).text
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"no {name} in {text}"
    return float(found[1])


async def ended_of(client: Client, user: str, count: int) -> list[Any]:
    """Ask the application until it was told of so many ends, as often as the server's tick needs."""
    deadline = time.monotonic() + 10
    while True:
        answer = await client.request("ended", user)
        if len(answer[1]) >= count or time.monotonic() > deadline:
            return list(answer[1])


async def test_session_when_the_ring_has_what_it_missed_then_resumed_without_a_read_of_the_store(
    start: Start,
) -> None:
    server = start()
    async with open_client(server, "ann") as ann:
        _, made = await ann.request("conversation_create", {"kind": "group", "members": ["bob"]})
        room = made["conversation"]
        async with open_client(server, "bob", hello={"device": "d"}) as bob:
            await ann.request("message", {"conversation": room, "content": "0"})
            await bob.receive_event("new_message")
            session = bob.ok["session"]
        for number in range(50):
            await ann.request("message", {"conversation": room, "content": str(number)})
        reads = metric(server, "fastim_store_reads_total")
        resume = {"session": session, "seen": {room: 1}}
        async with open_client(server, "bob", hello={"device": "d", "resume": resume}) as bob:
            assert bob.ok["resumed"] is True
            assert bob.ok["session"] == session
            got = [(await bob.receive_event("new_message"))["seq"] for _ in range(50)]
            assert got == list(range(2, 52))
        assert metric(server, "fastim_store_reads_total") == reads
        assert metric(server, "fastim_sessions_resumed_total") == 1
        assert metric(server, "fastim_sessions_live") == 1


async def test_session_when_its_life_is_over_or_others_need_its_room_then_the_application_is_told_once(
    start: Start,
) -> None:
    server = start(APPLICATION, FASTIM_SESSION__LIFE_S="0.3", FASTIM_SESSION__MAX_COUNT="2")
    async with open_client(server, "watcher") as watcher:
        sessions = []
        for number in range(3):
            async with open_client(server, "bob", hello={"device": f"d{number}"}) as bob:
                sessions.append(bob.ok["session"])
        told = await ended_of(watcher, "bob", 3)
        assert told == [
            ["bob", "d0", sessions[0], "evicted"],
            ["bob", "d1", sessions[1], "expired"],
            ["bob", "d2", sessions[2], "expired"],
        ]
        resume = {"session": sessions[2]}
        async with open_client(server, "bob", hello={"device": "d2", "resume": resume}) as bob:
            assert bob.ok["resumed"] is False
            assert bob.ok["session"] != sessions[2]
        assert len(await ended_of(watcher, "bob", 4)) == 4
        _, later = await watcher.request("ended.later", None)
        assert later[:3] == sessions
    assert metric(server, "fastim_sessions_expired_total") >= 3
    assert metric(server, "fastim_sessions_evicted_total") == 1


async def test_token_when_it_ends_then_warned_before_and_refresh_keeps_the_connection(start: Start) -> None:
    server = start()
    secret = (server.data / "secret").read_bytes().strip()
    now = time.time()
    async with open_client(server) as client:
        _, ok = await client.request("hello", {"token": issue(secret, "ann", ttl_s=30, now_s=now)})
        assert ok["user"] == "ann"
        assert (await client.receive_event("token_expiring"))["exp"] == int(now + 30)
        event, answer = await client.request("refresh", {"token": issue(secret, "ann", ttl_s=3_000)})
        assert event == "ok"
        assert answer["exp"] >= int(now) + 3_000
        event, error = await client.request("refresh", {"token": issue(secret, "bob")})
        assert (event, error["code"]) == ("error", "unauthorized")
        event, _ = await client.request("ping", {})
        assert event == "ok"


async def test_token_when_it_is_over_then_closed_with_4002(start: Start) -> None:
    server = start(FASTIM_AUTH__LEEWAY_S="1")
    secret = (server.data / "secret").read_bytes().strip()
    async with open_client(server) as client:
        await client.request("hello", {"token": issue(secret, "ann", ttl_s=1)})
        assert (await client.closed())[0] == 4002


async def test_sessions_when_their_user_is_banned_then_all_end_and_the_application_is_told(
    start: Start,
) -> None:
    server = start(APPLICATION)
    async with open_client(server, "watcher") as watcher, open_client(server, "bob") as bob:
        async with open_client(server, "bob", hello={"device": "away"}):
            pass
        with rest(server) as http:
            answer = http.post("/v1/bans", json={"user": "bob"})
        assert answer.status_code == 201, answer.text
        assert (await bob.closed())[0] == 4003
        told = await ended_of(watcher, "bob", 2)
        assert {(device, reason) for _, device, _, reason in told} == {
            ("away", "removed"),
            (bob.ok["device"], "removed"),
        }
    assert metric(server, "fastim_sessions_detached") <= 1


@pytest.mark.parametrize("name", ["live", "detached", "detached_bytes", "table_bytes"])
def test_metrics_when_asked_then_the_session_table_is_in_them(shared: ServerProcess, name: str) -> None:
    assert metric(shared, f"fastim_sessions_{name}") >= 0
