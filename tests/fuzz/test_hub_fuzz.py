"""Anything behind a sound upgrade: the hub never raises and a neighbour never notices.

The seeds are fixed, so a failure comes again; ROUNDS bounds the time to seconds.
"""

import contextlib
import struct
from collections.abc import Callable, Iterator
from itertools import product
from random import Random

import pytest

from fastim._core.hub import EventKind, Lane, Tier
from tests.engines.hub_rig import HEAD, RESPONSE, SECOND_NS, Owner, Peer, Rig, client_frame, deflate
from tests.reference.frames import BINARY, CONTINUATION, PING, TEXT

ROUNDS = 150


@pytest.fixture(params=["epoll", "fed"])
def make_rig(request: pytest.FixtureRequest) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(**options: object) -> Rig:
        rigs.append(Rig(request.param, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.end()


def noise(random: Random) -> bytes:
    return random.randbytes(random.randrange(1, 200))


def nearly_frames(random: Random) -> bytes:
    """Frames of which some are a bit wrong."""
    out = bytearray()
    for _ in range(random.randrange(1, 12)):
        payload = random.choice(
            [b"", b"text", noise(random), deflate(noise(random)), b"\x03\xe8", b"z" * 3_000]
        )
        opcode = random.choice([TEXT, BINARY, CONTINUATION, PING, 10, 8, random.randrange(16)])
        out += client_frame(opcode, payload, random.random() < 0.8, random.choice([0, 0, 0, 4, 4, 7]))
    for _ in range(random.choice([0, 0, 1, 3])):
        out[random.randrange(len(out))] ^= 1 << random.randrange(8)
    return bytes(out)


def long_header(random: Random) -> bytes:
    length = random.choice([1 << 63, (1 << 64) - 1, (1 << 63) - 1, 1 << 32, 102_400, 70_000])
    return bytes([0x80 | random.randrange(3), 0xFF]) + struct.pack("!Q", length) + noise(random)


def send_in_steps(rig: Rig, random: Random, peer: Peer, data: bytes, step: int) -> None:
    for i in range(0, len(data), step):
        peer.send(data[i : i + step])
        if random.random() < 0.3:
            rig.tick(random.choice([0, SECOND_NS // 50]))


def meddle(rig: Rig, random: Random, peer: Peer, topic: int) -> None:
    """Something the service might do just then."""
    hub = rig.hub
    latest = [other.handle for other in rig.peers[1:][-4:]]
    random.choice(
        [
            lambda: hub.pause(peer.handle),
            lambda: hub.resume(peer.handle),
            lambda: hub.send(peer.handle, b'["to the noisy one"]', random.randrange(3)),
            lambda: hub.send(peer.handle, b'["a state"]', Lane.LOW, random.randrange(1, 4)),
            lambda: hub.send_many(latest, b'["to some"]', b"\x91\xa1x", random.randrange(3)),
            lambda: hub.publish(topic, b'["to all"]', b"\x91\xa1x", peer.handle),
            lambda: hub.publish(topic, b'["a state"]', b"\x91\xa1x", 0, Lane.LOW, 7),
            lambda: hub.configure(peer.handle, batch=random.random() < 0.5),
            lambda: hub.configure(peer.handle, tier=random.randrange(3)),
            lambda: hub.authenticated(peer.handle) and hub.charge(peer.handle, random.randrange(300)),
            lambda: hub.admit(peer.handle, random.randrange(3)),
            lambda: hub.set_heartbeat(peer.handle, random.randrange(20_000), rig.now_ns),
            lambda: hub.flush(rig.now_ns, SECOND_NS // 1_000, SECOND_NS // 100),
            lambda: hub.set_timer(peer.handle, rig.now_ns + random.randrange(SECOND_NS)),
            lambda: hub.want_drained(peer.handle),
            lambda: hub.close(peer.handle, 1001, "enough", rig.now_ns),
            lambda: hub.abort(peer.handle),
            lambda: peer.read(random.randrange(1, 500)),
        ]
    )()


def check_served(rig: Rig, neighbour: Peer, number: int) -> None:
    """A neighbour is heard, and hears, as if nobody else were there."""
    neighbour.send(client_frame(TEXT, b"%d" % number))
    rig.hub.send(neighbour.handle, b'["%d"]' % number)
    assert [frame.payload for frame in neighbour.frames()] == [b'["%d"]' % number]
    heard = [data for subject, data in rig.take_events(EventKind.TEXT) if subject is neighbour.owner]
    assert heard == [b"%d" % number]


def end_all_but(rig: Rig, neighbour: Peer) -> None:
    for peer in rig.peers:
        if peer is not neighbour:
            rig.hub.abort(peer.handle)
            peer.close()
    rig.rest()
    assert rig.hub.connections == 1


@pytest.mark.parametrize("source", [noise, nearly_frames, long_header])
@pytest.mark.parametrize("seed", range(3))
def test_bytes_behind_an_upgrade_harm_nobody(
    make_rig: Callable[..., Rig], source: Callable[[Random], bytes], seed: int
) -> None:
    random = Random(seed)
    rig = make_rig(message_budget=5, tick_messages=16, max_fragments=8, outbox_bytes=20_000)
    for tier in Tier:
        rig.hub.set_packet_rate(tier, 20)
    neighbour = rig.open("neighbour")
    topic = rig.hub.create_topic()
    kinds = list(product([0, 1], [False, True]))
    for number in range(ROUNDS):
        encoding, packed = random.choice(kinds)
        peer = rig.open("noisy", 1, encoding=encoding, deflate=packed)
        rig.hub.subscribe(topic, peer.handle)
        if random.random() < 0.5:  # from then on its rate holds
            rig.hub.authenticated(peer.handle)
        for _ in range(random.randrange(1, 6)):
            data = source(random)
            step = random.choice([1, 7, 1_000]) if len(data) < 1_000 else 1_000
            with contextlib.suppress(TimeoutError):  # paused below
                send_in_steps(rig, random, peer, data, step)
            if random.random() < 0.3:
                meddle(rig, random, peer, topic)
        rig.tick()
        if random.random() < 0.7:
            peer.close()
        check_served(rig, neighbour, number)
    end_all_but(rig, neighbour)
    assert rig.hub.stats()["slices"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_bytes_instead_of_a_head_harm_nobody(make_rig: Callable[..., Rig], seed: int) -> None:
    random = Random(seed)
    rig = make_rig(head_bytes=300)
    for _ in range(ROUNDS):
        peer = rig.connect()
        for _ in range(random.randrange(1, 5)):
            peer.send(random.choice([noise(random), HEAD, HEAD[: random.randrange(len(HEAD))], b"\r\n" * 9]))
            if random.random() < 0.5:
                rig.tick()
        rig.poll()
        for handle, _ in rig.take_events(EventKind.HEAD):
            random.choice(
                [
                    lambda handle: rig.hub.upgrade(handle, RESPONSE, Owner()),
                    lambda handle: rig.hub.respond(handle, RESPONSE, rig.now_ns),
                    rig.hub.abort,
                    lambda handle: None,
                ]
            )(handle)
        peer.close()
    rig.tick(6 * SECOND_NS)
    rig.tick(6 * SECOND_NS)
    for peer in rig.peers:
        rig.hub.abort(peer.handle)
        peer.close()
    rig.rest()
    assert rig.hub.connections == 0


def requests(random: Random) -> bytes:
    """Requests of which some are a bit wrong, or cut off."""
    out = b""
    for _ in range(random.randrange(1, 6)):
        body = b"z" * random.choice([0, 0, 5, 3_000])
        out += b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return out if random.random() < 0.6 else out[: random.randrange(len(out))] + noise(random)


def serve(rig: Rig, random: Random, handle: int) -> None:
    """Something that may be done about a request, or what is done too late, or twice."""
    hub, owner = rig.hub, Owner()
    deadline_ns = random.choice([0, rig.now_ns + SECOND_NS // 50])
    size = random.choice([0, 5, 5, 3_000])
    expected = random.random() < 0.3
    random.choice(
        [
            lambda: hub.read_body(handle, size, owner, deadline_ns, expected=expected),
            lambda: hub.read_body(handle, size, owner, deadline_ns, expected=expected),
            lambda: hub.hold(handle, owner),
            lambda: hub.reply(handle, RESPONSE, True, rig.now_ns),
            lambda: hub.reply(handle, RESPONSE * 3_000, True, rig.now_ns),
            lambda: hub.reply(handle, RESPONSE, False, rig.now_ns),
            lambda: hub.upgrade(handle, RESPONSE, owner),
            lambda: hub.respond(handle, RESPONSE, rig.now_ns),
            lambda: hub.authenticated(handle),
            lambda: hub.abort(handle),
            lambda: hub.close(handle, 1001, "", rig.now_ns),
            lambda: hub.send(handle, b'["packet"]'),
            lambda: hub.set_peer(handle, "192.0.2.9"),
            lambda: hub.pause(handle) or hub.resume(handle),
            lambda: random.random() < 0.1 and hub.make_room(),
            lambda: random.random() < 0.1 and hub.close_kept(),
        ]
    )()


@pytest.mark.parametrize("seed", range(4))
def test_requests_harm_nobody(make_rig: Callable[..., Rig], seed: int) -> None:
    random = Random(seed)
    rig = make_rig(close_timeout_ns=SECOND_NS, idle_timeout_ns=SECOND_NS)
    neighbour = rig.open("neighbour")
    for number in range(ROUNDS):
        peer = rig.connect(1)
        for _ in range(random.randrange(1, 6)):
            with contextlib.suppress(TimeoutError):
                send_in_steps(rig, random, peer, requests(random), random.choice([7, 1_000]))
            for _ in range(random.randrange(8)):
                serve(rig, random, random.choice([peer, *rig.peers[1:][-3:]]).handle)
                rig.tick(random.choice([0, 0, SECOND_NS // 40]))
                if random.random() < 0.5:
                    peer.read(random.choice([100, 1 << 20]))
        if random.random() < 0.7:
            peer.close()
        check_served(rig, neighbour, number)
    end_all_but(rig, neighbour)
    assert rig.hub.stats()["pending"] == 1
    assert rig.hub.stats()["pool_bytes_used"] == 0
