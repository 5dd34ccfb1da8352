"""When what is sent may wait for more: the window by the loop's load, and the flushes on a real loop."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given
from hypothesis import strategies as st

from fastim._core.hub import Hub, Lane, Tier
from fastim.server.flushing import Flusher, FlushWindow

MS = 1_000_000
MAX_NS = 50 * MS


class Clock:
    """A loop's life, in stretches of work and rest."""

    def __init__(self, window: FlushWindow) -> None:
        self.window = window
        self.ns = 1_000 * MS

    def live(self, for_ms: float, percent: int, cycle_ns: int = MS) -> int:
        """Be at work for a share of the time; returns the window at the end."""
        end_ns = self.ns + int(for_ms * MS)
        while self.ns < end_ns:
            work_ns = cycle_ns * percent // 100
            if work_ns:
                self.window.worked(self.ns, self.ns + work_ns)
            self.ns += cycle_ns
        return self.window.windows_ns(self.ns)[0]


def test_window_when_the_loop_has_time_to_spare_then_nothing_waits() -> None:
    for percent in (0, 1, 30, 49, 60):
        assert Clock(FlushWindow(MAX_NS, 4)).live(500, percent) == 0


def test_window_when_the_loop_is_loaded_and_keeps_up_then_1_to_2_ms() -> None:
    for percent in (80, 85, 90):
        assert MS <= Clock(FlushWindow(MAX_NS, 4)).live(500, percent) <= 2 * MS


def test_window_when_the_loop_is_behind_then_grows_to_its_bound_and_falls_when_it_catches_up() -> None:
    clock = Clock(FlushWindow(MAX_NS, 4))
    assert clock.live(20, 99) <= 4 * MS
    assert clock.live(2_000, 99) == MAX_NS
    assert clock.window.windows_ns(clock.ns) == (MAX_NS, 4 * MAX_NS)
    assert 0 < clock.live(2_000, 85) <= 2 * MS
    assert clock.live(100, 20) == 0


def test_window_when_an_idle_time_comes_then_shut_at_once() -> None:
    clock = Clock(FlushWindow(MAX_NS, 4))
    clock.live(2_000, 100)
    assert clock.window.windows_ns(clock.ns + 21 * MS) == (0, 0)
    clock.ns += 21 * MS
    clock.window.worked(clock.ns, clock.ns + 5 * MS)
    assert clock.window.windows_ns(clock.ns + 5 * MS) == (0, 0)


def test_window_when_switched_off_then_never_opens() -> None:
    assert Clock(FlushWindow(0, 4)).live(2_000, 100) == 0


@given(
    st.lists(st.tuples(st.integers(0, 60 * MS), st.integers(0, 60 * MS)), max_size=60), st.integers(0, MAX_NS)
)
def test_window_when_anything_happens_then_within_its_bound_and_shut_after_rest(
    stretches: list[tuple[int, int]], max_ns: int
) -> None:
    window = FlushWindow(max_ns, 3)
    now_ns = 1
    for work_ns, rest_ns in stretches:
        window.worked(now_ns, now_ns + work_ns)
        now_ns += work_ns + rest_ns
        standard_ns, degraded_ns = window.windows_ns(now_ns)
        assert 0 <= standard_ns <= max_ns
        assert degraded_ns == 3 * standard_ns
        if rest_ns > 20 * MS:
            assert standard_ns == 0
        assert 0 <= window.share <= 100


class Wired:
    """A flusher and a hub with connections of the fed driver, at a clock of the test's."""

    def __init__(self, window: FlushWindow) -> None:
        self.ns = 1_000 * MS
        self.window = window
        self.flusher = Flusher(asyncio.get_running_loop(), window, {}, lambda: None, lambda: self.ns)
        self.hub = self.flusher.hub = Hub(on_dirty=self.flusher.on_dirty, max_packets=10)
        self.handles = []
        for tier in Tier:
            handle = self.hub.open_fed("192.0.2.1", self.ns)
            self.hub.feed(handle, b"GET /ws HTTP/1.1\r\n\r\n", self.ns)
            self.hub.poll(self.ns)
            self.hub.upgrade(handle, b"HTTP/1.1 101 \r\n\r\n", object())
            self.hub.configure(handle, tier=tier)
            self.handles.append(handle)
        self.flusher.flush()
        self.written()

    def written(self) -> list[bool]:
        """Which connections have something to take since the last call."""
        ready = self.hub.fed_ready()
        for handle in ready:
            self.hub.take(handle, 1 << 20)
        return [handle in ready for handle in self.handles]

    def load(self) -> None:
        """Let the loop be at its limit for long."""
        clock = Clock(self.window)
        clock.ns = self.ns
        clock.live(3_000, 100)
        self.ns = clock.ns

    def send(self, at: int, lane: int = Lane.NORMAL, count: int = 1) -> None:
        self.flusher.polling = True
        begin_ns = self.ns
        for _ in range(count):
            self.hub.send(self.handles[at], json.dumps(["x", None]).encode(), lane)
        self.flusher.polling = False
        self.flusher.after_poll(begin_ns)


async def test_flush_when_the_loop_is_idle_then_at_once() -> None:
    wired = Wired(FlushWindow(MAX_NS, 4))
    for at in range(3):
        wired.send(at)
    assert wired.written() == [True, True, True]
    assert wired.flusher.stats() == {"window_us": 0, "busy_percent": 0, "waited_total": 0}


async def test_flush_when_outside_of_a_poll_then_in_the_next_turn_of_the_loop() -> None:
    wired = Wired(FlushWindow(MAX_NS, 4))
    wired.hub.send(wired.handles[0], b'["x"]')
    assert wired.written() == [False, False, False]
    await asyncio.sleep(0)
    assert wired.written() == [True, False, False]


async def test_flush_when_the_loop_is_behind_then_after_the_window_and_degraded_later() -> None:
    wired = Wired(FlushWindow(MAX_NS, 4))
    wired.load()
    for at in range(3):
        wired.send(at)
    assert wired.written() == [False, False, False]
    for _ in range(9):
        wired.ns += 5 * MS
        wired.window.worked(wired.ns - 5 * MS, wired.ns)
        wired.flusher.after_poll(wired.ns)
    assert wired.written() == [False, False, False]
    wired.ns += 5 * MS
    wired.window.worked(wired.ns - 5 * MS, wired.ns)
    wired.flusher.after_poll(wired.ns)
    assert wired.written() == [True, True, False]
    for _ in range(30):
        wired.ns += 5 * MS
        wired.window.worked(wired.ns - 5 * MS, wired.ns)
        wired.flusher.after_poll(wired.ns)
    assert wired.written() == [False, False, True]
    assert wired.flusher.stats()["waited_total"] > 0


async def test_flush_when_the_loop_is_behind_then_the_high_lane_and_a_full_batch_never_wait() -> None:
    wired = Wired(FlushWindow(MAX_NS, 4))
    wired.load()
    wired.send(1)
    wired.send(2, count=9)
    assert wired.written() == [False, False, False]
    wired.send(0, Lane.HIGH)
    assert wired.written() == [True, False, False]
    wired.send(2)
    assert wired.written() == [False, False, True]
    wired.hub.close(wired.handles[1], 1000, "", wired.ns)
    await asyncio.sleep(0)
    assert wired.written() == [False, True, False]


async def test_flush_when_nothing_comes_any_more_then_a_timer_ends_the_window() -> None:
    wired = Wired(FlushWindow(2 * MS, 1))
    wired.load()
    wired.send(0)
    assert wired.written() == [False, False, False]
    wired.ns += 2 * MS
    for _ in range(1_000):
        await asyncio.sleep(0.001)
        if wired.written()[0]:
            break
    else:
        raise AssertionError("nothing was written")
    wired.flusher.stop()


async def test_flush_when_a_timer_stands_for_the_degraded_tier_then_the_others_do_not_wait_for_it() -> None:
    wired = Wired(FlushWindow(2 * MS, 100_000))
    await asyncio.sleep(0)  # the flush that the making has asked for
    wired.load()
    wired.send(2)
    wired.send(0)
    assert wired.written() == [False, False, False]
    wired.ns += 2 * MS
    for _ in range(1_000):
        await asyncio.sleep(0.001)
        if wired.written()[0]:
            break
    else:
        raise AssertionError("nothing was written")
    wired.flusher.stop()
