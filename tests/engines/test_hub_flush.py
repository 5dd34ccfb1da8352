"""When a flush writes what, and the memory it takes: windows, budgets, pools."""

import json
from collections.abc import Callable

import pytest

from fastim._core.hub import Hub, Lane, Tier
from tests.engines.hub_rig import Peer, Rig, client_frame
from tests.reference.frames import TEXT

MakeRig = Callable[..., Rig]
MS = 1_000_000


def packet(number: int, size: int = 0) -> bytes:
    return json.dumps(["m", number, "x" * size]).encode()


told: set[int] = set()


def received(peers: list[Peer]) -> list[bool]:
    """Who was written to since the last call; of the fed driver, for whom there is something to take."""
    for peer in peers:
        peer.data = b""
        if peer.rig.driver == "epoll" or peer.handle in told:
            peer.read()
    told.clear()
    return [bool(peer.data) for peer in peers]


def open_tiers(rig: Rig) -> list[Peer]:
    peers = [rig.open() for _ in Tier]
    for peer, tier in zip(peers, Tier, strict=True):
        rig.hub.configure(peer.handle, tier=tier)
    return peers


def flush(rig: Rig, window_ms: int, after_ms: int = 0, factor: int = 4) -> int:
    rig.now_ns += after_ms * MS
    rest_ns = rig.hub.flush(rig.now_ns, window_ms * MS, factor * window_ms * MS)
    told.update(rig.hub.fed_ready())
    return rest_ns


# -- windows


def test_flush_when_a_window_is_open_then_waits_and_says_how_long(rig: Rig) -> None:
    peers = open_tiers(rig)
    assert flush(rig, 10) == -1
    for peer in peers:
        rig.hub.send(peer.handle, packet(1))
    assert flush(rig, 10) == 10 * MS
    assert received(peers) == [False, False, False]
    rig.hub.send(peers[0].handle, packet(2))
    assert flush(rig, 10, after_ms=9) == 1 * MS
    assert flush(rig, 10, after_ms=1) == 30 * MS
    assert received(peers) == [True, True, False]
    assert flush(rig, 10, after_ms=29) == 1 * MS
    assert flush(rig, 10, after_ms=1) == -1
    assert received(peers) == [False, False, True]


def test_flush_when_the_window_shuts_then_everything_goes(rig: Rig) -> None:
    peers = open_tiers(rig)
    for peer in peers:
        rig.hub.send(peer.handle, packet(1))
    assert flush(rig, 50) == 50 * MS
    assert flush(rig, 0) == -1
    assert received(peers) == [True, True, True]


def test_flush_when_something_is_urgent_then_its_connection_alone_does_not_wait(make_rig: MakeRig) -> None:
    rig = make_rig(max_packets=5)
    peers = [rig.open() for _ in range(6)]
    error, closing, ping, full, message, state = peers
    for peer in peers:
        rig.hub.send(peer.handle, packet(0))
    assert flush(rig, 10) == 10 * MS
    rig.hub.send(error.handle, packet(1), Lane.HIGH)
    rig.hub.close(closing.handle, 4005, "kicked", rig.now_ns)
    rig.hub.ping(ping.handle)
    for number in range(4):
        rig.hub.send(full.handle, packet(number))
        if number < 3:
            rig.hub.send(message.handle, packet(number))
    rig.hub.send(state.handle, packet(1), Lane.LOW, 7)
    assert flush(rig, 10) == 10 * MS
    assert received(peers) == [True, True, True, True, False, False]
    assert flush(rig, 10, after_ms=10) == -1
    assert received(peers) == [False, False, False, False, True, True]


def test_flush_when_peers_shake_hands_then_no_window_holds_them_up(rig: Rig) -> None:
    peer = rig.decide()
    rig.hub.upgrade(peer.handle, b"HTTP/1.1 101 x\r\n\r\n", object())
    assert flush(rig, 50) == -1
    assert received([peer]) == [True]


# -- a budget of connections


def test_flush_when_more_wait_than_it_writes_then_the_tiers_share_by_weight_and_none_starves(
    make_rig: MakeRig,
) -> None:
    rig = make_rig(flush_rows=160, tier_weights=(6, 3, 1))
    peers = [rig.open() for _ in range(300)]
    for i, peer in enumerate(peers):
        rig.hub.configure(peer.handle, tier=i % 3)
        rig.hub.send(peer.handle, packet(1))
    rig.hub.send(peers[2].handle, packet(2), Lane.HIGH)
    counts = []
    while True:
        rest_ns = flush(rig, 0)
        got = received(peers)
        counts.append([sum(got[tier::3]) for tier in range(3)])
        if rest_ns < 0:
            break
        assert rest_ns == 0
    # 16 a unit of weight; the urgent one goes first, critical is done before its share is up.
    assert counts == [[96, 48, 15], [4, 52, 85]]


def test_flush_when_rows_are_dirty_again_then_the_queue_does_not_grow(make_rig: MakeRig) -> None:
    rig = make_rig(flush_rows=1)
    peers = [rig.open() for _ in range(3)]
    for number in range(3_000):
        for peer in peers:
            rig.hub.send(peer.handle, packet(number))
        assert flush(rig, 0) == 0
    while flush(rig, 0) == 0:
        pass
    for peer in peers:
        assert [found[1] for found in peer.packets()] == list(range(3_000))


# -- pools


def steady(rig: Rig, peers: list[Peer], topic: int, rounds: int) -> None:
    for number in range(rounds):
        for _ in range(4):
            rig.hub.publish(topic, packet(number, 50), None)
        for peer in peers[::3]:
            peer.send(client_frame(TEXT, b"question"))
            peer.send(client_frame(TEXT, b"cut off by the end of a read")[:9])
            peer.send(client_frame(TEXT, b"cut off by the end of a read")[9:])
            rig.hub.send(peer.handle, packet(number))
        rig.tick()
        for peer in peers:
            peer.read()
            peer.data = b""


@pytest.mark.parametrize("batch", [False, True])
def test_memory_when_the_load_is_steady_then_nothing_is_allocated(rig: Rig, batch: bool) -> None:
    peers = [rig.open(batch=batch) for _ in range(60)]
    topic = rig.hub.create_topic()
    for peer in peers:
        rig.hub.subscribe(topic, peer.handle)
    steady(rig, peers, topic, 3)
    before = rig.hub.stats()["allocations_total"]
    steady(rig, peers, topic, 40)
    assert rig.hub.stats()["allocations_total"] == before
    assert rig.hub.pools_clean()


def test_memory_when_a_peak_is_over_then_given_back(make_rig: MakeRig) -> None:
    rig = make_rig(outbox_bytes=2_000_000)
    peers = [rig.open(buffer_bytes=1) for _ in range(40)]
    for number in range(60):
        for peer in peers:
            rig.hub.send(peer.handle, packet(number, 20_000 if number < 30 else 500))
            rig.hub.send(peer.handle, packet(number, 500), Lane.LOW, number + 1)
            if number == 0:
                peer.send(client_frame(TEXT, b"x" * 3_000)[:1_000])
        rig.tick()
    peak = rig.hub.stats()
    assert peak["slices"] > 1_000
    assert peak["private_chunks"] > 100
    assert peak["pool_bytes"] >= peak["pool_bytes_used"] > 1_000_000
    for peer in peers:
        peer.close()
    rig.rest()
    stats = rig.hub.stats()
    assert [stats[name] for name in ("slices", "private_chunks", "inbound_states", "pool_bytes_used")] == [
        0
    ] * 4
    assert stats["pool_bytes"] < 4 << 20  # a block of each size at most
    assert stats["slices_free"] < 2_000
    assert stats["chunk_bytes"] < 66 * 66_000
    assert stats["chunks_free"] <= stats["chunks"]
    assert rig.hub.pools_clean()


def test_memory_when_used_again_then_nobody_finds_what_another_left(rig: Rig) -> None:
    """A pool that hands an object on without reset: the next user sees the last one's data."""
    for turn in range(20):
        first, second = rig.open(batch=True), rig.open()
        first.send(client_frame(TEXT, b"secret " * 300)[:900])
        rig.hub.send(first.handle, packet(turn, 3_000))
        rig.hub.send(first.handle, packet(turn, 300), Lane.LOW, 5)
        rig.tick()
        first.close()
        rig.rest()
        assert rig.hub.pools_clean()
        second.send(client_frame(TEXT, b"mine " * 300)[:700])
        second.send(client_frame(TEXT, b"mine " * 300)[700:])
        rig.hub.send(second.handle, packet(turn))
        assert [found[1] for found in second.packets()] == [turn]
        assert rig.take_events()[-1][1] == b"mine " * 300
        second.close()
        rig.rest()


def test_hub_when_made_with_options_out_of_range_then_refused() -> None:
    for options in (
        {"max_packets": 0},
        {"max_packets": 1_001},
        {"low_percent": 51},
        {"tier_weights": (1, 2)},
        {"tier_weights": (0, 1, 1)},
    ):
        with pytest.raises(ValueError, match=next(iter(options))):
            Hub(**options)  # type: ignore[arg-type]
