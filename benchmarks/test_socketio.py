"""Socket.IO's packets, beside their readable twin and general decoders.

``pytest benchmarks/test_socketio.py --benchmark-enable``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fastim.wire.native import Encoding
from fastim.wire.socketio import encode_ack, encode_event, read_map, read_text
from tests.reference import socketio as twin

BODY = {"text": "hello, this is a message", "n": 123456, "list": [1, 2, 3.5], "b": True}
TEXT = encode_event("echo", (BODY,), Encoding.JSON, 12345)[0][1:]
MAP = encode_event("echo", (BODY,), Encoding.MSGPACK, 12345)[0] + b"\xa3nsp\xa1/"

Bench = Callable[..., Any]


def test_echo_when_read_and_acknowledged(benchmark: Bench) -> None:
    """All that the wire does for an event and its acknowledgement."""

    def echo() -> Any:
        _, _, ref, _, arguments = read_text(TEXT, 10)
        return encode_ack(ref or 0, arguments, Encoding.JSON)

    benchmark(echo)


def test_echo_when_done_by_a_general_decoder(benchmark: Bench) -> None:
    """The array alone, without the head, the depth and the attachments."""
    array = TEXT[TEXT.index(b"[") :]
    benchmark(lambda: msgspec.json.encode(msgspec.json.decode(array)[1:]))


@pytest.mark.parametrize("who", ["core", "twin"])
def test_read_text(benchmark: Bench, who: str) -> None:
    benchmark(read_text if who == "core" else twin.read_text, TEXT, 10)


@pytest.mark.parametrize("who", ["core", "twin"])
def test_read_map(benchmark: Bench, who: str) -> None:
    benchmark(read_map if who == "core" else twin.read_map, MAP)


@pytest.mark.parametrize("who", ["core", "twin"])
def test_write_text(benchmark: Bench, who: str) -> None:
    if who == "core":
        benchmark(encode_event, "echo", (BODY,), Encoding.JSON, 12345)
    else:
        benchmark(twin.write_text, 2, ["echo", BODY], 12345)
