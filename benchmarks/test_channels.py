"""Channels of Engine.IO beside native connections, over the fed driver: what rendering adds to a packet."""

import json
from itertools import cycle

import msgpack
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.test_hub import HEAD, KEY, MEMBERS, PACKET, RESPONSE, open_members, take_all
from fastim._core.hub import Encoding, Hub
from tests.reference import frames
from tests.reference.rendering import encode_text, from_native

PACKED = msgpack.packb(json.loads(PACKET))
NAMESPACES = {"one": ("/",), "four": ("/", "/a", "/b", "/c")}


def open_channels(
    hub: Hub, count: int, namespaces: tuple[str, ...] = ("/",), encoding: int = Encoding.JSON
) -> tuple[int, list[int]]:
    """A topic of so many channels, each of a transport of its own."""
    topic = hub.create_topic()
    handles = []
    for number, namespace in zip(range(count), cycle(namespaces), strict=False):
        transport = hub.open_fed("192.0.2.1", 1)
        hub.feed(transport, HEAD, 1)
        hub.upgrade(transport, RESPONSE, number, engine=True)
        handles.append(hub.open_channel(transport, namespace.encode(), number, encoding=encoding))
        hub.subscribe(topic, handles[-1])
    hub.poll(1)
    take_all(hub)
    return topic, handles


@pytest.mark.parametrize("namespaces", NAMESPACES)
@pytest.mark.parametrize("encoding", list(Encoding), ids=["json", "msgpack"])
def test_publish_16_to_1000_channels(benchmark: BenchmarkFixture, namespaces: str, encoding: int) -> None:
    benchmark.group = "publish 16 packets to 1,000 channels and take"
    hub = Hub()
    topic, _ = open_channels(hub, MEMBERS, NAMESPACES[namespaces], encoding)

    def publish() -> int:
        for _ in range(16):
            hub.publish(topic, PACKET, PACKED)
        return take_all(hub)

    assert benchmark(publish) >= MEMBERS * 16 * len(PACKED)
    hub.shutdown()


def test_publish_16_to_1000_channels_native(benchmark: BenchmarkFixture) -> None:
    """The same to native connections."""
    benchmark.group = "publish 16 packets to 1,000 channels and take"
    hub = Hub()
    topic, _ = open_members(hub, MEMBERS)

    def publish() -> int:
        for _ in range(16):
            hub.publish(topic, PACKET, PACKED)
        return take_all(hub)

    assert benchmark(publish) >= MEMBERS * 16 * len(PACKET)
    hub.shutdown()


def test_publish_16_to_1000_channels_twin(benchmark: BenchmarkFixture) -> None:
    """What it costs to render and frame for each member in Python."""
    benchmark.group = "publish 16 packets to 1,000 channels and take"

    def publish() -> int:
        sent = 0
        for _ in range(16):
            native = json.loads(PACKET)
            for _ in range(MEMBERS):
                message = encode_text(from_native(native, "/")).encode()
                sent += len(frames.encode_frame(frames.TEXT, message))
        return sent

    assert benchmark.pedantic(publish, rounds=3) >= MEMBERS * 16 * len(PACKET)


@pytest.mark.parametrize("kind", ["native", "json", "msgpack"])
def test_send_100_answers(benchmark: BenchmarkFixture, kind: str) -> None:
    benchmark.group = "send 100 answers to 100 connections, and take"
    hub = Hub()
    packed = kind == "msgpack"
    answer = (
        msgpack.packb(["ok", {"id": "x" * 20}, 77]) if packed else b'["ok",{"id":"xxxxxxxxxxxxxxxxxxxx"},77]'
    )
    if kind == "native":
        _, handles = open_members(hub, 100)
    else:
        _, handles = open_channels(hub, 100, encoding=Encoding.MSGPACK if packed else Encoding.JSON)

    def send() -> int:
        for handle in handles:
            hub.send(handle, answer)
        return take_all(hub)

    assert benchmark(send) >= 100 * 20
    hub.shutdown()


@pytest.mark.parametrize("kind", ["native", "channels"])
def test_publish_to_one(benchmark: BenchmarkFixture, kind: str) -> None:
    benchmark.group = "publish to 100 topics of one member, and take"
    hub = Hub()
    topics = [(open_members if kind == "native" else open_channels)(hub, 1)[0] for _ in range(100)]

    def publish() -> int:
        for topic in topics:
            hub.publish(topic, PACKET, None)
        return take_all(hub)

    assert benchmark(publish) >= 100 * len(PACKET)
    hub.shutdown()


def test_receive_1000_messages(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "receive 1,000 messages of 100 transports"
    hub = Hub(message_budget=1_000, tick_messages=10_000)
    _, handles = open_channels(hub, 100)
    data = frames.encode_frame(frames.TEXT, b"42" + PACKET, key=KEY) * 10
    transports = [handle - 1 for handle in handles]  # each channel lies behind its transport

    def receive() -> int:
        for transport in transports:
            hub.feed(transport, data, 1)
        return len(hub.poll(1))

    assert benchmark(receive) == 1_000
    hub.shutdown()


def test_poll_and_post_100_sessions(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "100 polling sessions: count a POST, answer, take the payload"
    hub = Hub()
    transports = [hub.open_polling("192.0.2.1", number, 1) for number in range(100)]
    channels = [hub.open_channel(transport, b"/", 0) for transport in transports]

    def turn() -> int:
        for transport, channel in zip(transports, channels, strict=True):
            hub.receive_polled(transport, 1, 60, False, 1)
            hub.send(channel, PACKET)
        hub.flush(1)
        return sum(len(hub.take_payload(handle)) for handle in hub.fed_ready())

    assert benchmark(turn) == 100 * (len(PACKET) + 2)
    hub.shutdown()
