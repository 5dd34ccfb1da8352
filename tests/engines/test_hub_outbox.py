"""What waits to be sent, over both drivers: lanes, bounds, stalled readers, topics, batches."""

import json
from collections.abc import Callable
from itertools import product

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastim._core.hub import EventKind, Lane
from tests.engines.hub_rig import SECOND_NS, Frame, Peer, Rig, client_frame, packets_of, parse_frames
from tests.reference.frames import CLOSE, PING, PONG, TEXT, close_payload

MakeRig = Callable[..., Rig]
SLOW = Frame(True, 0, CLOSE, close_payload(4008, "slow consumer"))
KINDS = list(product([0, 1], [False, True], [False, True]))  # encoding, batch, deflate


def packet(number: int, size: int = 0) -> bytes:
    return json.dumps(["m", number, "x" * size]).encode()


def both(number: int, size: int = 0) -> tuple[bytes, bytes]:
    return packet(number, size), msgpack.packb(["m", number, "x" * size])


def numbers(packets: list[list[object]]) -> list[object]:
    return [found[1] for found in packets]


def stall(rig: Rig, peer: Peer, size: int = 60_000) -> None:
    """Fill what lies between the hub and the peer, so that a frame has begun."""
    while not rig.hub.queued_bytes(peer.handle):
        rig.hub.send(peer.handle, packet(-1, size))
        rig.flush()
    if rig.driver == "fed":
        peer.read(10)


# -- lanes and bounds


def test_lanes_go_high_before_normal_before_low(rig: Rig) -> None:
    peer = rig.open()
    for number, lane in enumerate([Lane.LOW, Lane.NORMAL, Lane.HIGH, Lane.NORMAL, Lane.LOW, Lane.HIGH]):
        assert rig.hub.send(peer.handle, packet(number), lane)
    assert numbers(peer.packets()) == [2, 5, 1, 3, 0, 4]
    with pytest.raises(ValueError, match="lane"):
        rig.hub.send(peer.handle, packet(0), 3)


def test_high_lane_overtakes_but_never_inside_a_frame(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    for number in range(20):
        rig.hub.send(peer.handle, packet(number, 3_000))
    rig.hub.send(peer.handle, packet(100), Lane.HIGH)
    peer.send(client_frame(PING, b"p"))
    rig.tick()
    found = ["pong" if frame.opcode == PONG else packets_of(frame)[0][1] for frame in peer.frames()]
    begun = found.index(100)
    assert set(found[:begun]) == {-1}
    assert found[begun:] == [100, "pong", *range(20)]


def test_low_lane_is_dropped_when_the_connection_is_behind(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=200_000)
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    before = rig.hub.stats()["low_dropped_total"]
    assert rig.hub.send(peer.handle, packet(7), Lane.LOW)
    assert rig.hub.stats()["low_dropped_total"] == before + 1
    assert 7 not in numbers(peer.packets())
    assert rig.hub.send(peer.handle, packet(8), Lane.LOW)
    assert numbers(peer.packets()) == [8]


@pytest.mark.parametrize("kind", KINDS)
def test_outbox_past_its_bound_closes_with_4008_behind_what_has_begun(make_rig: MakeRig, kind: tuple) -> None:
    rig = make_rig(outbox_bytes=100_000)
    encoding, batch, deflate = kind
    peer = rig.open(buffer_bytes=1, encoding=encoding, batch=batch, deflate=deflate)
    other = rig.open(encoding=encoding)
    stall(rig, peer)
    sent = 0
    while rig.hub.send(peer.handle, packet(sent, 5_000)):
        sent += 1
        if sent % 5 == 0:
            rig.flush()
        assert sent < 10_000
    assert rig.hub.queued_bytes(peer.handle) < 100_000
    assert not rig.hub.alive(peer.handle)
    assert not rig.hub.send(peer.handle, packet(1))
    frames = peer.frames()
    assert frames[-1] == SLOW
    assert all(frame.opcode != CLOSE for frame in frames[:-1])
    assert peer.data == b""
    assert peer.ended
    assert rig.take_events() == [(peer.owner, (4008, "slow consumer", False))]
    assert rig.hub.alive(other.handle)
    assert rig.hub.stats()["slow_closed_total"] == 1
    peer.close()
    rig.rest()
    assert rig.hub.connections == 1


def test_slow_reader_that_never_reads_is_reset_at_the_timeout(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=50_000)
    peer = rig.open(buffer_bytes=1)
    while rig.hub.send(peer.handle, packet(0, 5_000)):
        rig.flush()
    rig.tick(6 * SECOND_NS)
    rig.tick(SECOND_NS)
    if rig.driver == "fed":
        assert rig.hub.take_finished(peer.handle)
    assert rig.hub.connections == 0
    assert rig.hub.stats()["blocked"] == 0


def test_one_frame_larger_than_the_bound_fits_an_empty_outbox(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=1_000)
    peer = rig.open(buffer_bytes=1)
    for number in range(3):
        assert rig.hub.send(peer.handle, packet(number, 300_000))
        assert rig.hub.alive(peer.handle)
        assert numbers(peer.packets()) == [number]
    rig.hub.send(peer.handle, packet(4, 300_000))
    rig.flush()
    assert not rig.hub.send(peer.handle, packet(5, 300_000))


def test_one_frame_larger_than_the_bound_fits_behind_a_quarter_of_it_and_no_more(make_rig: MakeRig) -> None:
    for waiting, fits in [(24_000, True), (26_000, False)]:
        rig = make_rig(outbox_bytes=100_000)
        peer = rig.open(buffer_bytes=1)
        stall(rig, peer)
        while (left := waiting - rig.hub.queued_bytes(peer.handle)) < 0:
            peer.read(1_000)
            rig.wait(lambda: True)
            rig.tick()
        assert rig.hub.send(peer.handle, packet(1, left - 20))
        rig.flush()
        assert rig.hub.send(peer.handle, packet(2, 150_000)) is fits
        if fits:
            assert not rig.hub.send(peer.handle, packet(3))


def test_low_lanes_when_shed_then_nothing_of_them_is_sent_until_they_are_back(rig: Rig) -> None:
    peer, member = rig.open(), rig.open()
    topic = rig.hub.create_topic()
    rig.hub.subscribe(topic, member.handle)
    rig.hub.shed_low(True)
    for lane in (Lane.NORMAL, Lane.LOW, Lane.HIGH):
        assert rig.hub.send(peer.handle, packet(lane), lane)
    for lane in (Lane.NORMAL, Lane.LOW):
        assert rig.hub.publish(topic, packet(lane), None, lane=lane) == (lane == Lane.NORMAL)
    assert numbers(peer.packets()) == [Lane.HIGH, Lane.NORMAL]
    assert numbers(member.packets()) == [Lane.NORMAL]
    assert rig.hub.stats()["low_dropped_total"] == 2
    rig.hub.shed_low(False)
    rig.hub.send(peer.handle, packet(7), Lane.LOW)
    rig.hub.publish(topic, packet(8), None, lane=Lane.LOW)
    assert numbers(peer.packets()) == [7]
    assert numbers(member.packets()) == [8]


def test_low_lane_takes_one_large_packet_when_nothing_else_waits(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=1_000)
    peer = rig.open()
    rig.hub.send(peer.handle, packet(1, 5_000), Lane.LOW)
    rig.hub.send(peer.handle, packet(2, 5_000), Lane.LOW)
    assert numbers(peer.packets()) == [1]


def test_pongs_that_nobody_reads_are_bounded(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=20_000)
    peer = rig.open(buffer_bytes=1)
    for _ in range(200):
        peer.send(client_frame(PING, b"p" * 125) * 50)
        rig.tick()
    assert rig.take_events(EventKind.CLOSED) == [(peer.owner, (4008, "slow consumer", False))]


@pytest.mark.parametrize("tier", [-1, 3, 1 << 40])
def test_configure_when_there_is_no_such_tier_then_refused(rig: Rig, tier: int) -> None:
    peer = rig.open()
    with pytest.raises(ValueError, match="no such tier"):
        rig.hub.configure(peer.handle, tier=tier)


def test_configure_changes_the_bound(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1)
    assert rig.hub.configure(peer.handle, outbox_bytes=10_000)
    stall(rig, peer)
    assert not rig.hub.send(peer.handle, packet(0, 10_000))


def test_drained_comes_when_the_outbox_is_empty(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1)
    assert rig.hub.want_drained(peer.handle)
    rig.tick()
    assert rig.take_events() == [(peer.owner, None)]
    stall(rig, peer)
    assert rig.hub.want_drained(peer.handle)
    rig.tick()
    assert rig.take_events() == []
    rig.rest(peer)
    assert rig.take_events(EventKind.DRAINED) == [(peer.owner, None)]
    assert rig.hub.unsent_bytes(peer.handle) == rig.hub.queued_bytes(peer.handle) == 0


def test_close_when_the_peer_is_stalled_sends_everything_first(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    for number in range(50):
        rig.hub.send(peer.handle, packet(number, 2_000))
    rig.hub.close(peer.handle, 1001, "", rig.now_ns)
    rig.tick()
    frames = peer.frames()
    assert frames[-1] == Frame(True, 0, CLOSE, close_payload(1001))
    assert [n for frame in frames[:-1] for n in numbers(packets_of(frame)) if n != -1] == list(range(50))


# -- memory


def test_stalled_readers_pin_no_shared_chunks(make_rig: MakeRig) -> None:
    """A small message a tick for the stalled among much for others: each of theirs lies in another chunk."""
    rig = make_rig(outbox_bytes=40_000)
    stalled = [rig.open(buffer_bytes=1) for _ in range(10)]
    healthy = rig.open()
    for peer in stalled:
        stall(rig, peer, 3_000)
    topic = rig.hub.create_topic()
    for peer in stalled:
        rig.hub.subscribe(topic, peer.handle)
    for number in range(200):
        for peer in stalled:
            rig.hub.send(peer.handle, packet(number))
        rig.hub.publish(topic, packet(number), None)
        rig.hub.send(healthy.handle, packet(0, 50_000))
        rig.tick()
        healthy.read()
        healthy.data = b""
    assert all(rig.hub.alive(peer.handle) for peer in stalled)
    # Free chunks kept for reuse (64) and what the stalled copied, with room to grow
    assert rig.hub.stats()["chunk_bytes"] < 64 * 66_000 + 10 * 2 * 40_000
    for peer in stalled:
        assert [n for n in numbers(peer.packets()) if n != -1] == [n for n in range(200) for _ in range(2)]
    assert rig.hub.stats()["slices"] == 0


def test_memory_comes_back_when_connections_go_with_full_outboxes(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=300_000)
    for _ in range(3):
        peers = [rig.open(buffer_bytes=1, batch=bool(i % 2)) for i in range(10)]
        for peer in peers:
            for number in range(50):
                rig.hub.send(peer.handle, packet(number, 4_000), number % 3)
        rig.tick()
        for peer in peers:
            rig.hub.send(peer.handle, packet(1))
            peer.close()
        rig.rest()
    stats = rig.hub.stats()
    assert (stats["connections"], stats["slices"], stats["blocked"]) == (0, 0, 0)
    assert stats["chunk_bytes"] < 80 * 66_000


# -- topics


def test_publish_reaches_every_member_but_the_excluded_in_its_encoding(rig: Rig) -> None:
    peers = [rig.open(str(i), encoding=e, batch=b, deflate=d) for i, (e, b, d) in enumerate(KINDS * 2)]
    topic = rig.hub.create_topic()
    assert all(rig.hub.subscribe(topic, peer.handle) for peer in peers)
    assert not rig.hub.subscribe(topic, peers[0].handle)
    assert rig.hub.topic_members(topic) == (8, 8)
    for number in range(3):
        assert rig.hub.publish(topic, *both(number, 400), peers[3].handle) == 15
    for peer in peers:
        assert numbers(peer.packets()) == ([] if peer is peers[3] else [0, 1, 2])
    assert rig.hub.publish(topic, packet(4), None) == 8
    with pytest.raises(ValueError, match="lanes"):
        rig.hub.publish(topic, packet(0), None, 0, Lane.HIGH)


def test_publish_compresses_once_for_all(rig: Rig) -> None:
    peers = [rig.open(deflate=True) for _ in range(20)]
    topic = rig.hub.create_topic()
    for peer in peers:
        rig.hub.subscribe(topic, peer.handle)
    rig.hub.publish(topic, packet(1, 1_000), None)
    assert rig.hub.stats()["deflated_total"] == 1
    assert all(numbers(peer.packets()) == [1] for peer in peers)


def test_topic_loses_members_that_leave_or_go(rig: Rig) -> None:
    peers = [rig.open(encoding=i % 2) for i in range(9)]
    topic, other = rig.hub.create_topic(), rig.hub.create_topic()
    for peer in peers:
        rig.hub.subscribe(topic, peer.handle)
        rig.hub.subscribe(other, peer.handle)
    assert rig.hub.unsubscribe(topic, peers[0].handle)
    assert not rig.hub.unsubscribe(topic, peers[0].handle)
    rig.hub.abort(peers[1].handle)
    rig.hub.close(peers[2].handle, 1000, "", rig.now_ns)
    peers[3].send(client_frame(CLOSE))
    peers[4].send(client_frame(TEXT, b"\xff"))
    peers[5].close()
    rig.tick()
    assert rig.hub.topic_members(topic) == (2, 1)
    assert rig.hub.topic_members(other) == (3, 1)
    assert rig.hub.publish(topic, *both(1)) == 3
    assert [numbers(peer.packets()) for peer in peers[6:]] == [[1]] * 3
    rig.hub.drop_topic(other)
    assert rig.hub.topic_members(other) == (0, 0)
    assert rig.hub.topic_members(topic) == (2, 1)


def test_topic_id_is_stale_once_dropped_and_made_up_ids_name_nothing(rig: Rig) -> None:
    peer = rig.open()
    old = rig.hub.create_topic()
    rig.hub.subscribe(old, peer.handle)
    rig.hub.drop_topic(old)
    new = rig.hub.create_topic()
    assert new & 0xFFFFFFFF == old & 0xFFFFFFFF
    for wrong in (old, 0, 5, 63, 64, old + (1 << 32), (1 << 64) - 1):
        if wrong == new:
            continue
        assert not rig.hub.subscribe(wrong, peer.handle)
        assert not rig.hub.unsubscribe(wrong, peer.handle)
        assert rig.hub.publish(wrong, packet(1), None) == 0
        rig.hub.drop_topic(wrong)
    assert rig.hub.subscribe(new, peer.handle)
    assert rig.hub.publish(new, packet(2), None) == 1
    assert numbers(peer.packets()) == [2]
    assert rig.hub.stats()["topics"] == 1


def test_many_topics_and_members_come_and_go(rig: Rig) -> None:
    peers = [rig.open(encoding=i % 2) for i in range(12)]
    topics = [rig.hub.create_topic() for _ in range(150)]
    for i, topic in enumerate(topics):
        for peer in peers[: i % 13]:
            assert rig.hub.subscribe(topic, peer.handle)
    for i, topic in enumerate(topics[::2]):
        rig.hub.drop_topic(topic)
        topics[2 * i] = rig.hub.create_topic()
    for i, topic in enumerate(topics):
        expected = 0 if i % 2 == 0 else i % 13
        assert rig.hub.topic_members(topic) == ((expected + 1) // 2, expected // 2)
        assert rig.hub.publish(topic, *both(i)) == expected
    for j, peer in enumerate(peers):
        assert numbers(peer.packets()) == [i for i in range(1, 150, 2) if i % 13 > j]


# -- batches


@pytest.mark.parametrize(("encoding", "deflate"), list(product([0, 1], [False, True])))
@pytest.mark.parametrize("count", [1, 2, 15, 16, 999, 1000, 1001, 2500])
def test_batches_hold_all_packets_in_order_and_at_most_1000(
    rig: Rig, encoding: int, deflate: bool, count: int
) -> None:
    peers = [rig.open(encoding=encoding, batch=True, deflate=deflate) for _ in range(2)]
    topic = rig.hub.create_topic()
    for peer in peers:
        rig.hub.subscribe(topic, peer.handle)
    for number in range(count):
        rig.hub.publish(topic, *both(number))
        rig.hub.send(peers[0].handle, both(-number)[encoding], Lane.HIGH)
    first, second = (peer.frames() for peer in peers)
    assert [numbers(packets_of(frame)) for frame in first[:count]] == [[-number] for number in range(count)]
    for frames in (first[count:], second):
        batches = [packets_of(frame) for frame in frames]
        assert [n for batch in batches for n in numbers(batch)] == list(range(count))
        assert len(batches) == -(-count // 1000)
        assert all(len(batch) <= 1000 for batch in batches)
    if count == 1:
        assert second[0].payload == both(0)[encoding]


@pytest.mark.parametrize("encoding", [0, 1])
def test_batches_are_cut_by_size(rig: Rig, encoding: int) -> None:
    peer = rig.open(encoding=encoding, batch=True)
    for number in range(40):
        rig.hub.send(peer.handle, both(number, 90_000 if number == 20 else 5_000)[encoding])
    frames = peer.frames()
    assert [n for frame in frames for n in numbers(packets_of(frame))] == list(range(40))
    assert all(len(frame.payload) <= 66_000 for frame in frames if len(packets_of(frame)) > 1)
    assert len(frames) <= 8


def test_batch_that_is_switched_while_packets_wait_keeps_the_order(rig: Rig) -> None:
    peer = rig.open()
    for number in range(12):
        rig.hub.configure(peer.handle, batch=number // 3 % 2 == 1)
        rig.hub.send(peer.handle, packet(number))
    frames = peer.frames()
    assert [numbers(packets_of(frame)) for frame in frames] == [
        *([n] for n in range(3)),
        [3, 4, 5],
        *([n] for n in range(6, 9)),
        [9, 10, 11],
    ]


# -- everything at once, against a model

actions = st.one_of(
    st.tuples(
        st.just("send"), st.integers(0, 3), st.sampled_from([0, 1, 1, 1]), st.sampled_from([0, 300, 9_000])
    ),
    st.tuples(
        st.just("publish"), st.integers(0, 1), st.integers(-1, 3), st.sampled_from([0, 0, 300, 70_000])
    ),
    st.tuples(st.just("subscribe"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("unsubscribe"), st.integers(0, 1), st.integers(0, 3)),
    st.tuples(st.just("batch"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("read"), st.integers(0, 3), st.sampled_from([1, 50, 3_000, 100_000])),
    st.tuples(st.just("flush")),
)


class Model:
    """What each connection is to receive, by lane."""

    def __init__(self, rig: Rig, kinds: list[tuple[int, bool, bool]]) -> None:
        self.rig = rig
        self.encodings = [kind[0] for kind in kinds]
        self.peers = [
            rig.open(buffer_bytes=1, encoding=encoding, batch=batch, deflate=deflate)
            for encoding, batch, deflate in kinds
        ]
        self.topics = [rig.hub.create_topic() for _ in range(2)]
        self.members: list[set[int]] = [set(), set()]
        self.expected: list[tuple[list[int], list[int]]] = [([], []) for _ in kinds]
        self.number = 0

    def send(self, at: int, lane: int, size: int) -> None:
        self.number += 1
        data = both(self.number, size)[self.encodings[at]]
        assert self.rig.hub.send(self.peers[at].handle, data, lane)
        self.expected[at][lane].append(self.number)

    def publish(self, topic: int, but: int, size: int) -> None:
        self.number += 1
        excluded = self.peers[but].handle if but >= 0 else 0
        members = self.members[topic] - {but}
        assert self.rig.hub.publish(self.topics[topic], *both(self.number, size), excluded) == len(members)
        for at in members:
            self.expected[at][1].append(self.number)

    def subscribe(self, topic: int, at: int) -> None:
        done = self.rig.hub.subscribe(self.topics[topic], self.peers[at].handle)
        assert done == (at not in self.members[topic])
        self.members[topic].add(at)

    def unsubscribe(self, topic: int, at: int) -> None:
        done = self.rig.hub.unsubscribe(self.topics[topic], self.peers[at].handle)
        assert done == (at in self.members[topic])
        self.members[topic].discard(at)

    def batch(self, at: int, on: bool) -> None:
        assert self.rig.hub.configure(self.peers[at].handle, batch=on)

    def read(self, at: int, max_bytes: int) -> None:
        self.peers[at].read(max_bytes)

    def flush(self) -> None:
        self.rig.tick()

    def check(self) -> None:
        for peer, (high, normal) in zip(self.peers, self.expected, strict=True):
            self.rig.rest(peer)
            frames, rest = parse_frames(peer.data)
            assert rest == b""
            found = [n for frame in frames for n in numbers(packets_of(frame))]
            assert [n for n in found if n in set(high)] == high
            assert [n for n in found if n not in set(high)] == normal
        assert self.rig.hub.stats()["slices"] == 0
        assert self.rig.hub.stats()["blocked"] == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    st.lists(actions, min_size=5, max_size=60),
)
def test_each_connection_receives_exactly_what_the_model_says(
    make_rig: MakeRig, kinds: list[tuple[int, bool, bool]], todo: list[tuple[object, ...]]
) -> None:
    rig = make_rig(outbox_bytes=100_000_000)
    model = Model(rig, kinds)
    for name, *arguments in todo:
        getattr(model, str(name))(*arguments)
    model.check()
    rig.end()
