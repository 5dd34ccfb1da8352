"""Who has been idle the longest of 150,000: beside the twin, ordered dictionaries, and in a hub."""

import random
from typing import Any

import pytest

from fastim._core.hub import Hub
from fastim._core.idle import IdleLists
from tests.reference import frames
from tests.reference import idle_lists as reference

CONNECTIONS = 150_000
OPERATIONS = 1_000
IMPLEMENTATIONS: dict[str, Any] = {"compiled": IdleLists, "reference": reference.IdleLists}
PEERS = 1_000


def loaded_lists(implementation: str) -> Any:
    lists = IMPLEMENTATIONS[implementation]()
    for key in range(CONNECTIONS):
        lists.add(key, key % 3)
    return lists


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_idle_lists_touch(benchmark: Any, implementation: str) -> None:
    """A round is 1,000 messages of connections picked at random: the median in µs is ns a message."""
    lists = loaded_lists(implementation)
    chooser = random.Random(1)

    def setup() -> tuple[tuple[list[int]], dict[str, Any]]:
        return (chooser.sample(range(CONNECTIONS), OPERATIONS),), {}

    def touch(keys: list[int]) -> None:
        for key in keys:
            lists.touch(key)

    benchmark.pedantic(touch, setup=setup, rounds=200, warmup_rounds=5)
    benchmark.extra_info["bytes_a_key"] = round(lists.__sizeof__() / CONNECTIONS, 1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_idle_lists_give_way(benchmark: Any, implementation: str) -> None:
    """A round is 1,000 newcomers, for each of whom the idlest of the lowest tier goes: ns an eviction."""
    lists = loaded_lists(implementation)

    def evict() -> None:
        for _ in range(OPERATIONS):
            victim = lists.idlest(2)
            lists.remove(victim)
            lists.add(victim, 2)

    benchmark.pedantic(evict, rounds=200, warmup_rounds=5)


@pytest.mark.parametrize("admitted", [False, True], ids=["not listed", "listed"])
def test_idle_lists_in_a_hub(benchmark: Any, admitted: bool) -> None:
    """A round is a message of each of 1,000 fed connections: the median in µs is ns a message."""
    hub = Hub()
    handles = []
    for _ in range(PEERS):
        handle = hub.open_fed("192.0.2.1", 1)
        hub.feed(handle, b"GET / HTTP/1.1\r\n\r\n", 1)
        hub.poll(1)
        assert hub.upgrade(handle, b"HTTP/1.1 101\r\n\r\n", object())
        hub.take(handle, 1 << 16)
        if admitted:
            hub.admit(handle, 1)
        handles.append(handle)
    frame = frames.encode_frame(frames.TEXT, b'["typing",{}]', True, 0, b"\x0a\xb1\x0c\xd3")

    def speak() -> None:
        for handle in handles:
            hub.feed(handle, frame, 2)
        left = PEERS
        while left:
            left -= len(hub.poll(2))

    benchmark.pedantic(speak, rounds=200, warmup_rounds=5)
    hub.shutdown()
