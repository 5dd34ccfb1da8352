"""The compiled sliding windows against their twins, and against what they promise."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.limits import SlidingWindow, SlidingWindows
from tests.reference.sliding_window import SlidingWindow as ReferenceWindow
from tests.reference.sliding_window import SlidingWindows as ReferenceWindows

WINDOW_NS = 16_000_000
LIMITS = st.one_of(st.integers(0, 5), st.integers(0, 60))
STEPS = st.one_of(
    st.just(0),
    st.integers(-WINDOW_NS, -1),
    st.integers(1, 1_000),
    st.integers(1, WINDOW_NS // 4),
    st.sampled_from([WINDOW_NS - 1, WINDOW_NS, WINDOW_NS + 1, 10**6, 10**6 - 1, 17 * 10**6, 2**62]),
)
# An attempt, or giving back the n-th last one that was granted.
ACTIONS = st.one_of(st.none(), st.none(), st.integers(1, 40))


def clamp(now_ns: int) -> int:
    return min(max(0, now_ns), 2**64 - 2)


@given(LIMITS, st.integers(1, 2 * WINDOW_NS), st.lists(st.tuples(STEPS, ACTIONS), max_size=100))
def test_window_at_any_times_answers_as_its_twin(
    limit: int, window_ns: int, actions: list[tuple[int, int | None]]
) -> None:
    window, reference = SlidingWindow(limit, window_ns), ReferenceWindow(limit, window_ns)
    now_ns = 3 * WINDOW_NS
    granted = [0]
    for step_ns, back in actions:
        now_ns = clamp(now_ns + step_ns)
        if back is None:
            wait_ns = window.take(now_ns)
            assert wait_ns == reference.take(now_ns)
            if not wait_ns:
                granted.append(reference.now_ns)
        else:
            taken_ns = granted[-min(back, len(granted))]
            assert window.refund(taken_ns) == reference.refund(taken_ns)
        assert len(window) == len(reference)


@given(st.integers(1, 30), st.integers(40, 400), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_window_with_many_refunds_answers_as_its_twin_in_bounded_memory(
    limit: int, attempts: int, seed: int
) -> None:
    window, reference = SlidingWindow(limit, 10**9), ReferenceWindow(limit, 10**9)
    for now_ns in range(attempts):
        assert window.take(now_ns) == reference.take(now_ns)
        if (seed >> (now_ns % 32)) & 1:
            assert window.refund(now_ns) == reference.refund(now_ns)
    assert window.__sizeof__() <= 300 + 64 * max(limit, 16)


@given(LIMITS, st.data())
@settings(deadline=None)
def test_windows_by_key_answer_as_their_twin_though_idle_keys_are_forgotten(
    limit: int, data: st.DataObject
) -> None:
    window_ns = data.draw(st.sampled_from([WINDOW_NS, WINDOW_NS + 5, 60_000_000_000]))
    windows, reference = SlidingWindows(limit, window_ns), ReferenceWindows(limit, window_ns)
    keys = st.integers(0, data.draw(st.sampled_from([2, 400]))).map(str)
    now_ns = 3 * WINDOW_NS
    granted = [("0", 0)]
    for step_ns, key, back in data.draw(st.lists(st.tuples(STEPS, keys, ACTIONS), max_size=100)):
        now_ns = clamp(now_ns + step_ns * window_ns // WINDOW_NS)
        if back is None:
            wait_ns = windows.take(key, now_ns)
            assert wait_ns == reference.take(key, now_ns)
            if not wait_ns:
                granted.append((key, reference.now_ns))
        else:
            reference.current(key := granted[-min(back, len(granted))][0], now_ns)
            assert windows.count(key, now_ns) == reference.count(key, now_ns)
            taken_ns = granted[-min(back, len(granted))][1]
            assert windows.refund(key, taken_ns) == reference.refund(key, taken_ns)
        assert windows.count(key, now_ns) == reference.count(key, now_ns)
    assert windows.forgotten_early == 0


@given(st.integers(1, 20), st.lists(st.integers(0, WINDOW_NS // 3), max_size=100))
def test_windows_by_key_are_never_over_the_limit_and_at_most_a_sixteenth_early(
    limit: int, steps_ns: list[int]
) -> None:
    windows = SlidingWindows(limit, WINDOW_NS)
    granted: list[int] = []
    now_ns = 0
    for step_ns in steps_ns:
        now_ns += step_ns
        wait_ns = windows.take("a", now_ns)
        if wait_ns:
            longer_ns = WINDOW_NS * 17 // 16
            assert sum(1 for at in granted if now_ns - at < longer_ns) >= limit
            assert windows.take("a", now_ns + wait_ns - 1) > 0
            assert windows.take("a", now_ns + wait_ns) == 0
            now_ns += wait_ns
        granted.append(now_ns)
        assert sum(1 for at in granted if now_ns - at < WINDOW_NS) <= limit
