"""Ranges of addresses beside their twin: what each accepted connection is asked.

Each round is a thousand questions from Python, so a median in microseconds reads as nanoseconds a question,
the loop and the parsing of the text included; the hub asks with 16 bytes.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fastim._core.addresses import AddressRanges
from tests.reference import addresses as reference

QUESTIONS = 1_000
LENGTHS = (8, 16, 24, 32)


@pytest.mark.parametrize("count", [100, 100_000])
@pytest.mark.parametrize("implementation", ["compiled", "reference"])
def test_ranges_asked_for_an_address(benchmark: Any, implementation: str, count: int) -> None:
    if implementation == "reference" and count > 100:
        pytest.skip("the twin looks at each range: minutes")
    ranges = AddressRanges() if implementation == "compiled" else reference.AddressRanges()
    chooser = random.Random(1)

    def address() -> str:
        return ".".join(str(chooser.randrange(256)) for _ in range(4))

    for number in range(count):
        ranges.add(f"{address()}/{LENGTHS[number % 4] if number < 40 else 32}")

    def setup() -> tuple[tuple[list[str]], dict[str, Any]]:
        return ([address() for _ in range(QUESTIONS)],), {}

    def ask(asked: list[str]) -> None:
        for text in asked:
            ranges.covers(text, 1)

    benchmark.pedantic(ask, setup=setup, rounds=50 if implementation == "compiled" else 3)
