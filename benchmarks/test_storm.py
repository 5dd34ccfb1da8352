"""What the limits of messages cost each message.

Each round is a thousand messages: a median in microseconds reads as nanoseconds a message, the loop included.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from fastim.errors import LimitExceeded
from fastim.im.options import StormOptions
from fastim.im.storm import StormControl
from fastim.store.base import Append

MESSAGES = 1_000
NS_PER_S = 1_000_000_000
DEFAULT = {"user_per_minute": 120, "user_bytes_per_s": 65_536, "conversation_per_s": 50}
OPTIONS: dict[str, dict[str, int]] = {
    "default": DEFAULT,
    "with_server": {**DEFAULT, "server_per_s": 10_000_000, "server_burst": 100_000},
}


class Clock:
    def __init__(self) -> None:
        self.now_ns = NS_PER_S

    def __call__(self) -> int:
        return self.now_ns


def make(clock: Clock, options: dict[str, int], submit: Callable[[Append], Any]) -> StormControl:
    return StormControl(StormOptions(**options), submit, lambda *_: None, lambda: False, clock)


def messages() -> list[tuple[Append, str, str]]:
    chooser = random.Random(1)
    return [
        (Append(1, 1, "u", "d", "text", b"x" * 64, 0, 1), f"user-{n}", f"room-{chooser.randrange(200)}")
        for n in range(MESSAGES)
    ]


@pytest.mark.parametrize("options", OPTIONS)
def test_message_that_need_not_wait(benchmark: Any, options: str) -> None:
    clock = Clock()
    storm = make(clock, OPTIONS[options], lambda append: None)
    batch = messages()

    def run() -> None:
        clock.now_ns += 60 * NS_PER_S  # all buckets are full again
        admits = storm.admits
        for append, user, room in batch:
            admits(append, user, "standard", room)

    benchmark(run)
    assert storm.stats()["waited_total"] == 0


def test_message_that_need_not_wait_while_others_do(benchmark: Any) -> None:
    clock = Clock()
    storm = make(clock, {**DEFAULT, "wait_ms": 60_000, "user_per_minute": 100_000}, lambda append: None)
    batch = messages()
    for append, _, _ in batch[:400]:
        storm.admits(append, "flooder", "standard", "its own room")

    def run() -> None:
        clock.now_ns += 1_000
        admits = storm.admits
        for append, user, _ in batch:
            admits(append, user, "standard", user)

    benchmark.pedantic(run, rounds=10)
    assert storm.waiting_count == 200


def test_message_that_waits(benchmark: Any) -> None:
    clock = Clock()
    done: list[Append] = []
    storm = make(clock, {"server_per_s": 1_000, "server_burst": 1_000}, done.append)
    batch = messages()

    def setup() -> None:
        clock.now_ns += 60 * NS_PER_S
        for append, user, room in messages():  # use the burst up
            storm.admits(append, user, "standard", room)
        done.clear()

    def run() -> None:
        for append, user, room in batch:
            storm.admits(append, user, "standard", room)
        clock.now_ns += NS_PER_S
        storm.serve(clock.now_ns)

    benchmark.pedantic(run, setup=setup, rounds=50)
    assert len(done) == MESSAGES


def test_message_that_is_refused(benchmark: Any) -> None:
    storm = make(Clock(), {"user_per_minute": 1}, lambda append: None)
    append = Append(1, 1, "u", "d", "text", b"x" * 64, 0, 1)
    storm.admits(append, "u", "standard", "c")

    def run() -> None:
        for _ in range(MESSAGES):
            try:
                storm.admits(append, "u", "standard", "c")
            except LimitExceeded:
                continue

    benchmark(run)
    assert storm.stats()["waiting"] == 0
