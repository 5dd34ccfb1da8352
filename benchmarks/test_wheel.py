"""The timing wheel beside its twin, a heap: 200,000 connections with a heartbeat every 30 s."""

import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastim._core.wheel import TimingWheel
from tests.reference import timing_wheel

CONNECTIONS = 200_000
HEARTBEAT_NS = 30_000_000_000
TICK_NS = 10_000_000
WHEELS: dict[str, Callable[[], Any]] = {
    "compiled": TimingWheel,
    "reference": timing_wheel.TimingWheel,
}


def loaded_wheel(implementation: str, start_ns: int) -> Any:
    wheel = WHEELS[implementation]()
    wheel.advance(start_ns)
    chooser = random.Random(1)
    for key in range(CONNECTIONS):
        wheel.schedule(key, start_ns + chooser.randrange(1, HEARTBEAT_NS))
    return wheel


@pytest.mark.parametrize("implementation", WHEELS)
def test_wheel_under_heartbeats(benchmark: Any, implementation: str) -> None:
    """A round is 30 s of ticks: every timer fires once and is scheduled again."""
    now_ns = HEARTBEAT_NS
    wheel = loaded_wheel(implementation, now_ns)
    longest_ns = 0

    def turn() -> None:
        nonlocal now_ns, longest_ns
        end_ns = now_ns + HEARTBEAT_NS
        while now_ns < end_ns:
            now_ns += TICK_NS
            began_ns = time.perf_counter_ns()
            for key in wheel.advance(now_ns):
                wheel.schedule(key, now_ns + HEARTBEAT_NS)
            longest_ns = max(longest_ns, time.perf_counter_ns() - began_ns)

    benchmark.pedantic(turn, rounds=5)
    benchmark.extra_info["longest_tick_ms"] = round(longest_ns / 1e6, 3)
    benchmark.extra_info["core_percent"] = round(benchmark.stats.stats.median / (HEARTBEAT_NS / 1e9) * 100, 3)


@pytest.mark.parametrize("implementation", WHEELS)
def test_wheel_moving_timers(benchmark: Any, implementation: str) -> None:
    """A round is 1,000 timers put off, as traffic does to heartbeats: the median in µs is ns a timer."""
    wheel = loaded_wheel(implementation, HEARTBEAT_NS)
    chooser = random.Random(2)

    def setup() -> tuple[tuple[list[int]], dict[str, Any]]:
        return (chooser.sample(range(CONNECTIONS), 1_000),), {}

    def put_off(keys: list[int]) -> None:
        for key in keys:
            wheel.schedule(key, 2 * HEARTBEAT_NS + key)

    benchmark.pedantic(put_off, setup=setup, rounds=100, warmup_rounds=5)


@pytest.mark.parametrize("implementation", WHEELS)
def test_wheel_idle_ticks(benchmark: Any, implementation: str) -> None:
    """A round is 1,000 ticks with nothing due."""
    wheel = WHEELS[implementation]()
    now_ns = HEARTBEAT_NS
    wheel.schedule(1, 1 << 62)

    def tick() -> None:
        nonlocal now_ns
        for _ in range(1_000):
            now_ns += TICK_NS
            wheel.advance(now_ns)

    benchmark(tick)
