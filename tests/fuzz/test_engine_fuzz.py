"""Transports of Engine.IO under noise, with a service that does anything: only they are harmed."""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from fastim._core.hub import Encoding, EventKind, Lane, Tier
from tests.engines.engine_rig import WAYS, EngineRig, Transport
from tests.engines.hub_rig import SECOND_NS, Owner, client_frame
from tests.reference.frames import BINARY, CLOSE, TEXT, close_payload

ROUNDS = 100
CODES = (4003, 4002, 1000, 1005)


def noise(random: Random) -> bytes:
    """Bytes, frames and broken frames of a client."""
    return b"".join(
        random.choice(
            [
                lambda: client_frame(
                    TEXT, random.choice([b"3", b"40", b"", b"2probe", b'42["e",1]', b"\xff"])
                ),
                lambda: client_frame(BINARY, random.randbytes(random.randrange(200))),
                lambda: client_frame(TEXT, random.randbytes(3)),
                lambda: client_frame(CLOSE, close_payload(1000)),
                lambda: random.randbytes(random.randrange(20)),
            ]
        )()
        for _ in range(random.randrange(1, 8))
    )


class Service:
    """Opens channels and does to them whatever comes to its mind."""

    def __init__(self, rig: EngineRig, random: Random) -> None:
        self.rig = rig
        self.random = random
        self.topics = [rig.hub.create_topic() for _ in range(3)]
        self.handles: list[int] = []  # stale ones stay
        self.dropped: set[Owner] = set()
        self.owners: dict[int, Owner] = {}

    def open(self, transport: Transport) -> None:
        name = self.random.choice(["/", "/chat", f"/{self.random.randrange(40)}"])
        owner = Owner(name)
        encoding = self.random.choice(list(Encoding))
        handle = self.rig.hub.open_channel(transport.handle, name.encode(), owner, encoding=encoding)
        if handle:
            owner.handle = handle
            self.owners[handle] = owner
            self.handles.append(handle)

    def drop(self, handle: int) -> None:
        if self.rig.hub.drop_channel(handle):
            self.dropped.add(self.owners.pop(handle))

    def meddle(self, transport: Transport) -> None:
        hub, random, now_ns = self.rig.hub, self.random, self.rig.now_ns
        handle = random.choice([transport.handle, *self.handles[-12:]])
        topic = random.choice(self.topics)
        text = b"x" * random.choice([1, 300, 5_000])
        json, msgpack = b'["e","%s"]' % text, b"\x92\xa1e\xc5" + len(text).to_bytes(2, "big") + text
        attempts: list[Callable[[], Any]] = [
            lambda: self.open(transport),
            lambda: self.drop(handle),
            lambda: hub.subscribe(topic, handle),
            lambda: hub.unsubscribe(topic, handle),
            lambda: hub.publish(topic, json, msgpack, handle, random.choice([Lane.NORMAL, Lane.LOW])),
            lambda: hub.publish(topic, json, msgpack, 0, Lane.LOW, random.randrange(1, 4), offset=b"o"),
            lambda: hub.send_many(self.handles[-9:], json, msgpack, random.randrange(3)),
            lambda: hub.send_rendered(handle, b'452-["e"]', [b"1", bytes(random.randrange(2_000))]),
            lambda: hub.send_engine(transport.handle, json, random.random() < 0.5, random.randrange(3)),
            lambda: hub.close(handle, random.choice(CODES), "enough", now_ns),
            lambda: hub.abort(handle),
            lambda: hub.pause(handle),
            lambda: hub.resume(handle),
            lambda: hub.want_drained(handle),
            lambda: hub.configure(
                handle, tier=random.randrange(3), outbox_bytes=random.choice([9_000, 50_000])
            ),
            lambda: hub.authenticated(handle),
            lambda: hub.admit(handle, random.choice(list(Tier))),
            lambda: hub.touch(handle),
            lambda: hub.set_timer(handle, now_ns + random.randrange(SECOND_NS)),
            lambda: hub.set_heartbeat(transport.handle, random.randrange(2_000), now_ns),
            lambda: hub.receive_polled(
                transport.handle, random.randrange(9), 99, random.random() < 0.5, now_ns
            ),
            lambda: hub.flush(now_ns, SECOND_NS // 1_000, SECOND_NS // 100),
            lambda: self.rig.tick(random.choice([0, SECOND_NS // 50, SECOND_NS])),
        ]
        random.choice(attempts)()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("way", WAYS)
def test_noise_and_a_wild_service_harm_nobody_else(way: str, seed: int) -> None:
    random = Random(seed)
    rig = EngineRig(way, message_budget=5, tick_messages=16, outbox_bytes=20_000, pending_frames=60)
    rig.hub.set_engine_heartbeat_rules(2_000, 1_000, 500)
    for tier in Tier:
        rig.hub.set_packet_rate(tier, 50)
    neighbour = rig.transport("neighbour")
    rig.hub.authenticated(neighbour.handle)
    home = neighbour.channel("/home")
    service = Service(rig, random)
    transports = [rig.transport(f"noisy {number}") for number in range(ROUNDS)]
    for number, transport in enumerate(transports):
        for _ in range(random.randrange(4)):
            service.open(transport)
        for _ in range(random.randrange(1, 40)):
            if transport.peer is not None and random.random() < 0.3:
                transport.peer.send(noise(random))
            service.meddle(transport)
            if random.random() < 0.1:
                transport.messages()
        rig.hub.send(home.handle, b'["n",%d]' % number)
        assert neighbour.messages() == [f'42/home,["n",{number}]']
    for transport in transports:
        rig.hub.abort(transport.handle)
        if transport.peer is not None:
            transport.peer.close()
        else:
            rig.hub.take_finished(transport.handle)
    rig.rest()
    rig.hub.fed_ready()
    stats = rig.hub.stats()
    assert (rig.hub.connections, stats["channels"], stats["slices"], stats["pending"]) == (1, 1, 0, 0)
    for topic in service.topics:
        assert rig.hub.topic_handles(topic) == []
    ended = Counter(owner for owner, _ in rig.take_events(EventKind.CLOSED))
    expected = {*service.owners.values(), *(transport.owner for transport in transports)}
    assert ended == dict.fromkeys(expected, 1)
    assert not service.dropped & set(ended)
    rig.end()
