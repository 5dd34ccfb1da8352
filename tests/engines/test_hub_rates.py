"""The bound on a connection's packets, against its twin: who is over is not read until it is within."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.hub import EventKind, Tier
from tests.engines.hub_rig import SECOND_NS, Peer, Rig, client_frame
from tests.reference.frames import CLOSE, PONG, TEXT, close_payload
from tests.reference.packet_meter import PacketMeter

MakeRig = Callable[..., Rig]
TICK_NS = 10_000_000  # of the timing wheel
BURST_NS = 2 * SECOND_NS


def known(rig: Rig, per_second: int, tier: Tier = Tier.STANDARD) -> Peer:
    """A connection whose user is known, and its tier's rate."""
    rig.hub.set_packet_rate(tier, per_second)
    peer = rig.open()
    assert rig.hub.authenticated(peer.handle)
    assert rig.hub.configure(peer.handle, tier=tier)
    return peer


def served(rig: Rig) -> int:
    return len(rig.take_events(EventKind.TEXT))


def rest(rig: Rig, at_ns: int) -> int:
    """Let the hub do all it can at a time; return how many messages it read."""
    rig.now_ns = at_ns
    rig.rest()
    return served(rig)


STEPS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 30), st.sampled_from([0, 1, 3, 10, 100, 250])), max_size=12
)


@settings(max_examples=60)
@given(st.sampled_from(["epoll", "fed"]), st.integers(1, 20), STEPS)
def test_packets_at_any_times_are_read_as_the_twin_would(
    driver: str, per_second: int, steps: list[tuple[int, int, int]]
) -> None:
    rig = Rig(driver)
    try:
        peer = known(rig, per_second)
        twin = PacketMeter(SECOND_NS // per_second, BURST_NS)
        waiting = 0
        now_ns = rig.now_ns
        for sent, charged, ticks in steps:
            peer.send(client_frame(TEXT, b"x") * sent)
            waiting += sent
            now_ns += ticks * TICK_NS
            # The wheel may be late by a tick, never early: what a twin reads now the hub reads by then.
            most = twin.serve(waiting, now_ns)
            found = rest(rig, now_ns)
            assert found <= most
            found += rest(rig, now_ns + TICK_NS)
            most += twin.serve(waiting - most, now_ns + TICK_NS)
            now_ns += TICK_NS
            assert found <= most
            late = rest(rig, now_ns + TICK_NS)
            now_ns += TICK_NS
            assert found + late >= most
            most += twin.serve(waiting - most, now_ns)
            assert found + late <= most
            waiting -= found + late
            if found + late < most:  # the wheel's tick; the twin waits for it as well
                twin.due_ns -= (most - found - late) * twin.packet_ns
            rig.hub.charge(peer.handle, charged)
            twin.count(charged, now_ns)
    finally:
        rig.end()


def test_packets_when_faster_than_the_rate_then_a_burst_and_then_the_rate(make_rig: MakeRig) -> None:
    rig = make_rig()
    peer = known(rig, 50)
    peer.send(client_frame(TEXT, b"x") * 300)
    start_ns = rig.now_ns
    assert 100 <= rest(rig, start_ns) <= 102
    for second in (1, 2, 3):
        count = sum(rest(rig, start_ns + (second - 1) * SECOND_NS + n * TICK_NS) for n in range(100))
        assert 49 <= count <= 51
    assert rig.hub.stats()["throttled_total"] > 0
    assert rest(rig, start_ns + 10 * SECOND_NS) > 0
    assert rig.hub.alive(peer.handle)


def test_packets_when_they_are_no_messages_then_they_count_too(make_rig: MakeRig) -> None:
    rig = make_rig()
    peer = known(rig, 50)
    peer.send(client_frame(PONG) * 200 + client_frame(TEXT, b"x"))
    assert rest(rig, rig.now_ns) == 0
    assert rest(rig, rig.now_ns + 3 * SECOND_NS) == 1


def test_packets_when_within_the_rate_or_without_one_then_never_held(make_rig: MakeRig) -> None:
    rig = make_rig()
    slow, fast = known(rig, 50), known(rig, 0, Tier.CRITICAL)
    fast.send(client_frame(TEXT, b"x") * 5_000)
    assert rest(rig, rig.now_ns) == 5_000
    for _ in range(200):
        slow.send(client_frame(TEXT, b"x"))
        assert rest(rig, rig.now_ns + SECOND_NS // 50) == 1
    assert rig.hub.stats()["throttled_total"] == 0


def test_batch_when_it_holds_more_than_the_burst_then_what_comes_next_waits(make_rig: MakeRig) -> None:
    rig = make_rig()
    peer = known(rig, 100)
    start_ns = rig.now_ns
    peer.send(client_frame(TEXT, b"batch"))
    assert rest(rig, start_ns) == 1
    assert rig.hub.charge(peer.handle, 999)
    peer.send(client_frame(TEXT, b"next"))
    assert rest(rig, start_ns + 7 * SECOND_NS) == 0
    assert rest(rig, start_ns + 8 * SECOND_NS + 2 * TICK_NS) == 1


def test_connection_when_held_then_it_can_be_closed_and_the_service_pauses_it_by_itself(
    make_rig: MakeRig,
) -> None:
    rig = make_rig()
    peer, other = known(rig, 10), known(rig, 10)
    for each in (peer, other):
        each.send(client_frame(TEXT, b"x") * 30)
    rest(rig, rig.now_ns)
    assert rig.hub.pause(peer.handle)
    assert rest(rig, rig.now_ns + 5 * SECOND_NS) > 0  # the other's
    assert rig.hub.resume(peer.handle)
    assert rest(rig, rig.now_ns) > 0
    other.send(client_frame(TEXT, b"x") * 30)
    rest(rig, rig.now_ns)
    assert rig.hub.close(other.handle, 1000, "", rig.now_ns)
    other.send(client_frame(CLOSE, close_payload(1000)))
    rig.rest(other)
    assert other.ended
