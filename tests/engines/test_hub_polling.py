"""Polling transports: payloads, what a POST costs, and the way over to WebSocket."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.hub import Encoding, EventKind, Lane, Tier
from tests.engines.engine_rig import EngineRig, Transport
from tests.engines.hub_rig import SECOND_NS, Owner
from tests.reference.rendering import Message, encode_payload

PER_S = 10
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1e"), max_size=300)
MESSAGES = st.lists(st.one_of(TEXTS.map(lambda text: "4" + text), st.binary(max_size=300)), max_size=20)


@pytest.fixture(params=["epoll", "fed"])
def rig(request: pytest.FixtureRequest) -> Iterator[EngineRig]:
    """A hub for polling transports; WebSockets come over either driver."""
    rig = EngineRig("polling")
    rig.driver = request.param
    yield rig
    rig.end()


@pytest.fixture
def polling(rig: EngineRig) -> Transport:
    return rig.transport()


# -- payloads


@settings(max_examples=200, deadline=None)
@given(MESSAGES, st.lists(st.booleans(), min_size=20, max_size=20))
def test_a_payload_when_taken_then_it_has_all_that_was_queued(
    messages: list[Message], stalled: list[bool]
) -> None:
    rig = EngineRig("polling")
    handle = rig.transport().handle
    for message, flushed in zip(messages, stalled, strict=False):
        binary = isinstance(message, bytes)
        assert rig.hub.send_engine(
            handle, message if isinstance(message, bytes) else message.encode(), binary
        )
        if flushed:  # what waits from one flush to another is copied
            rig.flush()
    queued = rig.hub.queued_bytes(handle)
    payload = rig.hub.take_payload(handle)
    assert payload == encode_payload(messages)
    assert len(payload) == max(queued - 1, 0)
    assert rig.hub.take_payload(handle) == b""
    assert rig.hub.stats()["sent_bytes_total"] == queued
    rig.end()


def test_a_payload_when_there_are_more_records_than_a_write_has_vectors_then_all_are_in_it(
    polling: Transport,
) -> None:
    hub = polling.rig.hub
    root, packed = polling.channel(), polling.channel("/p", Encoding.MSGPACK)
    for number in range(500):  # out of two arenas in turn
        hub.send(root.handle, b'["e",%d]' % number)
        hub.send(packed.handle, b"\x92\xa1e\x01")
    found = polling.messages()
    assert found[::2] == [f'42["e",{number}]' for number in range(500)]
    assert set(found[1::2]) == {b"\x83\xa4type\x02\xa4data\x92\xa1e\x01\xa3nsp\xa2/p"}


def test_records_when_they_wait_for_a_poll_then_the_lanes_and_states_keep_their_rules(
    polling: Transport,
) -> None:
    hub, root = polling.rig.hub, polling.channel()
    hub.send(root.handle, b'["n",1]')
    polling.rig.flush()
    assert hub.is_behind(root.handle)
    hub.send(root.handle, b'["dropped",1]', Lane.LOW)
    for number in range(3):
        hub.send(root.handle, b'["state",%d]' % number, Lane.LOW, 5)
    hub.send(root.handle, b'["h",1]', Lane.HIGH)
    assert polling.messages() == ['42["h",1]', '42["n",1]', '42["state",2]']
    assert not hub.is_behind(root.handle)
    hub.send(root.handle, b'["n",2]', Lane.LOW)
    assert polling.messages() == ['42["n",2]']


def test_a_polling_transport_when_it_has_something_then_it_is_listed_once_a_flush(rig: EngineRig) -> None:
    handles = [rig.transport().handle for _ in range(3)]
    for handle in handles[:2] * 2:
        rig.hub.send_engine(handle, b"6", False)
    assert rig.hub.fed_ready() == []
    rig.hub.flush(rig.now_ns)
    assert rig.hub.fed_ready() == handles[:2]
    assert rig.hub.fed_ready() == []
    rig.hub.close(handles[2], 1000, "", rig.now_ns)
    rig.hub.flush(rig.now_ns)
    assert rig.hub.fed_ready() == [handles[2]]
    assert not rig.hub.take_finished(handles[2])
    assert rig.hub.take_payload(handles[2]) == b"1"
    assert rig.hub.take_finished(handles[2])


def test_a_polling_transport_when_bytes_are_fed_then_they_are_none_of_its(polling: Transport) -> None:
    hub = polling.rig.hub
    hub.send_engine(polling.handle, b"6", False)
    assert hub.feed(polling.handle, b"\x81\x00", polling.rig.now_ns) == 0
    assert hub.take(polling.handle, 100) == b""
    assert polling.messages() == ["6"]
    assert polling.rig.take_events() == []


def test_a_closed_polling_transport_when_nobody_polls_then_it_is_finished_after_the_close_timeout(
    polling: Transport,
) -> None:
    rig = polling.rig
    rig.hub.close(polling.handle, 1001, "", rig.now_ns)
    rig.tick(4 * SECOND_NS)
    assert not rig.hub.take_finished(polling.handle)
    rig.tick(2 * SECOND_NS)
    assert rig.hub.take_payload(polling.handle) == b""
    assert rig.hub.take_finished(polling.handle)
    assert rig.hub.connections == 0


# -- bounds


def test_polling_transports_when_as_many_are_pending_as_may_be_then_one_more_is_refused() -> None:
    rig = EngineRig("polling", max_pending=3, max_pending_per_address=2)

    def open_at(peer: str) -> int:
        return rig.hub.open_polling(peer, Owner(), rig.now_ns)

    first = open_at("192.0.2.1")
    assert first
    assert open_at("192.0.2.1")
    assert open_at("192.0.2.1") == 0
    assert open_at("192.0.2.2")
    assert open_at("192.0.2.3") == 0
    assert rig.hub.stats()["pending_refused_total"] == 2
    assert rig.hub.authenticated(first)
    assert open_at("192.0.2.1")
    assert rig.hub.pending_at("192.0.2.1") == 2
    rig.hub.feed_eof(first, rig.now_ns)
    assert rig.hub.connections == 3
    rig.end()


def test_posts_when_the_user_is_not_known_then_they_are_bounded_as_frames_are() -> None:
    rig = EngineRig("polling", pending_frames=5, pending_bytes=100)
    many, much = rig.transport("many"), rig.transport("much")
    channel = many.channel()

    def post(transport: Transport, packets: int, size: int) -> int:
        return rig.hub.receive_polled(transport.handle, packets, size, False, rig.now_ns)

    assert post(many, 5, 50) == 0
    assert post(many, 1, 1) == -1
    assert post(much, 1, 101) == -1
    assert post(much, 1, 1) == -1
    rig.tick()
    ended = (4011, "too much before hello", False)
    assert rig.take_events() == [(channel, ended), (many.owner, ended), (much.owner, ended)]
    assert many.messages() == much.messages() == []
    assert many.closed_with == b"1"
    assert rig.hub.connections == 0
    rig.end()


def test_posts_when_they_come_faster_than_the_rate_then_the_answers_wait_and_the_rate_is_kept(
    rig: EngineRig, polling: Transport
) -> None:
    hub = rig.hub
    for tier in Tier:
        hub.set_packet_rate(tier, PER_S)
    hub.authenticated(polling.handle)
    begun_ns, packets = rig.now_ns, 0
    for _ in range(50):
        wait_ns = hub.receive_polled(polling.handle, 3, 30, False, rig.now_ns)
        packets += 3
        assert 0 <= wait_ns <= 3 * SECOND_NS // PER_S
        rig.now_ns += wait_ns
    burst = 2 * PER_S
    assert packets <= burst + PER_S * (rig.now_ns - begun_ns) / SECOND_NS + 3
    assert hub.stats()["throttled_total"] > 0
    assert hub.stats()["received_frames_total"] == packets
    assert hub.last_received_ns(polling.channel().handle) > begun_ns
    hub.charge(polling.channel().handle, 10)
    assert hub.receive_polled(polling.handle, 1, 1, False, rig.now_ns) > SECOND_NS


# -- over to WebSocket


@pytest.fixture
def websocket(rig: EngineRig) -> Transport:
    peer = rig.open("probe", engine=True)
    assert peer.owner is not None
    return Transport(rig, peer.owner, peer)


def test_channels_when_their_session_goes_over_then_so_does_all_they_are(
    rig: EngineRig, polling: Transport, websocket: Transport
) -> None:
    hub = rig.hub
    text, packed = polling.channel(), polling.channel("/p", Encoding.MSGPACK)
    topic = hub.create_topic()
    for owner in (text, packed):
        hub.subscribe(topic, owner.handle)
        hub.admit(owner.handle, Tier.STANDARD)
        hub.configure(owner.handle, tier=Tier.CRITICAL, outbox_bytes=5_000)
    hub.authenticated(polling.handle)
    hub.send(text.handle, b'["before",1]')
    hub.send_rendered(text.handle, b'451-["e",{"_placeholder":true,"num":0}]', [b"a"])
    assert hub.want_drained(packed.handle)
    pending = hub.stats()["pending"]
    assert hub.move_channels(polling.handle, websocket.handle)
    rest = hub.take_payload(polling.handle)
    assert hub.send_payload(websocket.handle, rest)
    hub.publish(topic, b'["after",1]', b"\x92\xa5after\x01")
    assert hub.stats()["pending"] == pending - 1
    assert websocket.messages() == [
        '42["before",1]',
        '451-["e",{"_placeholder":true,"num":0}]',
        b"a",
        '42["after",1]',
        b"\x83\xa4type\x02\xa4data\x92\xa5after\x01\xa3nsp\xa2/p",
    ]
    assert rig.take_events() == [(packed, None)]
    hub.close(polling.handle, 1000, "", rig.now_ns)
    assert polling.messages() == []
    assert polling.ended
    assert rig.take_events() == []  # it has no owner any more
    assert hub.owner(websocket.handle) is polling.owner
    websocket.say("4x")
    rig.tick()
    assert rig.take_events() == [(polling.owner, b"4x")]
    assert not hub.send(text.handle, b'["e","%s"]' % bytes(6_000)) or hub.queued_bytes(text.handle)
    websocket.vanish()
    rig.tick()
    assert [owner for owner, _ in rig.take_events(EventKind.CLOSED)] == [text, packed, polling.owner]
    assert hub.connections == 0


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_what_no_get_has_taken_when_it_goes_over_then_it_is_what_it_was(messages: list[Message]) -> None:
    rig = EngineRig("tls")
    transport = rig.transport()
    assert rig.hub.send_payload(transport.handle, encode_payload(messages))
    assert transport.messages() == messages
    assert not rig.hub.send_payload(transport.channel().handle, b"4x")
    rig.end()


def test_what_goes_over_when_the_socket_takes_it_slowly_then_nothing_overtakes_it() -> None:
    rig = EngineRig("websocket")
    transport = rig.transport(buffer_bytes=1)
    assert transport.peer is not None
    messages: list[Message] = ['451-["e",{"_placeholder":true,"num":0}]', bytes(900_000), "4rest"]
    assert rig.hub.send_payload(transport.handle, encode_payload(messages))
    for number in range(20):
        rig.flush()
        transport.peer.read(1_000)
        assert rig.hub.send_engine(transport.handle, b"4%d" % number, False, Lane.HIGH)
    assert transport.messages() == [*messages, *[f"4{number}" for number in range(20)]]
    rig.end()
    transport.peer.close()


def test_a_session_when_it_goes_over_paused_then_it_is_read_when_all_resume(
    rig: EngineRig, polling: Transport, websocket: Transport
) -> None:
    hub = rig.hub
    channels = [polling.channel(f"/{number}").handle for number in range(2)]
    for handle in (*channels, polling.handle):
        hub.pause(handle)
    assert hub.move_channels(polling.handle, websocket.handle)
    assert not hub.is_paused(polling.handle)
    websocket.say("4x")
    rig.tick()
    assert rig.take_events() == []
    for handle in channels:
        hub.resume(handle)
    assert hub.is_paused(channels[0])
    hub.resume(websocket.handle)
    rig.rest()
    assert rig.take_events() == [(polling.owner, b"4x")]


def test_a_heartbeat_when_its_session_goes_over_then_it_goes_on(
    rig: EngineRig, polling: Transport, websocket: Transport
) -> None:
    hub = rig.hub
    hub.set_engine_heartbeat_rules(1_000, 500, 1_000)
    hub.set_heartbeat(polling.handle, 1_000, rig.now_ns)
    rig.tick(SECOND_NS)
    assert hub.take_payload(polling.handle) == b"2"
    assert hub.move_channels(polling.handle, websocket.handle)
    rig.now_ns += SECOND_NS // 10
    websocket.say("3")  # the pong takes the new way
    rig.tick(0)
    assert hub.round_trip_ns(websocket.handle) == SECOND_NS // 10
    rig.tick(SECOND_NS)
    assert websocket.messages() == ["2"]
    rig.tick(SECOND_NS * 11 // 20)
    assert rig.take_events(EventKind.CLOSED) == [(polling.owner, (4009, "heartbeat lost", False))]
    assert hub.alive(polling.handle)  # it is nobody's, and the caller's to close


def test_a_session_when_it_cannot_go_over_then_nothing_has_changed(
    rig: EngineRig, polling: Transport, websocket: Transport
) -> None:
    hub = rig.hub
    chat = polling.channel("/chat")
    taken = rig.open("taken", engine=True)
    assert hub.open_channel(taken.handle, b"/", Owner())
    native = rig.open("native")
    other = rig.transport("other")
    for source, target in (
        (polling.handle, polling.handle),
        (polling.handle, native.handle),
        (polling.handle, taken.handle),
        (polling.handle, chat.handle),
        (polling.handle, 0),
        (websocket.handle, taken.handle),
        (native.handle, websocket.handle),
        (chat.handle, websocket.handle),
        (0, websocket.handle),
    ):
        assert not hub.move_channels(source, target), (source, target)
    assert hub.move_channels(other.handle, websocket.handle)  # with no channel
    hub.send(chat.handle, b'["e",1]')
    assert polling.messages() == ['42/chat,["e",1]']
