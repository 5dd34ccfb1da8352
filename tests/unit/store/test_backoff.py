"""When a sick store is tried again."""

from __future__ import annotations

import pytest

from fastim.store.backoff import Backoff


def delays(backoff: Backoff, count: int) -> list[float]:
    found = []
    for number in range(count):
        backoff.failed(float(number))
        found.append(round(backoff.due_s - number, 6))
    return found


def test_delay_when_attempts_fail_then_doubles_up_to_the_bound() -> None:
    assert delays(Backoff(0.1, 5.0, lambda: 1.0), 8) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_delay_when_drawn_then_from_the_upper_half() -> None:
    assert delays(Backoff(0.1, 5.0, lambda: 0.0), 3) == [0.05, 0.1, 0.2]
    backoff = Backoff(1.0, 1.0)
    drawn = {delays(backoff, 1)[0] for _ in range(200)}
    assert all(0.5 <= delay <= 1.0 for delay in drawn)
    assert len(drawn) > 100


def test_delay_when_an_attempt_worked_then_begins_anew() -> None:
    backoff = Backoff(0.1, 5.0, lambda: 1.0)
    delays(backoff, 2_000)
    assert backoff.failures == 2_000
    backoff.worked()
    assert (backoff.failures, backoff.due_s) == (0, 0.0)
    assert delays(backoff, 1) == [0.1]


@pytest.mark.parametrize(("first_s", "most_s"), [(0, 1), (2, 1), (-1, 1)])
def test_backoff_when_it_makes_no_sense_then_refused(first_s: float, most_s: float) -> None:
    with pytest.raises(ValueError, match="delay"):
        Backoff(first_s, most_s)
