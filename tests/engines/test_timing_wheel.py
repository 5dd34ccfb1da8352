"""The compiled timing wheel against its twin."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastim._core.wheel import TimingWheel
from tests.reference.timing_wheel import TimingWheel as ReferenceWheel

KEYS = st.one_of(st.integers(0, 7), st.integers(0, 5_000))
# Each level of the wheel, its edges, and both ends of the range.
EDGES = st.builds(lambda level, off: max(0, 64**level + off), st.integers(0, 10), st.integers(-2, 2))
DELAYS = st.one_of(st.integers(-50, 200), EDGES, st.integers(0, 64**3), st.integers(0, 2**40))


class WheelMachine(RuleBasedStateMachine):
    @initialize(
        tick_ns=st.sampled_from([1, 3, 10, 1_000]), start_ns=st.sampled_from([0, 7, 2**40 - 1, 2**64 - 3_000])
    )
    def make(self, tick_ns: int, start_ns: int) -> None:
        self.wheel = TimingWheel(tick_ns)
        self.reference = ReferenceWheel(tick_ns)
        self.now_ns = start_ns
        if start_ns % 2:
            self.advance(0)

    @rule(key=KEYS, delay_ns=DELAYS)
    def schedule(self, key: int, delay_ns: int) -> None:
        at_ns = min(max(0, self.now_ns + delay_ns), 2**64 - 1)
        self.wheel.schedule(key, at_ns)
        self.reference.schedule(key, at_ns)

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == self.reference.cancel(key)

    @rule(by_ns=DELAYS)
    def advance(self, by_ns: int) -> None:
        self.now_ns = min(max(0, self.now_ns + by_ns), 2**64 - 1)
        self.take()

    @rule()
    def advance_to_what_is_next(self) -> None:
        hint_ns = self.wheel.next_due_ns()
        if hint_ns:
            self.now_ns = max(self.now_ns, hint_ns)
            self.take()

    @rule()
    def advance_to_just_before_what_is_next(self) -> None:
        hint_ns = min(self.reference.next_due_ns(), 2**64 - 1)
        if hint_ns > self.now_ns + 1:
            self.now_ns = hint_ns - 1
            self.take()

    @rule(by_ns=DELAYS, again=st.lists(st.tuples(KEYS, DELAYS)), gone=st.sets(st.integers(0, 7)))
    def change_while_popping(self, by_ns: int, again: list[tuple[int, int]], gone: set[int]) -> None:
        self.now_ns = min(max(0, self.now_ns + by_ns), 2**64 - 1)
        self.wheel.move(self.now_ns)
        self.reference.move(self.now_ns)
        for key in gone:
            self.cancel(key)
        for key, delay_ns in again:
            self.schedule(key, delay_ns)
        assert sorted(iter(self.wheel.pop, None)) == sorted(iter(self.reference.pop, None))

    def take(self) -> None:
        ticks = {**self.reference.due_tick, **self.reference.late}
        due = self.wheel.advance(self.now_ns)
        assert sorted(due) == sorted(self.reference.advance(self.now_ns))
        fired = [ticks[key] for key in due]
        assert fired == sorted(fired)

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.wheel) == len(self.reference)
        assert self.wheel.next_due_ns() <= self.reference.next_due_ns()
        assert (self.wheel.next_due_ns() == 0) == (self.reference.next_due_ns() == 0)


WheelMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestTimingWheel = WheelMachine.TestCase
