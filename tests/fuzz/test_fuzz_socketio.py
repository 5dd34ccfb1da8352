"""Hostile packets of Socket.IO: whatever the bytes, they are read, or refused with ValueError."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from fastim.wire.native import Encoding
from fastim.wire.socketio import Assembly, encode_ack, encode_event, native_body, read_map, read_text
from tests.fuzz.test_fuzz_wire import PIECES, ROUNDS, mutated

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
MAX_ATTACHMENTS = 4

TEXTS = [
    b"0",
    b"0/chat,",
    b'0/chat,{"token":"abc","resume":{"session":"s","seen":{"c":1}}}',
    b"1/chat",
    '217["echo","h\u00e9llo \U0001f600",{"n":-1.5e-7,"b":[true,null]}]'.encode(),
    b'2/a b,9007199254740990["message",{"conversation":"c","content":{"$k":[1,2,3]}}]',
    b'31["ok",123456789012345678901]',
    b'52-/chat,7["x",{"_placeholder":true,"num":1},{"a":[{"_placeholder":true,"num":0}]}]',
    b'61-0[{"num":0,"_placeholder":true},{"_placeholder":false,"num":0}]',
]
MAPS: list[bytes] = [
    encode_event("echo", ("h\u00e9llo", {"n": -1.5e-7, "b": [True, None, b"\x00\xff"]}), MSGPACK, 7)[0],
    encode_ack(2**53 - 2, (2**64 - 1, -(2**63)), MSGPACK)[0],
    b"\x83\xa4type\x00\xa4data\x81\xa5token\xa1t",
    b"\x82\xa4type\x01",
    b"\x84\xa4type\x02\xa4data\x94\xa1e\xd4\x00\x00\xd7\x00\x00\x00\x01\x9a\x00\x00\x00\x00\xc7\x01\x00a\xa2id\x05",
]
NAMESPACE = b"\xa3nsp\xa5/chat"
PLACEHOLDERS = [
    b'{"_placeholder":true,"num":',
    b'{"_placeholder":true,"num":0}',
    b"5",
    b"6",
    b"-",
    b"/",
    b"0-",
]


def serve(packet: tuple[Any, ...]) -> None:
    """Do with a packet what the server does: its values go out again, and into the domain."""
    kind, namespace, number, event, data = packet
    assert isinstance(namespace, str)
    assert number is None or 0 <= number < 2**53 - 1
    if kind == 2:
        assert isinstance(event, str)
    for encoding in (JSON, MSGPACK):
        if kind in (2, 3):
            encode_event(event, data, encoding, number)
            for value in data:
                with contextlib.suppress(ValueError):  # dates, and doubles that are not finite
                    native_body(value, encoding)


def test_text_when_mutated_then_read_or_refused() -> None:
    for round_ in range(ROUNDS):
        rng = random.Random(round_)
        data = mutated(rng, rng.choice(TEXTS), [*PIECES[JSON], *PLACEHOLDERS])
        try:
            packet: Any = read_text(data, MAX_ATTACHMENTS)
        except ValueError:
            continue
        if packet[0] >= 5:
            assert 0 < packet[4] <= MAX_ATTACHMENTS
            assembly = Assembly(data, packet[4], 0)
            attachments = [rng.randbytes(rng.randint(0, 3)) for _ in range(packet[4])]
            packet = [assembly.add(attachment) for attachment in attachments][-1]
        serve(packet)


def test_map_when_mutated_then_read_or_refused() -> None:
    for round_ in range(ROUNDS):
        rng = random.Random(round_)
        try:
            packet = read_map(mutated(rng, rng.choice(MAPS) + NAMESPACE, PIECES[MSGPACK]))
        except ValueError:
            continue
        serve(packet)


@pytest.mark.parametrize("read", [lambda data: read_text(data, MAX_ATTACHMENTS), read_map])
def test_packet_when_bytes_are_random_then_read_or_refused(read: Any) -> None:
    rng = random.Random(1)
    for _ in range(ROUNDS):
        with contextlib.suppress(ValueError):
            read(rng.choice([b"2", b"5", b"\x83", b""]) + rng.randbytes(rng.randint(0, 40)))
