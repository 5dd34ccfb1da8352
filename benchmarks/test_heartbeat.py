"""The heartbeat of 200,000 fed connections at 30 s, where no system call hides the core's own share.

A round is 30 s of ticks of 10 ms: every connection is pinged, its outbox is emptied, and its pong is fed.
``core_percent_timers`` is what the timers take of a core: the wheel turned, deadlines judged, pings framed;
``core_percent_pongs`` is what parsing the answers takes. CPU time of the thread, as other work of the machine
would count as a pause otherwise.
"""

import time
from typing import Any

from fastim._core.hub import Hub
from tests.reference import frames as reference

CONNECTIONS = 200_000
INTERVAL_MS = 30_000
TICK_NS = 10_000_000
HEAD = b"GET /ws HTTP/1.1\r\nHost: example\r\n\r\n"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
KEY = b"\x0a\xb1\x0c\xd3"


def test_heartbeats_of_200000_connections(benchmark: Any) -> None:
    hub = Hub()
    hub.set_heartbeat_rules(min_ms=INTERVAL_MS, max_ms=INTERVAL_MS)
    now_ns = TICK_NS
    for number in range(CONNECTIONS):
        handle = hub.open_fed("192.0.2.1", now_ns)
        hub.feed(handle, HEAD, now_ns)
        hub.upgrade(handle, RESPONSE, number)
        hub.set_heartbeat(handle, INTERVAL_MS, now_ns)
    hub.poll(now_ns)
    hub.flush(now_ns)
    for handle in hub.fed_ready():
        hub.take(handle, 1 << 16)
    timers_ns = pongs_ns = longest_ns = turns = 0

    def turn() -> None:
        nonlocal now_ns, timers_ns, pongs_ns, longest_ns, turns
        turns += 1
        for _ in range(INTERVAL_MS * 1_000_000 // TICK_NS):
            now_ns += TICK_NS
            began_ns = time.thread_time_ns()
            hub.poll(now_ns)
            took_ns = time.thread_time_ns() - began_ns
            timers_ns += took_ns
            longest_ns = max(longest_ns, took_ns)
            hub.flush(now_ns)
            for handle in hub.fed_ready():
                payload = hub.take(handle, 1 << 16)[-4:]
                hub.feed(handle, reference.encode_frame(reference.PONG, payload, key=KEY), now_ns)
            began_ns = time.thread_time_ns()
            hub.poll(now_ns)
            pongs_ns += time.thread_time_ns() - began_ns

    benchmark.pedantic(turn, rounds=2, warmup_rounds=1)
    stats = hub.heartbeat_stats()
    assert stats["missed_total"] == 0
    assert stats["pings_total"] >= CONNECTIONS * (turns - 1)
    assert sum(hub.round_trips.snapshot()[0]) >= CONNECTIONS * (turns - 1)
    benchmark.extra_info["pings"] = stats["pings_total"]
    benchmark.extra_info["longest_poll_ms"] = round(longest_ns / 1e6, 3)
    benchmark.extra_info["core_percent_timers"] = round(timers_ns / (turns * INTERVAL_MS * 1e6) * 100, 3)
    benchmark.extra_info["core_percent_pongs"] = round(pongs_ns / (turns * INTERVAL_MS * 1e6) * 100, 3)
    hub.shutdown()
