"""The hub over its fed driver, where no system call hides the core's own share."""

import json

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastim._core.hub import Hub
from tests.reference import frames as reference

HEAD = b"GET /ws HTTP/1.1\r\nHost: example\r\n\r\n"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
KEY = b"\x0a\xb1\x0c\xd3"
MEMBERS = 1_000
PACKET = json.dumps(["msg", {"text": "x" * 40}]).encode()


def open_members(
    hub: Hub, count: int, *, batch: bool = False, deflate: bool = False
) -> tuple[int, list[int]]:
    topic = hub.create_topic()
    handles = []
    for number in range(count):
        handle = hub.open_fed("192.0.2.1", 1)
        hub.feed(handle, HEAD, 1)
        hub.upgrade(handle, RESPONSE, number, deflate=deflate)
        hub.configure(handle, batch=batch)
        hub.subscribe(topic, handle)
        handles.append(handle)
    hub.poll(1)
    take_all(hub)
    return topic, handles


def take_all(hub: Hub) -> int:
    hub.flush(1)
    return sum(len(hub.take(handle, 1 << 20)) for handle in hub.fed_ready())


@pytest.mark.parametrize("batch", [False, True], ids=["frames", "batches"])
def test_publish_16_to_1000_members(benchmark: BenchmarkFixture, batch: bool) -> None:
    benchmark.group = "publish 16 packets to 1,000 members and take"
    hub = Hub()
    topic, _ = open_members(hub, MEMBERS, batch=batch)

    def publish() -> int:
        for _ in range(16):
            hub.publish(topic, PACKET, None)
        return take_all(hub)

    assert benchmark(publish) >= MEMBERS * 16 * len(PACKET)
    hub.shutdown()


def test_publish_16_to_1000_members_twin(benchmark: BenchmarkFixture) -> None:
    """What it costs to frame and join for each member in Python."""
    benchmark.group = "publish 16 packets to 1,000 members and take"

    def publish() -> int:
        outboxes: list[list[bytes]] = [[] for _ in range(MEMBERS)]
        for _ in range(16):
            frame = reference.encode_frame(reference.TEXT, PACKET)
            for outbox in outboxes:
                outbox.append(frame)
        return sum(len(b"".join(outbox)) for outbox in outboxes)

    assert benchmark(publish) >= MEMBERS * 16 * len(PACKET)


def test_publish_deflated_to_1000_members(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "publish 1 KiB deflated to 1,000 members and take"
    hub = Hub()
    topic, _ = open_members(hub, MEMBERS, deflate=True)
    packet = json.dumps(["msg", {"text": "one word after the other " * 40}]).encode()

    def publish() -> int:
        hub.publish(topic, packet, None)
        return take_all(hub)

    assert benchmark(publish) > MEMBERS * 20
    hub.shutdown()


def test_echo_through_the_hub(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "echo 100 messages of 100 connections"
    hub = Hub()
    _, handles = open_members(hub, 100)
    data = reference.encode_frame(reference.TEXT, PACKET, key=KEY)

    def echo() -> int:
        for handle in handles:
            hub.feed(handle, data, 1)
        for number in [subject for _, subject, _ in hub.poll(1)]:
            assert isinstance(number, int)
            hub.send(handles[number], PACKET)
        return take_all(hub)

    assert benchmark(echo) == 100 * (len(PACKET) + 2)
    hub.shutdown()


def test_connect_and_disconnect(benchmark: BenchmarkFixture) -> None:
    benchmark.group = "open, upgrade and end 100 connections"

    def cycle() -> None:
        hub = Hub()
        _, handles = open_members(hub, 100)
        for handle in handles:
            hub.feed_eof(handle, 1)
        assert hub.connections == 0
        hub.shutdown()

    benchmark(cycle)
