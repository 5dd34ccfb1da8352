"""The heartbeat of the running server: as clients, the application and the metrics see it."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable

from tests.e2e.serving import ServerProcess, Start, figures, open_client, wait_until
from tests.e2e.test_bad_input import Raw
from tests.support.proxy import Faults, Proxy

PING, PONG = 0x89, 0x8A
QUICK = {"FASTIM_HEARTBEAT__INTERVAL_S": "0.2", "FASTIM_HEARTBEAT__TIMEOUT_S": "0.2"}


def hello(server: ServerProcess, raw: Raw, **claims: str) -> dict[str, object]:
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u", **claims)}, 1]).encode())
    event, body, _ = json.loads(raw.receive()[1])
    assert event == "ok"
    return body  # type: ignore[no-any-return]


def ask(raw: Raw, event: str) -> object:
    """Return the answer to a request; what the server tells meanwhile is dropped, pings are answered."""
    raw.send(0x81, json.dumps([event, None, 2]).encode())
    while True:
        first, payload = raw.receive()
        if first == PING:
            raw.send(PONG, payload)
        elif first == 0x81 and (packet := json.loads(payload))[-1] == 2:
            return packet[1]


def next_ping(raw: Raw) -> bytes:
    while True:
        first, payload = raw.receive()
        if first == PING:
            return payload


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait while the loop's clients go on answering pings."""
    await asyncio.to_thread(wait_until, condition, what)


def test_round_trip_when_a_ping_was_answered_then_the_application_and_the_metrics_have_it(
    start: Start,
) -> None:
    server = start("tests.e2e.application:app", **QUICK)
    raw = Raw(server)
    hello(server, raw)
    assert ask(raw, "round_trip") is None
    raw.send(PONG, b"not asked for")
    payload = next_ping(raw)
    raw.send(PONG, b"foreign")  # life, but no round trip
    assert ask(raw, "round_trip") is None
    raw.send(PONG, payload)
    for event in ("round_trip", "round_trip.in_a_thread"):
        round_trip_ms = ask(raw, event)
        assert isinstance(round_trip_ms, float)
        assert 0 < round_trip_ms < 10_000
    found = figures(server)
    assert found["fastim_round_trip_seconds_count"] >= 1
    assert found['fastim_round_trip_seconds_bucket{le="+Inf"}'] == found["fastim_round_trip_seconds_count"]
    assert found["fastim_heartbeat_pings_total"] >= 1
    raw.socket.close()


def test_pings_when_answered_then_the_connection_lasts_over_many_intervals(start: Start) -> None:
    server = start(**QUICK, FASTIM_HEARTBEAT__MIN_S="0.2", FASTIM_HEARTBEAT__MAX_S="0.2")
    raw = Raw(server)
    hello(server, raw)
    numbers = []
    for _ in range(8):
        payload = next_ping(raw)
        numbers.append(int.from_bytes(payload, "big"))
        raw.send(PONG, payload)
    assert numbers == list(range(1, 9))
    raw.socket.close()


async def test_peer_when_half_open_then_closed_after_the_third_ping_and_no_ping_after(start: Start) -> None:
    """The network swallows everything: no end, no reset. Who has gone is found by the heartbeat alone."""
    server = start(**QUICK)
    proxy = Proxy(server.port, Faults(), random.Random(1))
    async with proxy.listening(), open_client(server, "other"):
        direct, server.port = server.port, proxy.port
        async with open_client(server, "gone", ping_interval=None) as gone:
            server.port = direct
            assert gone.ok["heartbeat_ms"] == 60_200
            proxy.swallowing = True
            await until(lambda: figures(server)["fastim_heartbeat_lost_total"] == 1, "the peer is lost")
            assert figures(server)["fastim_heartbeat_missed_total"] == 3
            assert figures(server)["fastim_connections"] == 1
            proxy.cut_all()


def test_heartbeat_ms_when_asked_then_the_longest_silence_of_the_tier(start: Start) -> None:
    server = start(FASTIM_HEARTBEAT__MAX_S="20", FASTIM_HEARTBEAT__TIMEOUT_S="3")
    for tier in ("standard", "degraded"):
        raw = Raw(server)
        # The longest first interval of the tiers, the degraded one's of 60 s, is the longest of all.
        assert hello(server, raw, tier=tier)["heartbeat_ms"] == 63_000
        raw.socket.close()
    off = start(data="off", FASTIM_HEARTBEAT__INTERVAL_S="0")
    raw = Raw(off)
    assert hello(off, raw)["heartbeat_ms"] == 0
    raw.socket.close()


async def test_client_that_came_back_when_its_old_connection_is_lost_then_untouched(start: Start) -> None:
    """A listener left behind would ping, or close, the connection that took the place."""
    server = start("tests.e2e.application:app", **QUICK)
    raw = Raw(server)
    hello(server, raw)
    for _ in range(3):
        next_ping(raw)
    assert raw.close_code() == 4009
    raw.socket.close()
    async with open_client(server, "u") as client:
        before = figures(server)
        await until(
            lambda: (
                figures(server)["fastim_heartbeat_pings_total"] >= before["fastim_heartbeat_pings_total"] + 3
            ),
            "the new connection is pinged",
        )
        assert figures(server)["fastim_heartbeat_lost_total"] == 1
        assert await client.request("echo", 1) == ["ok", 1]
