"""The wire, beside its readable twins and the general decoders.

``pytest benchmarks/test_wire.py --benchmark-enable``
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import msgspec
import pytest

from fastim._core.values import check, transcode
from fastim.wire.bodies import Message, decode_body
from fastim.wire.encoders import new_message_packet, ok_message_packet
from fastim.wire.events import NAMES
from fastim.wire.native import Encoded, Encoding, decode_message, decode_value, encode_packet, encode_value
from tests.reference import packets as packets_twin
from tests.reference import values as values_twin

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BODY = {"text": "hello, this is a message", "n": 123456, "list": [1, 2, 3.5], "b": True}
UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
TEXT = "hello, this is a message of 64 bytes or so, I think it is......."
ENCODED = {encoding: encode_value(BODY, encoding) for encoding in (JSON, MSGPACK)}
PACKETS = {encoding: encode_packet("echo", BODY, encoding, 12345) for encoding in (JSON, MSGPACK)}
MESSAGES = {
    encoding: encode_value({"conversation": UUID, "content": TEXT, "client_id": UUID}, encoding)
    for encoding in (JSON, MSGPACK)
}

Bench = Callable[..., Any]
both = pytest.mark.parametrize("encoding", [JSON, MSGPACK], ids=["json", "msgpack"])


@both
def test_echo_when_decoded_and_encoded(benchmark: Bench, encoding: Encoding) -> None:
    """All that the wire does for an echo."""
    payload = PACKETS[encoding]

    def echo() -> bytes:
        ((_, body, ref),) = decode_message(payload, encoding)
        return encode_packet("ok", decode_value(body, encoding), encoding, ref)  # type: ignore[arg-type]

    benchmark(echo)


@pytest.mark.parametrize("name", ["json", "msgpack", "json-msgspec"])
def test_echo_when_done_by_general_decoders(benchmark: Bench, name: str) -> None:
    payload = PACKETS[MSGPACK if name == "msgpack" else JSON]
    loads, dumps = {
        "json": (json.loads, json.dumps),
        "msgpack": (msgpack.unpackb, msgpack.packb),
        "json-msgspec": (msgspec.json.decode, msgspec.json.encode),
    }[name]

    def echo() -> Any:
        _, body, ref = loads(payload)
        return dumps(["ok", body, ref])

    benchmark(echo)


@both
@pytest.mark.parametrize("who", ["core", "twin"])
def test_split(benchmark: Bench, who: str, encoding: Encoding) -> None:
    payload = PACKETS[encoding]
    if who == "core":
        benchmark(decode_message, payload, encoding)
    else:
        benchmark(packets_twin.split, payload, encoding, NAMES)


@both
@pytest.mark.parametrize("who", ["core", "twin"])
def test_check(benchmark: Bench, who: str, encoding: Encoding) -> None:
    benchmark(check if who == "core" else values_twin.check, ENCODED[encoding], encoding)


@both
@pytest.mark.parametrize("who", ["core", "twin"])
def test_transcode(benchmark: Bench, who: str, encoding: Encoding) -> None:
    call = transcode if who == "core" else values_twin.transcode
    benchmark(call, ENCODED[encoding], encoding, 1 - encoding)


@both
@pytest.mark.parametrize("who", ["core", "twin"])
def test_decode_value(benchmark: Bench, who: str, encoding: Encoding) -> None:
    benchmark(decode_value if who == "core" else values_twin.decode, ENCODED[encoding], encoding)


@both
def test_decode_body_message(benchmark: Bench, encoding: Encoding) -> None:
    benchmark(decode_body, MESSAGES[encoding], Message, encoding)


@both
@pytest.mark.parametrize("stored", [JSON, MSGPACK], ids=["from-json", "from-msgpack"])
def test_new_message(benchmark: Bench, stored: Encoding, encoding: Encoding) -> None:
    content = Encoded(encode_value(TEXT, stored), stored)
    fields = (UUID, UUID, 1234, "user-1", "device-1", content, "text", 1_700_000_000_000, UUID, None)
    benchmark(new_message_packet, encoding, fields)


@both
def test_ok_message(benchmark: Bench, encoding: Encoding) -> None:
    benchmark(ok_message_packet, encoding, 12345, (UUID, UUID, 1234, 1_700_000_000_000, UUID, False))


@both
def test_batch_of_1000(benchmark: Bench, encoding: Encoding) -> None:
    packets = [PACKETS[encoding]] * 1000
    batch = b"[" + b",".join(packets) + b"]" if encoding == JSON else b"\xdc\x03\xe8" + b"".join(packets)
    assert len(decode_message(batch, encoding)) == 1000
    benchmark(decode_message, batch, encoding)
