"""Hostile messages: whatever the bytes, only the errors that are allowed come out.

``FASTIM_FUZZ_ROUNDS`` (default 3,000) says how many mutated messages each encoding gets; the seed is printed
with a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from typing import Any

import msgpack
import pytest

from fastim._core.values import check, transcode
from fastim.errors import ErrorCode, ProtocolError, RequestError
from fastim.wire.bodies import BODIES, decode_body
from fastim.wire.native import Encoding, decode_message, decode_value, encode_value
from fastim.wire.peer import decode_server_message

ROUNDS = int(os.environ.get("FASTIM_FUZZ_ROUNDS", "3000"))
JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK

SEEDS: list[Any] = [
    ["echo", {"text": "h\u00e9llo \U0001f600", "n": -1.5e-7, "b": [True, None]}, 7],
    [
        "message",
        {"conversation": "c", "content": {"$$k": [1, 2, 3]}, "client_id": "x", "reply_to": 3},
        2**53 - 1,
    ],
    ["hello", {"token": "t", "resume": {"session": "s", "seen": {"c": 1}}}, 1],
    ["binary", {"conversation": "c", "data": {"$bytes": "aGVsbG8="}, "name": "n"}, 2],
    [
        ["typing", {"conversation": "c", "typing": True}],
        ["ack", {"conversation": "c", "seq": 5}],
        ["x", 2**64 - 1, 3],
    ],
    ["history", {"conversation": "c", "after": 5, "limit": 500}, 4],
    ["presence", {"status": "away", "metadata": {"a": "b" * 300}}, 5],
]
PIECES = {
    JSON: [
        *(
            b'"',
            b"\\",
            b"\\u",
            b"\\ud83d",
            b"\\udc00",
            b"\\u0000",
            b"\x00",
            b"\xff",
            b"\xc0\x80",
            b"\xed\xa0\x80",
        ),
        *(
            b"[",
            b"]",
            b"{",
            b"}",
            b",",
            b":",
            b"[" * 70,
            b"{" * 70,
            b'{"$bytes":',
            b'{"$x":',
            b"$",
            b"-",
            b".",
            b"e999",
        ),
        *(
            b"9" * 25,
            b"NaN",
            b"null",
            b"true",
            b" ",
            b"\n",
            b"1",
            b"0",
            b"\xf0\x9f\x98\x80",
            b'"a"' * 3,
            b"=",
            b"/",
        ),
    ],
    MSGPACK: [
        *(
            b"\xc0",
            b"\xc1",
            b"\xc2",
            b"\xc4",
            b"\xc5",
            b"\xc6",
            b"\xc7",
            b"\xc9",
            b"\xca",
            b"\xcb",
            b"\xcf",
            b"\xd3",
        ),
        *(
            b"\xd4",
            b"\xd8",
            b"\xd9",
            b"\xda",
            b"\xdb",
            b"\xdc",
            b"\xdd",
            b"\xde",
            b"\xdf",
            b"\xff" * 4,
            b"\x00" * 4,
        ),
        *(
            b"\x7f\xff\xff\xff",
            b"\x91" * 70,
            b"\x81\xa1a" * 70,
            b"\xa1\xff",
            b"\xa0",
            b"\x90",
            b"\x80",
            b"\xe0",
        ),
    ],
}


def encoded_seeds(encoding: Encoding) -> list[bytes]:
    if encoding == JSON:
        return [json.dumps(seed, ensure_ascii=index % 2 == 0).encode() for index, seed in enumerate(SEEDS)]
    return [msgpack.packb(seed) for seed in SEEDS]


def mutated(rng: random.Random, data: bytes, pieces: list[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(changed))
        choice = rng.random()
        if choice < 0.4:
            changed[at : at + rng.randint(0, 3)] = rng.choice(pieces)
        elif choice < 0.6 and at < len(changed):
            changed[at] ^= 1 << rng.randint(0, 7)
        elif choice < 0.75:
            del changed[at : at + rng.randint(1, 8)]
        elif choice < 0.9:
            end = rng.randint(at, min(len(changed), at + 40))
            changed[at:at] = changed[at:end] * rng.randint(1, 3)
        else:
            del changed[at:]
    return bytes(changed)


def serve(payload: bytes, encoding: Encoding) -> None:
    """Do with a message all that a server and a client do; only allowed errors are caught."""
    try:
        packets = decode_message(payload, encoding)
    except RequestError as error:
        assert error.code in (ErrorCode.BAD_PACKET, ErrorCode.TOO_LARGE)  # noqa: PT017
        packets = []
    for event, body, ref in packets:
        assert ref is None or 0 < ref < 2**53
        if isinstance(body, RequestError):
            continue
        assert event
        for kind in BODIES.values() if event not in BODIES else [BODIES[str(event)]]:
            try:
                decode_body(body, kind, encoding)
            except RequestError as error:
                assert error.code == ErrorCode.BAD_REQUEST  # noqa: PT017
                assert ": " in error.message  # noqa: PT017
        serve_value(body, encoding)
    with contextlib.suppress(ProtocolError):
        decode_server_message(payload, encoding)


def serve_value(body: bytes, encoding: Encoding) -> None:
    try:
        value = decode_value(body, encoding)
    except RequestError:
        with pytest.raises(ValueError, match="byte"):
            check(body, encoding)
        with pytest.raises(ValueError, match="byte"):
            transcode(body, encoding, 1 - encoding)
        return
    check(body, encoding)
    other = transcode(body, encoding, 1 - encoding)
    assert decode_value(other, 1 - encoding) == value
    assert decode_value(encode_value(value, encoding), encoding) == value
    again = transcode(other, 1 - encoding, encoding)
    assert transcode(again, encoding, 1 - encoding) == other


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_wire_when_messages_are_mutated_then_only_allowed_errors(encoding: Encoding) -> None:
    seeds = encoded_seeds(encoding)
    for round_ in range(ROUNDS):
        rng = random.Random(round_)
        payload = mutated(rng, rng.choice(seeds), PIECES[encoding])
        try:
            serve(payload, encoding)
        except BaseException:
            print(f"round {round_}: {payload!r}")
            raise


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_wire_when_bytes_are_random_then_only_allowed_errors(encoding: Encoding) -> None:
    rng = random.Random(41)
    for _ in range(ROUNDS):
        serve(b"".join(rng.choice(PIECES[encoding]) for _ in range(rng.randint(0, 12))), encoding)
        serve(rng.randbytes(rng.randint(0, 40)), encoding)


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_wire_when_cut_at_every_byte_then_refused(encoding: Encoding) -> None:
    for payload in encoded_seeds(encoding):
        serve(payload, encoding)
        for cut in range(len(payload)):
            with pytest.raises(RequestError):
                decode_message(payload[:cut], encoding)
