"""Priorities and sends to many: states that replace each other, lanes that share a slow connection, lists."""

import json
import random
from collections.abc import Callable
from itertools import product

import msgpack
import pytest

from fastim._core.hub import EventKind, Lane
from tests.engines.hub_rig import Peer, Rig, packets_of

MakeRig = Callable[..., Rig]
KINDS = list(product([0, 1], [False, True], [False, True]))  # encoding, batch, deflate


def both(name: object, size: int = 0) -> tuple[bytes, bytes]:
    value = ["m", name, "x" * size]
    return json.dumps(value).encode(), msgpack.packb(value)


def packet(name: object, size: int = 0) -> bytes:
    return both(name, size)[0]


def names(peer: Peer) -> list[object]:
    """What a peer got, the filling of ``stall`` left out."""
    return [found[1] for found in peer.packets() if found[1] != -1]


def stall(rig: Rig, peer: Peer, size: int = 60_000) -> None:
    """Fill what lies between the hub and the peer, so that a frame has begun."""
    while not rig.hub.queued_bytes(peer.handle):
        rig.hub.send(peer.handle, packet(-1, size))
        rig.flush()
    if rig.driver == "fed":
        peer.read(10)


# -- states


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("stalled", [False, True])
def test_states_when_newer_ones_come_then_only_the_latest_of_a_key_is_sent(
    rig: Rig, stalled: bool, batch: bool
) -> None:
    peer = rig.open(buffer_bytes=1, batch=batch)
    if stalled:
        stall(rig, peer)
    for number in range(50):
        for key in (7, 8, 1 << 63):
            assert rig.hub.send(peer.handle, packet([key, number], number % 3 * 100), Lane.LOW, key)
        if stalled and number % 7 == 0:
            rig.tick()
    assert names(peer) == [[7, 49], [8, 49], [1 << 63, 49]]
    assert rig.hub.stats()["low_merged_total"] == 49 * 3
    assert rig.hub.stats()["slices"] == 0


def test_states_when_published_then_each_member_has_one_of_a_key(rig: Rig) -> None:
    peers = [rig.open(buffer_bytes=1, encoding=e, batch=b, deflate=d) for e, b, d in KINDS]
    topics = [rig.hub.create_topic() for _ in range(2)]
    for peer in peers:
        for topic in topics:
            rig.hub.subscribe(topic, peer.handle)
    for peer in peers[:3]:
        stall(rig, peer)
    for number in range(20):
        for key, topic in enumerate(topics, 1):
            assert rig.hub.publish(topic, *both([key, number], 400), 0, Lane.LOW, key) == len(peers)
    for peer in peers:
        assert names(peer) == [[1, 19], [2, 19]]


def test_states_when_the_reader_is_slow_then_bounded_and_the_longest_unchanged_go_first(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(outbox_bytes=400_000)
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    before = rig.hub.queued_bytes(peer.handle)
    for key in range(1, 301):
        assert rig.hub.send(peer.handle, packet(key, 200), Lane.LOW, key)
    assert rig.hub.queued_bytes(peer.handle) - before < 128 * 300
    assert rig.hub.stats()["low_dropped_total"] == 300 - 128
    for key in range(300, 500):
        rig.hub.send(peer.handle, packet(key, 9_000), Lane.LOW, key)
    assert rig.hub.queued_bytes(peer.handle) - before <= 100_000
    found = names(peer)
    assert found == list(range(500 - len(found), 500))


def test_states_when_messages_need_the_room_then_they_give_way_and_no_reader_is_closed(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(outbox_bytes=200_000)
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer, 3_000)
    for key in range(1, 5):
        rig.hub.send(peer.handle, packet(["state", key], 10_000), Lane.LOW, key)
    sent = 0
    while rig.hub.queued_bytes(peer.handle) < 190_000:
        assert rig.hub.send(peer.handle, packet(sent, 5_000))
        sent += 1
    assert rig.hub.send(peer.handle, packet(sent, 5_000))
    assert rig.hub.send(peer.handle, packet(sent + 1, 5_000))
    assert rig.hub.alive(peer.handle)
    found = names(peer)
    assert [name for name in found if isinstance(name, int)] == list(range(sent + 2))


def test_key_when_not_of_a_state_then_refused(rig: Rig) -> None:
    peer = rig.open()
    topic = rig.hub.create_topic()
    for call in (
        lambda: rig.hub.send(peer.handle, packet(0), Lane.NORMAL, 1),
        lambda: rig.hub.send_many([peer.handle], packet(0), None, Lane.HIGH, 1),
        lambda: rig.hub.publish(topic, packet(0), None, 0, Lane.NORMAL, 1),
    ):
        with pytest.raises(ValueError, match="low lane"):
            call()
    with pytest.raises(OverflowError):
        rig.hub.send(peer.handle, packet(0), Lane.LOW, 1 << 64)


# -- sends to many


@pytest.mark.parametrize("lane", list(Lane))
def test_send_many_when_kinds_differ_then_each_gets_its_encoding(rig: Rig, lane: Lane) -> None:
    peers = [rig.open(encoding=e, batch=b, deflate=d) for e, b, d in KINDS * 2]
    other = rig.open()
    for number in range(3):
        assert rig.hub.send_many([peer.handle for peer in peers], *both(number, 400), lane) == len(peers)
    for peer in peers:
        assert names(peer) == [0, 1, 2]
    assert names(other) == []


def test_send_many_when_some_are_gone_then_the_others_get_it(rig: Rig) -> None:
    gone, closing, json_only, binary = (rig.open(encoding=i == 3) for i in range(4))
    rig.hub.abort(gone.handle)
    rig.hub.close(closing.handle, 1000, "", rig.now_ns)
    handles = [gone.handle, closing.handle, json_only.handle, binary.handle, 0, 1 << 40]
    assert rig.hub.send_many(handles, packet(1), None) == 1
    assert rig.hub.send_many(iter(handles), *both(2)) == 2
    assert rig.hub.send_many([], *both(3)) == 0
    assert names(json_only) == [1, 2]
    assert names(binary) == [2]
    with pytest.raises(TypeError):
        rig.hub.send_many(["x"], *both(4))  # type: ignore[list-item]


def test_lists_when_two_go_out_in_one_tick_then_nobody_gets_what_is_for_others(rig: Rig) -> None:
    """What a temporary room for a list of recipients got wrong."""
    peers = [rig.open(encoding=i % 2, batch=i % 3 == 0, deflate=i % 5 == 0) for i in range(24)]
    lists = [peers[:12], peers[6:], peers[::2], [peers[3]], peers[20:], [peers[3], peers[4]]]
    for number, listed in enumerate(lists):
        rig.hub.send_many([peer.handle for peer in listed], *both(f"private to {number}", 300))
    for peer in peers:
        assert names(peer) == [f"private to {n}" for n, listed in enumerate(lists) if peer in listed]


@pytest.mark.parametrize(("encoding", "deflate"), list(product([0, 1], [False, True])))
def test_messages_of_a_tick_when_to_one_user_then_one_batch_on_every_device(
    rig: Rig, encoding: int, deflate: bool
) -> None:
    devices = [rig.open(encoding=encoding, batch=True, deflate=deflate) for _ in range(3)]
    plain = rig.open(encoding=encoding, deflate=deflate)
    other = rig.open(encoding=encoding, batch=True, deflate=deflate)
    mine = [peer.handle for peer in (*devices, plain)]
    writes = rig.hub.stats()["write_calls_total"]
    for number in range(5):
        rig.hub.send_many(mine, *both(number, 90))
        rig.hub.send_many([other.handle], *both("other", 90))
    rig.hub.send(devices[0].handle, both("its own", 90)[encoding])
    rig.flush()
    if rig.driver == "epoll":
        assert rig.hub.stats()["write_calls_total"] - writes == 5
    for peer in devices:
        own = [["m", "its own", "x" * 90]] if peer is devices[0] else []
        expected = [["m", number, "x" * 90] for number in range(5)] + own
        assert [packets_of(frame) for frame in peer.frames()] == [expected]
    assert [len(packets_of(frame)) for frame in plain.frames()] == [1] * 5
    assert [len(packets_of(frame)) for frame in other.frames()] == [5]


@pytest.mark.parametrize("deflate", [False, True])
def test_batches_when_of_a_topic_then_cut_once_a_class_and_never_a_connection(
    rig: Rig, deflate: bool
) -> None:
    peers = [rig.open(encoding=i % 2, batch=True, deflate=deflate) for i in range(100)]
    topics = [rig.hub.create_topic() for _ in range(2)]
    for i, peer in enumerate(peers):
        rig.hub.subscribe(topics[0], peer.handle)
        if i % 3 == 0:
            rig.hub.subscribe(topics[1], peer.handle)
    before = rig.hub.stats()
    for number in range(16):
        rig.hub.publish(topics[0], *both(number, 120))
    for number in range(16, 20):
        rig.hub.publish(topics[1], *both(number, 120))
    rig.flush()
    after = rig.hub.stats()
    assert after["batches_cut_total"] - before["batches_cut_total"] == 4  # two topics, two encodings
    if deflate:
        assert after["deflated_total"] - before["deflated_total"] == 4
    for i, peer in enumerate(peers):
        assert names(peer) == list(range(20 if i % 3 == 0 else 16))


# -- lanes of a slow connection


def drain_slowly(rig: Rig, peer: Peer, step: int) -> list[object]:
    """Read so little at a time that the hub has to choose what goes next."""
    while rig.hub.queued_bytes(peer.handle):
        rig.tick()
        if not peer.read(step) and rig.driver == "epoll":
            rig.tick()
    return names(peer)


@pytest.mark.parametrize("percent", [0, 10, 50])
def test_low_lane_when_the_normal_one_never_ends_then_it_has_its_share(
    make_rig: MakeRig, percent: int
) -> None:
    """Strict priority starves; no share at all is strict priority, by choice."""
    rig = make_rig(low_percent=percent, outbox_bytes=3_000_000)
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    for number in range(400):
        rig.hub.send(peer.handle, packet(number, 2_000))
    for key in range(1, 41):
        rig.hub.send(peer.handle, packet(["state", key], 2_000), Lane.LOW, key)
    found = drain_slowly(rig, peer, 4_000)
    messages = [name for name in found if isinstance(name, int)]
    states = [name for name in found if not isinstance(name, int)]
    assert messages == list(range(400))
    assert states == [["state", key] for key in range(1, 41)]
    first = found.index(["state", 1])
    if percent == 0:
        assert first == 400
    else:
        assert first < 40
        # Between the first and the last state the share is what was asked for, to a write's precision.
        between = found[first : found.index(["state", 40]) + 1]
        share = 100 * 40 / len(between)
        assert percent * 0.4 < share <= percent * 1.6 + 4


def test_order_when_lanes_share_a_connection_then_kept_within_each(rig: Rig) -> None:
    """A waiting queue that newer messages overtake; priorities that count for nothing."""
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    for number in range(60):
        rig.hub.send(peer.handle, packet(["n", number], 1_500), Lane.NORMAL)
        rig.hub.send(peer.handle, packet(["h", number], 100), Lane.HIGH)
        rig.hub.send(peer.handle, packet(["l", number], 700), Lane.LOW, number + 1)
        if number % 9 == 0:
            peer.read(3_000)
            rig.tick()
    found = drain_slowly(rig, peer, 2_000)
    for name in "hnl":
        assert [n for lane, n in found if lane == name] == list(range(60)), name
    # Nothing of the high lane waits behind more than what had begun and what the peer had been offered.
    assert found.index(["h", 59]) < found.index(["n", 59])


def test_drained_when_others_keep_the_outbox_full_then_still_told(rig: Rig) -> None:
    """Who waits for room gets it when what was before is gone, however much came behind."""
    peer = rig.open(buffer_bytes=1)
    stall(rig, peer)
    for number in range(20):
        rig.hub.send(peer.handle, packet(number, 2_000))
    rig.hub.want_drained(peer.handle)
    told = 0
    for number in range(20, 400):
        rig.hub.send(peer.handle, packet(number, 2_000))
        peer.read(2_000)
        rig.tick()
        told = len(rig.take_events(EventKind.DRAINED))
        assert rig.hub.queued_bytes(peer.handle) > 10_000
        if told:
            break
    assert told == 1
    assert names(peer) == list(range(number + 1))


def test_drained_when_a_batch_shrinks_by_compression_then_told_after_what_is_left_of_it(rig: Rig) -> None:
    peer = rig.open(buffer_bytes=1, batch=True, deflate=True)
    noise = random.Random(7)
    while not rig.hub.queued_bytes(peer.handle):
        rig.hub.send_message(peer.handle, noise.randbytes(60_000), True)
        rig.flush()
    for number in range(400):
        rig.hub.send(peer.handle, packet(number, 2_000))
    rig.hub.want_drained(peer.handle)
    asked_bytes = rig.hub.queued_bytes(peer.handle)
    rig.tick()
    assert rig.hub.queued_bytes(peer.handle) < asked_bytes // 4
    for _ in range(200):
        rig.hub.send_message(peer.handle, noise.randbytes(2_000), True)
        peer.read(2_000)
        rig.tick()
        assert rig.hub.queued_bytes(peer.handle) > 10_000
        if rig.take_events(EventKind.DRAINED):
            return
    raise AssertionError("held up by what was queued later")
