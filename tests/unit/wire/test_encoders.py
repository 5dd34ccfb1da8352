"""The packets made for every message, and the client's reading of them."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from fastim.errors import ErrorCode, LimitExceeded, ProtocolError, RequestError
from fastim.wire.encoders import message_body, new_message_packet, ok_message_packet
from fastim.wire.native import Encoded, Encoding, decode_message, encode_error, encode_packet, encode_value
from fastim.wire.peer import decode_server_message, encode_client_packet, error_of

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BOTH = (JSON, MSGPACK)
CONTENT = {"$k": [b"\xff", 1.0, 2**64 - 1, 'quote " \\ \n \u20ac']}
NESTED: Any = "leaf"
for _ in range(64):
    NESTED = [NESTED]


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("stored", BOTH)
@pytest.mark.parametrize("content", [CONTENT, "text", NESTED])
def test_new_message_when_encoded_then_the_client_reads_it(
    content: Any, stored: Encoding, encoding: Encoding
) -> None:
    part = Encoded(encode_value(content, stored), stored)
    fields = ('i"d', "c\\", 5, "us\u20acr", "d", part, "text", 1_700_000_000_000, 'x"', 3)
    names = (
        "id",
        "conversation",
        "seq",
        "sender",
        "device",
        "content",
        "kind",
        "time",
        "client_id",
        "reply_to",
    )
    ((event, body, ref),) = decode_server_message(new_message_packet(encoding, fields), encoding)
    assert (event, ref) == ("new_message", None)
    assert body == {**dict(zip(names, fields, strict=True)), "content": content}
    history = {"messages": [message_body(encoding, fields)], "more": False}
    ((_, answer, _),) = decode_server_message(encode_packet("ok", history, encoding, 9), encoding)
    assert answer == {"messages": [body], "more": False}


@pytest.mark.parametrize("encoding", BOTH)
def test_new_message_when_optional_fields_are_missing_then_left_out(encoding: Encoding) -> None:
    fields = ("i", "c", 1, "u", "d", Encoded(encode_value(None, encoding), encoding), "text", 1, None, None)
    ((_, body, _),) = decode_server_message(new_message_packet(encoding, fields), encoding)
    assert "client_id" not in body
    assert "reply_to" not in body
    assert body["content"] is None


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("client_id", ["c-1", None])
def test_ok_when_encoded_then_all_fields_in_it(client_id: str | None, encoding: Encoding) -> None:
    packet = ok_message_packet(encoding, 2**53 - 1, ("i", "c", 7, 1_700_000_000_000, client_id, True))
    ((event, body, ref),) = decode_server_message(packet, encoding)
    assert (event, ref) == ("ok", 2**53 - 1)
    assert body == {
        "id": "i",
        "conversation": "c",
        "seq": 7,
        "time": 1_700_000_000_000,
        "client_id": client_id,
        "duplicate": True,
    }


def test_msgpack_when_the_server_sends_then_codes() -> None:
    fields = ("i", "c", 1, "u", "d", Encoded(b"\xc0", MSGPACK), "text", 1, None, None)
    assert msgpack.unpackb(new_message_packet(MSGPACK, fields))[0] == 13
    assert msgpack.unpackb(ok_message_packet(MSGPACK, 1, ("i", "c", 1, 1, None, False)))[0] == 11


@pytest.mark.parametrize("encoding", BOTH)
def test_client_packet_when_encoded_then_the_server_splits_it(encoding: Encoding) -> None:
    packet = encode_client_packet("message", {"conversation": "c", "content": NESTED}, encoding, 4)
    ((event, body, ref),) = decode_message(packet, encoding)
    assert (event, ref) == ("message", 4)
    assert isinstance(body, bytes)


@pytest.mark.parametrize("encoding", BOTH)
def test_batch_when_the_server_sends_one_then_every_packet(encoding: Encoding) -> None:
    packets = [encode_packet("ok", {"n": n}, encoding, n) for n in range(1, 4)]
    batch = b"[" + b",".join(packets) + b"]" if encoding == JSON else b"\x93" + b"".join(packets)
    assert [packet.body["n"] for packet in decode_server_message(batch, encoding)] == [1, 2, 3]


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(
    "payload", [b"", b"{}", b"[]", b"\x90", b"\x91\xa1a", b'["a"]', b'["a",1e999]', b"\x92\xa1a\xc1"]
)
def test_server_message_when_no_protocol_then_protocol_error(payload: bytes, encoding: Encoding) -> None:
    with pytest.raises(ProtocolError):
        decode_server_message(payload, encoding)


@pytest.mark.parametrize("encoding", BOTH)
def test_error_when_read_back_then_the_same_exception(encoding: Encoding) -> None:
    for error in (RequestError(ErrorCode.CONFLICT, "other content"), LimitExceeded("slow", 5)):
        ((_, body, _),) = decode_server_message(encode_error(error, encoding, 1), encoding)
        again = error_of(body)
        assert (type(again), again.code, again.message) == (type(error), error.code, error.message)
    assert error_of({"code": "new_code", "message": "m"}).code == ErrorCode.INTERNAL
    assert error_of(None).code == ErrorCode.INTERNAL
