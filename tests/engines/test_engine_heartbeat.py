"""The heartbeat of Engine.IO's transports: what the handshake announced is kept, whatever the client does."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastim._core.hub import EventKind
from tests.engines.engine_rig import WAYS, EngineRig, Transport
from tests.engines.hub_rig import SECOND_NS

MS = 1_000_000
TICK_MS = 25  # of the service
LOST = (4009, "heartbeat lost", False)


class Client:
    """Answers pings after its round trip, and looks at the times between them as clients do."""

    def __init__(
        self, transport: Transport, interval_ms: int, timeout_ms: int, min_ms: int, round_trip_ms: int = 0
    ) -> None:
        self.rig = transport.rig
        self.transport = transport
        self.round_trip_ms = round_trip_ms
        self.answers = True
        self.due_ms: list[int] = []
        self.now_ms = 0
        self.pinged_ms = [0]
        hub = self.rig.hub
        hub.set_engine_heartbeat_rules(interval_ms, timeout_ms, min_ms)
        assert hub.set_heartbeat(transport.handle, interval_ms, self.rig.now_ns)

    @property
    def gaps_ms(self) -> list[int]:
        return [later - sooner for sooner, later in zip(self.pinged_ms, self.pinged_ms[1:], strict=False)]

    def run(self, duration_ms: int, step_ms: int = TICK_MS) -> None:
        """Let time pass."""
        until_ms = self.now_ms + duration_ms
        while self.now_ms < until_ms:
            self.now_ms += step_ms
            while self.due_ms and self.due_ms[0] <= self.now_ms:
                self.due_ms.pop(0)
                self.transport.say("3")
            self.rig.tick(step_ms * MS)
            for message in self.transport.messages():
                if message == "2":
                    self.pinged_ms.append(self.now_ms)
                    if self.answers:
                        self.due_ms.append(self.now_ms + self.round_trip_ms)

    def interval_ms(self) -> int:
        return self.rig.hub.heartbeat_interval_ms(self.transport.handle)


rules = st.tuples(st.integers(300, 30_000), st.integers(200, 20_000), st.integers(100, 300))


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=60, deadline=None)
@given(rules, st.integers(0, 1_500), st.lists(st.integers(0, 40), max_size=6), st.integers(0, 40))
@example((300, 200, 300), 0, [], 0)
def test_pings_when_the_client_answers_then_none_is_later_than_announced(
    way: str,
    rule: tuple[int, int, int],
    round_trip_ms: int,
    chatter: list[int],
    neighbours: int,
) -> None:
    rig = EngineRig(way)
    try:
        keep_rhythm(rig, rule, round_trip_ms, chatter, neighbours)
    finally:
        rig.end()


def keep_rhythm(
    rig: EngineRig, rule: tuple[int, int, int], round_trip_ms: int, chatter: list[int], neighbours: int
) -> None:
    interval_ms, timeout_ms, min_ms = rule
    for _ in range(neighbours):
        rig.transport().channel()
    transport = rig.transport()
    client = Client(transport, interval_ms, timeout_ms, min_ms, min(round_trip_ms, timeout_ms - 75))
    step_ms = max(TICK_MS, interval_ms // 200 // TICK_MS * TICK_MS) if interval_ms > 5_000 else TICK_MS
    for part in chatter:
        client.run(part * step_ms, step_ms)
        transport.say("4hello")
    client.run(4 * interval_ms, step_ms)
    assert rig.hub.alive(transport.handle)
    assert len(client.pinged_ms) >= 4
    assert max(client.gaps_ms) <= interval_ms + step_ms - TICK_MS
    assert min(client.gaps_ms[1:]) >= min_ms // 2
    assert rig.take_events(EventKind.CLOSED) == []


@pytest.mark.parametrize(("interval_ms", "timeout_ms"), [(300, 200), (15_000, 10_000), (25_000, 20_000)])
def test_a_silent_client_when_both_times_are_over_then_it_is_gone(
    make_engine: Callable[..., EngineRig], interval_ms: int, timeout_ms: int
) -> None:
    engine = make_engine(close_timeout_ns=90 * SECOND_NS)
    transports = [engine.transport(str(number)) for number in range(20)]
    channels = [transport.channel() for transport in transports]
    clients = [Client(transport, interval_ms, timeout_ms, interval_ms) for transport in transports]
    for client in clients:
        client.answers = False
    for _ in range((interval_ms + timeout_ms) // TICK_MS):
        engine.tick(TICK_MS * MS)
    ended = engine.take_events(EventKind.CLOSED)
    assert len(ended) == 40
    assert {data for _, data in ended} == {LOST}
    assert [owner for owner, _ in ended if owner in channels] == [
        channels[int(owner.name)] for owner, _ in ended if owner not in channels
    ]
    for transport in transports:
        assert [message for message in transport.messages() if message != "2"] == []
        assert transport.closed_with
    assert engine.hub.heartbeat_stats()["lost_total"] == 20


def test_a_verdict_when_a_request_comes_before_its_tick_then_it_can_be_asked_for(engine: EngineRig) -> None:
    transport = engine.transport()
    begun_ns = engine.now_ns
    client = Client(transport, 300, 200, 300)
    client.answers = False
    client.run(300)
    assert client.pinged_ms[1:]
    assert not engine.hub.is_expired(transport.handle, engine.now_ns)
    assert engine.hub.is_expired(transport.handle, begun_ns + 500 * MS)
    assert engine.hub.alive(transport.handle)
    transport.say("3")
    engine.poll()
    assert not engine.hub.is_expired(transport.handle, begun_ns + 500 * MS)


@pytest.mark.parametrize("message", ["4hello", "3", b"\x01"])
def test_a_sign_of_life_when_it_comes_then_the_ping_counts_as_answered(
    engine: EngineRig, message: str | bytes
) -> None:
    transport = engine.transport()
    client = Client(transport, 1_000, 500, 1_000)
    client.answers = False
    for _ in range(60):
        client.run(100)
        transport.say(message)
    assert engine.hub.alive(transport.handle)
    assert max(client.gaps_ms) <= 1_000


def test_the_interval_when_round_trips_are_slow_then_it_falls_to_the_least_and_rises_again(
    engine: EngineRig,
) -> None:
    transport = engine.transport()
    client = Client(transport, 5_000, 3_000, 2_000, round_trip_ms=300)
    assert client.interval_ms() == 5_000
    client.run(60_000, 50)
    assert client.interval_ms() == 2_000
    assert engine.hub.round_trip_ns(transport.channel().handle) >= 250 * MS
    client.round_trip_ms = 0
    client.run(60_000)
    assert client.interval_ms() == 5_000


def test_a_pong_when_an_earlier_ping_waits_for_one_then_it_is_the_earlier_ones(engine: EngineRig) -> None:
    transport = engine.transport()
    client = Client(transport, 1_000, 5_000, 1_000, round_trip_ms=1_500)
    for _ in range(30):
        client.run(250)
        transport.say("4busy")  # so that pings go out though pongs are missing
    assert 1_400 * MS <= engine.hub.round_trip_ns(transport.handle) <= 1_600 * MS


def test_a_pong_when_nobody_asked_then_it_is_nothing(engine: EngineRig) -> None:
    transport = engine.transport()
    transport.say("3")
    engine.tick()
    client = Client(transport, 1_000, 500, 1_000)
    for _ in range(5):
        transport.say("3")
    client.run(3_000)
    assert 0 < engine.hub.round_trip_ns(transport.handle) <= TICK_MS * MS
    assert engine.hub.alive(transport.handle)


def test_a_paused_transport_when_it_is_not_read_then_pings_go_on_and_nobody_is_judged(
    engine: EngineRig,
) -> None:
    transport = engine.transport()
    chat = transport.channel()
    engine.hub.pause(chat.handle)
    client = Client(transport, 1_000, 500, 1_000)
    client.answers = False
    client.run(6_000)
    assert max(client.gaps_ms) <= 1_000
    assert len(client.pinged_ms) > 5
    assert engine.hub.alive(transport.handle)
    engine.hub.resume(chat.handle)
    client.run(1_600)
    assert not engine.hub.alive(transport.handle)


def test_a_stop_of_the_process_when_the_pong_waits_then_nobody_is_lost(engine: EngineRig) -> None:
    transport = engine.transport()
    client = Client(transport, 1_000, 500, 1_000)
    client.answers = False
    client.run(1_000)
    if transport.peer is not None and engine.driver == "epoll":
        transport.say("3")  # it lies in the socket
        engine.tick(60 * SECOND_NS)
    else:
        engine.tick(
            60 * SECOND_NS
        )  # it comes as soon as the loop looks at the request, or at the TLS transport
        assert engine.hub.alive(transport.handle)
        transport.say("3")
    client.answers = True
    client.run(3_000)
    assert engine.hub.alive(transport.handle)
    assert engine.take_events(EventKind.CLOSED) == []


def test_a_channels_heartbeat_when_set_then_it_is_the_transports_that_stays(engine: EngineRig) -> None:
    transport = engine.transport()
    chat = transport.channel()
    Client(transport, 1_000, 500, 1_000)
    assert engine.hub.set_heartbeat(chat.handle, 40_000, engine.now_ns)
    assert engine.hub.set_heartbeat(chat.handle, 0, engine.now_ns)
    assert engine.hub.heartbeat_interval_ms(chat.handle) == 1_000
    assert engine.hub.set_slow_heartbeat(chat.handle, True)
    assert engine.hub.heartbeat_interval_ms(transport.handle) == 1_000


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 1, 2)])
def test_rules_when_they_cannot_be_kept_then_they_are_refused(
    engine: EngineRig, wrong: tuple[int, int, int]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        engine.hub.set_engine_heartbeat_rules(*wrong)
