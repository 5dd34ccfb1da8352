"""Edges of the timing wheel."""

import copy
import sys

import pytest

from fastim._core.wheel import TimingWheel

SECOND_NS = 1_000_000_000


def test_advance_before_and_at_the_deadline_fires_in_its_tick_and_never_early() -> None:
    wheel = TimingWheel(10)
    wheel.schedule(3, 25)
    assert wheel.advance(25) == []
    assert wheel.advance(29) == []
    assert wheel.advance(30) == [3]
    assert wheel.advance(1_000) == []


def test_schedule_when_already_scheduled_moves_the_timer() -> None:
    wheel = TimingWheel(1)
    wheel.schedule(1, 10)
    wheel.schedule(1, 5_000)
    wheel.schedule(1, 20)
    assert len(wheel) == 1
    assert wheel.advance(19) == []
    assert wheel.advance(20) == [1]


def test_schedule_into_the_past_fires_at_the_next_advance_though_the_clock_stands() -> None:
    wheel = TimingWheel(10)
    wheel.advance(1_005)
    wheel.schedule(1, 1_003)
    wheel.schedule(2, 0)
    assert wheel.next_due_ns() == 1_005
    assert wheel.pop() is None
    assert wheel.advance(1_005) == [1, 2]


def test_pop_when_keys_are_scheduled_into_the_past_while_popping_ends() -> None:
    wheel = TimingWheel(10)
    for number in range(5):
        wheel.schedule(number, 10)
    wheel.move(10)
    popped = []
    while (key := wheel.pop()) is not None:
        popped.append(key)
        wheel.schedule(key, 10)
    assert popped == [0, 1, 2, 3, 4]
    assert wheel.advance(10) == [0, 1, 2, 3, 4]


def test_cancel_of_a_due_key_before_it_is_popped_takes_it_back() -> None:
    wheel = TimingWheel(10)
    wheel.schedule(0, 10)
    wheel.schedule(1, 10)
    wheel.move(10)
    assert wheel.pop() == 0
    assert wheel.cancel(1)
    assert wheel.pop() is None
    assert not wheel.cancel(1)
    assert not wheel.cancel(10_000)


def test_advance_when_the_clock_goes_back_does_not_move() -> None:
    wheel = TimingWheel(10)
    wheel.advance(1_000)
    wheel.schedule(1, 1_020)
    assert wheel.advance(0) == []
    assert wheel.advance(1_019) == []
    assert wheel.advance(1_020) == [1]


def test_advance_over_a_huge_gap_fires_everything_in_order() -> None:
    wheel = TimingWheel()
    deadlines = {key: 7 * SECOND_NS << key for key in range(30)}
    for key in reversed(deadlines):
        wheel.schedule(key, deadlines[key])
    assert wheel.advance(2**64 - 1) == list(deadlines)


def test_schedule_at_the_end_of_time_is_kept_and_its_hint_stays_in_range() -> None:
    wheel = TimingWheel(3 * SECOND_NS)
    wheel.schedule(1, 2**64 - 1)
    assert 0 < wheel.next_due_ns() <= 2**64 - 1
    assert wheel.advance(2**63) == []
    assert len(wheel) == 1


def test_advance_to_each_hint_reaches_a_far_timer_in_a_few_steps() -> None:
    wheel = TimingWheel()
    wheel.advance(5 * SECOND_NS)
    wheel.schedule(9, 3_600 * SECOND_NS)
    for _steps in range(5):
        if wheel.advance(wheel.next_due_ns()):
            break
    assert len(wheel) == 0
    assert wheel.next_due_ns() == 0


def test_many_keys_grow_the_table_at_24_bytes_each() -> None:
    wheel = TimingWheel()
    for key in range(20_000):
        wheel.schedule(key, key * 1_000_003 % (60 * SECOND_NS))
    assert sys.getsizeof(wheel) < 6_500 + 20_000 * 24 * 9 / 8
    assert sorted(wheel.advance(60 * SECOND_NS)) == list(range(20_000))


@pytest.mark.parametrize(("key", "at_ns"), [(-1, 0), (2**32, 0), (1, -1), (1, 2**64)])
def test_schedule_out_of_range_raises(key: int, at_ns: int) -> None:
    with pytest.raises(OverflowError):
        TimingWheel().schedule(key, at_ns)


def test_misuse_raises() -> None:
    with pytest.raises(ValueError, match="tick_ns"):
        TimingWheel(0)
    with pytest.raises(ValueError, match="key"):
        TimingWheel().schedule(2**32 - 1, 1)
    with pytest.raises(TypeError, match="copied"):
        copy.copy(TimingWheel())
