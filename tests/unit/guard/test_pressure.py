"""The steps of a server under pressure: up one by one, back one by one, never to and fro."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from fastim.guard.pressure import Load, Pressure, PressurePolicy, Reading, Step

S = 1_000_000_000
POLICY = PressurePolicy(
    lag_ns=100, memory_bytes=1_000, outbox_bytes=10_000, rise_ns=2 * S, fall_ns=10 * S, leave_share=0.8
)
STRAINED, BETWEEN, CALM = Reading(memory_bytes=1_000), Reading(memory_bytes=900), Reading(memory_bytes=799)


def run(pressure: Pressure, reading: Reading, begin_s: float, seconds: float) -> list[tuple[float, Step]]:
    """Observe the same four times a second; returns the changes and when they came."""
    changes = []
    for quarter in range(int(seconds * 4)):
        now_s = begin_s + quarter / 4
        change = pressure.observe(reading, int(now_s * S))
        if change is not None:
            changes.append((now_s - begin_s, change.step))
    return changes


def test_steps_when_a_limit_stays_passed_then_one_by_one_and_back_in_reverse() -> None:
    pressure = Pressure(POLICY)
    up = [(2.0, Step.DEGRADED_LEAVES), (4.0, Step.LOW_SHED), (6.0, Step.NEWCOMERS_REFUSED)]
    assert run(pressure, STRAINED, 0, 100) == up
    back = [(10.0, Step.LOW_SHED), (20.0, Step.DEGRADED_LEAVES), (30.0, Step.NONE)]
    assert run(pressure, CALM, 100, 100) == back


def test_steps_when_the_load_is_between_the_two_limits_then_none_is_taken() -> None:
    pressure = Pressure(POLICY)
    assert run(pressure, BETWEEN, 0, 100) == []
    run(pressure, STRAINED, 100, 3)
    assert run(pressure, BETWEEN, 103, 100) == []
    assert pressure.step is Step.DEGRADED_LEAVES


def test_steps_when_the_load_passes_for_a_moment_only_then_none_is_taken() -> None:
    pressure = Pressure(POLICY)
    for second in range(20):
        assert run(pressure, STRAINED if second % 2 else CALM, second, 1) == []


def test_steps_when_a_calm_is_interrupted_then_its_time_begins_anew() -> None:
    pressure = Pressure(POLICY)
    run(pressure, STRAINED, 0, 3)
    for begin in range(3, 60, 10):
        assert run(pressure, CALM, begin, 9) == []
        assert run(pressure, BETWEEN, begin + 9, 1) == []
    assert run(pressure, CALM, 63, 20) == [(10.0, Step.NONE)]


def test_load_when_several_are_measured_then_the_greatest_counts_and_is_named() -> None:
    pressure = Pressure(POLICY)
    for reading, load, cause in [
        (Reading(lag_ns=150), Load(lag=1.5), "lag"),
        (Reading(memory_bytes=1_100), Load(memory=1.1), "memory"),
        (Reading(lag_ns=150, outbox_bytes=20_000), Load(1.5, 0.0, 2.0), "outbox"),
    ]:
        pressure.observe(reading, 0)
        assert pressure.load == load
        assert pressure.load.cause == cause


def test_load_when_there_is_no_limit_then_a_number_and_no_pressure() -> None:
    pressure = Pressure(PressurePolicy(rise_ns=0))
    for now_ns in range(10):
        assert pressure.observe(Reading(1 << 60, 1 << 60, 1 << 60), now_ns) is None
    assert pressure.load == Load(0.0, 0.0, 0.0)


READINGS = st.builds(Reading, st.integers(0, 200), st.integers(0, 2_000), st.integers(0, 20_000))


@given(observed=st.lists(st.tuples(READINGS, st.integers(0, 6 * S)), max_size=60))
def test_steps_when_anything_is_observed_then_held_for_their_time_and_left_in_the_end(
    observed: list[tuple[Reading, int]],
) -> None:
    pressure = Pressure(POLICY)
    now_ns, changed_ns = 0, 0
    for reading, wait_ns in observed:
        now_ns += wait_ns
        before = pressure.step
        change = pressure.observe(reading, now_ns)
        assert all(math.isfinite(value) for value in pressure.load)
        assert (change is None) == (pressure.step == before)
        if change is None:
            continue
        greatest = max(pressure.load)
        assert (change.before, change.step) == (before, pressure.step)
        assert change.step - before == (1 if greatest >= 1 else -1)
        assert greatest >= 1 or greatest < 0.8
        assert now_ns - changed_ns >= (2 * S if change.step > before else 10 * S)
        changed_ns = now_ns
    steps = pressure.step
    assert len(run(pressure, CALM, now_ns / S + 1, 41)) == steps
    assert pressure.step is Step.NONE
