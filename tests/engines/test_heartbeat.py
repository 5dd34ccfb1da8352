"""The heartbeat in the hub, over both drivers, against its twin and against what was promised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastim._core.hub import EventKind, Tier
from tests.engines.hub_rig import SECOND_NS, Frame, Peer, Rig, client_frame
from tests.reference.frames import CLOSE, PING, PONG
from tests.reference.heartbeat import Heartbeat, Rules

MS = 1_000_000
STEPS = st.one_of(
    st.integers(0, 40),  # tens of milliseconds: around each deadline
    st.sampled_from([1_000, 1_005, 1_010, 1_011, 1_500, 3_000, 6_000]),
    st.integers(0, 9_000),
).map(lambda tens: tens * 10 * MS + 3 * MS)


def numbers(frames: list[Frame]) -> list[int]:
    """The numbers of the heartbeat's pings."""
    return [int.from_bytes(frame.payload) for frame in frames if frame.opcode == PING]


def pong(number: int) -> bytes:
    return client_frame(PONG, number.to_bytes(4))


class HeartbeatMachine(RuleBasedStateMachine):
    """What a client does, and when, must move the compiled heartbeat as it moves the twin."""

    driver = "fed"

    @initialize(neighbours=st.integers(0, 5), interval_ms=st.integers(1, 90_000))
    def begin(self, neighbours: int, interval_ms: int) -> None:
        self.rig = Rig(self.driver)
        for _ in range(neighbours):
            self.rig.connect()
        self.peer = self.rig.open("it")
        hub, now_ns = self.rig.hub, self.rig.now_ns
        hub.set_heartbeat(self.peer.handle, interval_ms, now_ns)
        heard_ns = hub.last_received_ns(self.peer.handle)
        self.twin = Heartbeat(Rules(), self.peer.handle & 0xFFFFFFFF, interval_ms, now_ns, heard_ns)
        self.pinged = 0
        self.closed: list[Any] = []

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.rig.end()

    def poll(self) -> None:
        self.twin.poll(self.rig.now_ns)
        self.rig.tick(0)
        self.peer.read()
        frames = self.peer.frames()
        pings = numbers(frames)
        assert pings == list(range(self.pinged + 1, self.twin.number + 1))
        self.pinged = self.twin.number
        self.closed += [data for _, data in self.rig.take_events(EventKind.CLOSED)]

    @rule(after_ns=STEPS)
    def pass_time(self, after_ns: int) -> None:
        self.rig.now_ns += after_ns
        self.poll()

    def is_open(self) -> bool:
        return self.twin.open

    def is_read(self) -> bool:
        return self.twin.open and not self.twin.held

    @precondition(is_read)
    @rule(back=st.integers(0, 4), twice=st.booleans())
    def answer(self, back: int, twice: bool) -> None:
        for _ in range(1 + twice):
            self.poll()
            self.peer.send(pong(max(0, self.twin.number - back)))
            self.twin.heard_ns = self.rig.now_ns
            self.rig.tick(0)
            self.twin.pong(self.twin.number - back, self.rig.now_ns)

    @precondition(is_read)
    @rule(data=st.sampled_from([client_frame(PONG), client_frame(PONG, b"1234"), client_frame(1, b"[]")]))
    def say_something_else(self, data: bytes) -> None:
        self.poll()
        self.peer.send(data)
        self.twin.heard_ns = self.rig.now_ns
        self.rig.tick(0)

    @precondition(is_open)
    @rule(slow=st.booleans())
    def turn_slow(self, slow: bool) -> None:
        self.rig.hub.set_slow_heartbeat(self.peer.handle, slow)
        self.twin.set_slow(slow, self.rig.now_ns)
        self.poll()

    @precondition(is_open)
    @rule(interval_ms=st.integers(1, 90_000))
    def set_interval(self, interval_ms: int) -> None:
        self.rig.hub.set_heartbeat(self.peer.handle, interval_ms, self.rig.now_ns)
        self.twin.set_interval(interval_ms, self.rig.now_ns)
        self.poll()

    @precondition(is_open)
    @rule()
    def hold_or_release(self) -> None:
        if self.twin.held:
            self.rig.hub.resume(self.peer.handle)
            self.twin.held = False
        else:
            self.rig.hub.pause(self.peer.handle)
            self.twin.hold()
        self.poll()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "rig"):
            return
        hub, twin, handle = self.rig.hub, self.twin, self.peer.handle
        assert self.closed == ([] if twin.open else [(4009, "heartbeat lost", False)])
        assert hub.alive(handle) == twin.open
        if twin.open:
            rhythm_ms = twin.rules.max_ms if twin.slow else twin.interval_ms
            assert hub.heartbeat_interval_ms(handle) == rhythm_ms
            assert hub.round_trip_ns(handle) == twin.round_trip_ns
        counts, total_ns = hub.round_trips.snapshot()
        assert (sum(counts), total_ns) == (len(twin.round_trips), sum(twin.round_trips))


class SocketHeartbeatMachine(HeartbeatMachine):
    driver = "epoll"


HeartbeatMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
SocketHeartbeatMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestHeartbeatFed = HeartbeatMachine.TestCase
TestHeartbeatSocket = SocketHeartbeatMachine.TestCase


# -- what was promised


def begin(rig: Rig, interval_ms: int = 30_000, name: str = "") -> Peer:
    peer = rig.open(name)
    assert rig.hub.set_heartbeat(peer.handle, interval_ms, rig.now_ns)
    return peer


def pass_time(rig: Rig, seconds: float, *reading: Peer) -> None:
    end_ns = rig.now_ns + int(seconds * SECOND_NS)
    while rig.now_ns < end_ns:
        rig.tick(min(25 * MS, end_ns - rig.now_ns))
        for peer in reading:
            peer.read()


def wait_for_ping(rig: Rig, peer: Peer) -> int:
    """Let time pass until a ping comes; return its number."""
    for _ in range(3_000):
        rig.tick(25 * MS)
        peer.read()
        if found := numbers(peer.frames()):
            return found[0]
    raise AssertionError("no ping came")


@pytest.mark.parametrize(
    ("round_trip_ms", "interval_ms"), [(49, 36_000), (50, 30_000), (199, 30_000), (200, 24_000)]
)
def test_interval_when_a_round_trip_is_measured_then_adapted(
    rig: Rig, round_trip_ms: int, interval_ms: int
) -> None:
    peer = begin(rig)
    assert rig.hub.round_trip_ns(peer.handle) == 0
    number = wait_for_ping(rig, peer)
    rig.now_ns += round_trip_ms * MS
    peer.send(pong(number))
    rig.tick(0)
    assert rig.hub.heartbeat_interval_ms(peer.handle) == interval_ms
    assert rig.hub.round_trip_ns(peer.handle) == round_trip_ms * MS
    assert rig.take_events() == []  # no Python for a pong of ours


def test_connection_when_three_pings_in_a_row_are_missed_then_4009_and_no_ping_after(rig: Rig) -> None:
    peer = begin(rig)
    pass_time(rig, 65, peer)
    assert rig.hub.alive(peer.handle)
    assert numbers(peer.frames()) == [1, 2, 3]
    pass_time(rig, 1, peer)
    assert rig.take_events() == [(peer.owner, (4009, "heartbeat lost", False))]
    pass_time(rig, 200, peer)
    assert [frame.opcode for frame in peer.frames()] == [CLOSE]
    assert rig.hub.heartbeat_stats() == {"pings_total": 3, "missed_total": 3, "lost_total": 1}
    assert rig.hub.connections == 0


def test_miss_when_something_else_comes_then_the_row_of_misses_begins_anew(rig: Rig) -> None:
    peer = begin(rig)
    for _ in range(10):
        pass_time(rig, 35, peer)
        peer.send(client_frame(PONG, b"foreign"))
        rig.tick()
    assert rig.hub.alive(peer.handle)
    assert rig.hub.round_trip_ns(peer.handle) == 0


def test_pong_when_late_then_measured_from_its_own_ping(rig: Rig) -> None:
    """The second ping is out when the answer to the first comes: it is no quick answer to the second."""
    peer = begin(rig)
    pass_time(rig, 46.5, peer)
    assert numbers(peer.frames()) == [1, 2]
    before_ms = rig.hub.heartbeat_interval_ms(peer.handle)
    peer.send(pong(1))
    rig.tick()
    assert 15 * SECOND_NS < rig.hub.round_trip_ns(peer.handle) < 17 * SECOND_NS
    assert rig.hub.heartbeat_interval_ms(peer.handle) == before_ms == 15_000
    peer.send(pong(2))
    rig.tick()
    assert SECOND_NS < rig.hub.round_trip_ns(peer.handle) < 2 * SECOND_NS


def test_pong_when_it_comes_twice_or_claims_a_ping_to_come_then_no_round_trip(rig: Rig) -> None:
    peer = begin(rig)
    for number in (0, 1, 2, 2**32 - 1):
        peer.send(pong(number))
    rig.tick()
    assert wait_for_ping(rig, peer) == 1
    for _ in range(3):
        peer.send(pong(1))
    rig.tick()
    assert sum(rig.hub.round_trips.snapshot()[0]) == 1


def test_connection_when_it_is_not_read_then_not_lost_for_it(rig: Rig) -> None:
    peer = begin(rig)
    pass_time(rig, 31, peer)  # a ping is out
    rig.hub.pause(peer.handle)
    peer.frames()
    pass_time(rig, 300, peer)
    assert rig.hub.alive(peer.handle)
    assert len(numbers(peer.frames())) == 5  # it hears of us in the longest interval all the same
    rig.hub.resume(peer.handle)
    pass_time(rig, 31, peer)
    assert rig.hub.alive(peer.handle)
    peer.send(client_frame(PONG))
    pass_time(rig, 1, peer)
    assert rig.hub.heartbeat_stats()["missed_total"] <= 1


def test_pong_when_it_waits_for_the_rate_of_its_connection_then_no_round_trip(rig: Rig) -> None:
    rig.hub.set_packet_rate(Tier.STANDARD, 10)
    peer = begin(rig)
    assert rig.hub.authenticated(peer.handle)
    number = wait_for_ping(rig, peer)
    peer.send(client_frame(1, b"x") * 30 + pong(number))
    pass_time(rig, 5, peer)
    assert len(rig.take_events(EventKind.TEXT)) == 30
    assert sum(rig.hub.round_trips.snapshot()[0]) == 0
    assert rig.hub.heartbeat_interval_ms(peer.handle) == 30_000


@pytest.mark.parametrize("stopped_s", [5, 15, 120])
def test_connections_when_the_process_stood_still_then_none_lost(
    make_rig: Callable[..., Rig], stopped_s: int
) -> None:
    """Answers that wait unread when the clock leaps were in time, as far as anybody can tell."""
    rig = make_rig()
    peers = [begin(rig) for _ in range(20)]
    rig.tick(40 * SECOND_NS)
    assert rig.hub.heartbeat_stats()["pings_total"] == len(peers)
    rig.now_ns += stopped_s * SECOND_NS
    for peer in peers:
        if rig.driver == "epoll":
            peer.send(pong(1))
    rig.tick(0)
    for peer in peers:  # the transports of fed connections are read in the loop's turn after the poll
        if rig.driver == "fed":
            peer.send(pong(1))
    pass_time(rig, 1, *peers)
    assert sum(rig.hub.round_trips.snapshot()[0]) == len(peers)
    assert rig.hub.heartbeat_stats()["missed_total"] == 0
    assert all(rig.hub.alive(peer.handle) for peer in peers)


def test_pings_when_many_came_at_once_then_spread_over_the_ticks(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    count = 200
    for _ in range(count):
        begin(rig)
    most = before = 0
    for _ in range(3_100):
        rig.tick(10 * MS)
        pings = rig.hub.heartbeat_stats()["pings_total"]
        most, before = max(most, pings - before), pings
    assert before >= count
    assert most <= 4


def test_deadlines_when_all_have_passed_in_a_stop_then_a_poll_serves_a_bounded_number() -> None:
    rig = Rig("fed")
    peers = [begin(rig) for _ in range(1_500)]
    rig.now_ns += 60 * SECOND_NS
    sent = []
    while rig.hub.heartbeat_stats()["pings_total"] < len(peers):
        rig.tick(0)
        sent.append(rig.hub.heartbeat_stats()["pings_total"])
        assert rig.hub.pending == (sent[-1] < len(peers))
    assert sent == [512, 1024, 1500]
    rig.end()


def test_background_when_told_then_the_slow_rhythm_and_back(rig: Rig) -> None:
    peer = begin(rig)
    rig.hub.set_slow_heartbeat(peer.handle, True)
    pass_time(rig, 59, peer)
    assert numbers(peer.frames()) == []
    pass_time(rig, 1.1, peer)
    assert numbers(peer.frames()) == [1]
    peer.send(pong(1))
    rig.tick()
    assert rig.hub.heartbeat_interval_ms(peer.handle) == 60_000
    rig.hub.set_slow_heartbeat(peer.handle, False)
    assert rig.hub.heartbeat_interval_ms(peer.handle) in (30_000, 36_000)
    pass_time(rig, 37, peer)
    assert numbers(peer.frames()) == [2]


def test_phone_when_it_sleeps_in_the_background_then_not_pinged_more_often_for_it(rig: Rig) -> None:
    """Shorter pings after a miss would lose a phone whose radio sleeps; in the background there are none."""
    peer = begin(rig)
    rig.hub.set_slow_heartbeat(peer.handle, True)
    pass_time(rig, 185, peer)
    assert numbers(peer.frames()) == [1, 2, 3]
    assert rig.hub.alive(peer.handle)


def test_heartbeat_when_set_many_times_then_one_loop(rig: Rig) -> None:
    peer = begin(rig)
    for _ in range(50):
        rig.hub.set_heartbeat(peer.handle, 30_000, rig.now_ns)
        rig.hub.set_slow_heartbeat(peer.handle, False)
    pass_time(rig, 30.1, peer)
    assert numbers(peer.frames()) == [1]


def test_heartbeat_when_off_then_nothing_is_pinged(rig: Rig) -> None:
    peer = begin(rig, 0)
    other = begin(rig, 30_000)
    rig.hub.set_heartbeat(other.handle, 0, rig.now_ns)
    pass_time(rig, 130, peer, other)
    assert peer.frames() == other.frames() == []
    assert rig.hub.heartbeat_interval_ms(peer.handle) == 0


def test_heartbeat_when_the_service_waits_for_something_too_then_both_come(rig: Rig) -> None:
    peer = begin(rig)
    rig.hub.set_timer(peer.handle, rig.now_ns + 29 * SECOND_NS)
    pass_time(rig, 29.5, peer)
    assert rig.take_events() == [(peer.owner, None)]
    assert numbers(peer.frames()) == []
    rig.hub.set_timer(peer.handle, rig.now_ns + 100 * SECOND_NS)
    pass_time(rig, 1, peer)
    assert numbers(peer.frames()) == [1]


def test_row_when_used_again_then_nothing_of_the_heartbeat_before(rig: Rig) -> None:
    peer = begin(rig)
    pass_time(rig, 40, peer)
    rig.hub.abort(peer.handle)
    rig.hub.take_finished(peer.handle)
    rig.take_events()
    again = rig.open("again")
    assert again.handle & 0xFFFFFFFF == peer.handle & 0xFFFFFFFF
    pass_time(rig, 200, again)
    assert again.frames() == []
    assert rig.hub.round_trip_ns(peer.handle) == 0
    assert not rig.hub.set_heartbeat(peer.handle, 30_000, rig.now_ns)
    assert not rig.hub.set_slow_heartbeat(peer.handle, True)


@pytest.mark.parametrize(
    "rules",
    [
        {"min_ms": 0},
        {"min_ms": 2, "max_ms": 1},
        {"timeout_ns": 0},
        {"misses": 0},
        {"misses": 256},
        {"fast_ns": -1},
        {"fast_ns": 2, "slow_ns": 1},
        {"close_code": 1005},
    ],
    ids=str,
)
def test_rules_when_they_cannot_be_kept_then_refused(rig: Rig, rules: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|code"):
        rig.hub.set_heartbeat_rules(**rules)
