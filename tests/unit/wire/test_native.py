"""Messages of the native protocol, good and bad, in both encodings."""

from __future__ import annotations

import json
import time
from typing import Any

import msgpack
import pytest

from fastim.errors import ErrorCode, LimitExceeded, RequestError
from fastim.wire.native import (
    Encoded,
    Encoding,
    decode_message,
    decode_value,
    encode_error,
    encode_packet,
    encode_value,
)

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BOTH = (JSON, MSGPACK)


def pack(value: Any, encoding: Encoding) -> bytes:
    """Encode with an independent encoder."""
    packed: bytes = msgpack.packb(value) if encoding else json.dumps(value).encode()
    return packed


def unpack(data: bytes, encoding: Encoding) -> Any:
    return msgpack.unpackb(data) if encoding else json.loads(data)


def refused(payload: bytes, encoding: Encoding) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode_message(payload, encoding)
    return caught.value


def only_error(payload: bytes, encoding: Encoding) -> tuple[Any, RequestError, Any]:
    ((event, error, ref),) = decode_message(payload, encoding)
    assert isinstance(error, RequestError)
    return event, error, ref


@pytest.mark.parametrize("encoding", BOTH)
def test_message_when_one_packet_then_its_body_stays_encoded(encoding: Encoding) -> None:
    body = {"a": [1, "x"]}
    packet = decode_message(pack(["echo", body, 7], encoding), encoding)
    assert packet == [("echo", unpack_free(body, encoding), 7)]
    assert decode_message(pack(["echo", body], encoding), encoding)[0][2] is None


def unpack_free(body: Any, encoding: Encoding) -> bytes:
    return pack(body, encoding)


@pytest.mark.parametrize("encoding", BOTH)
def test_message_when_a_batch_then_each_packet_in_order(encoding: Encoding) -> None:
    payload = pack([["a", None, 1], ["b", 2], ["c", [3], 3]], encoding)
    assert [(event, ref) for event, _, ref in decode_message(payload, encoding)] == [
        ("a", 1),
        ("b", None),
        ("c", 3),
    ]


def test_message_when_json_has_white_space_then_the_same() -> None:
    assert decode_message(b' \n[ "a" ,\t{ "x" : 1 } , 5 ]\r ', JSON) == [("a", b'{ "x" : 1 }', 5)]


def test_message_when_msgpack_event_is_a_code_then_its_name() -> None:
    assert decode_message(msgpack.packb([10, {}, 1]), MSGPACK) == [("hello", b"\x80", 1)]
    assert decode_message(msgpack.packb([256, {}, 1]), MSGPACK) == [(256, b"\x80", 1)]
    assert decode_message(msgpack.packb([200, {}]), MSGPACK) == [(200, b"\x80", None)]


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("message", [{}, {"a": 1}, 1, None, "hello", True, -1.5], ids=repr)
def test_message_when_no_array_then_bad_packet(message: Any, encoding: Encoding) -> None:
    assert refused(pack(message, encoding), encoding).code == ErrorCode.BAD_PACKET


@pytest.mark.parametrize("encoding", BOTH)
def test_message_when_cut_anywhere_or_followed_by_more_then_bad_packet(encoding: Encoding) -> None:
    payload = pack([["message", {"conversation": "c", "content": "\u20ac\n"}, 77], ["b", 1.5]], encoding)
    for cut in range(len(payload)):
        assert refused(payload[:cut], encoding).code == ErrorCode.BAD_PACKET
    assert refused(payload + b"1", encoding).code == ErrorCode.BAD_PACKET


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"   ",
        b"[",
        b'["a"',
        b'["a",',
        b'["a",}',
        b'["a",1}',
        b'["a",{"b"}]',
        b'["a",NaN]',
        b'["a",Infinity,1]',
        b'["a",01]',
        b'["a",tru]',
        b'["a","\x00"]',
        b'["a","\\q"]',
        b'["a","\xff"]',
        b'["a","\xc0\x80"]',
        b'["a","\xed\xa0\x80"]',
        b'["a",1,]',
        b'[,"a",1]',
        b'[["a",1],]',
        b"['a',1]",
        b"\x00",
        b"\xef\xbb\xbf[]",
        b"\xff\xfe[\x00",
        b'["a",' + b"[" * 100_000,
        b'["a",' + b'{"a":' * 20_000,
        b"[" * 102_400,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_json_when_malformed_then_bad_packet(payload: bytes) -> None:
    assert refused(payload, JSON).code == ErrorCode.BAD_PACKET


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x92\xa1a",
        b"\x92\xa1a\xc1",
        b"\xdd\xff\xff\xff\xff\xa1a",
        b"\xdc\xff\xff\xa1a\x01",
        b"\x92\xdb\xff\xff\xff\xff",
        b"\x92\xa1a\xdf\xff\xff\xff\xff",
        b"\x92\xa1a\xc6\xff\xff\xff\xff",
        b"\x92\xa1a\xc9\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\xa1a" + b"\xdd\x00\x01\x00\x00" * 20_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_msgpack_when_malformed_then_bad_packet(payload: bytes) -> None:
    assert refused(payload, MSGPACK).code == ErrorCode.BAD_PACKET


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(
    ("packet", "event", "ref"),
    [
        ([], None, None),
        (["a"], "a", None),
        (["a", 1, 2, 3], "a", 2),
        (["", 1, 2], None, 2),
        (["a" * 65, 1, 2], None, 2),
        (["\u20ac" * 22, 1, 2], None, 2),
        (["a\x00b", 1, 2], None, 2),
        (["\x7f", 1, 2], None, 2),
        (["\x85", 1, 2], None, 2),
        ([None, 1, 2], None, 2),
        ([1.5, 1, 2], None, 2),
        ([0, 1, 2], None, 2),
        ([-1, 1, 2], None, 2),
        ([{}, 1, 2], None, 2),
        (["a", 1, 0], "a", None),
        (["a", 1, -1], "a", None),
        (["a", 1, 2**53], "a", None),
        (["a", 1, 2**64 - 1], "a", None),
        (["a", 1, 1.0], "a", None),
        (["a", 1, "1"], "a", None),
        (["a", 1, None], "a", None),
        (["a", 1, True], "a", None),
        (["a", 1, [1]], "a", None),
    ],
    ids=repr,
)
def test_packet_when_its_form_is_wrong_then_alone_bad_packet(
    packet: Any, event: Any, ref: Any, encoding: Encoding
) -> None:
    got_event, error, got_ref = only_error(pack(packet, encoding), encoding)
    assert (got_event, error.code, got_ref) == (event, ErrorCode.BAD_PACKET, ref)
    batch = decode_message(pack([["good", 1, 1], packet, ["good", 1, 3]], encoding), encoding)
    assert [isinstance(body, bytes) for _, body, _ in batch] == [True, False, True]


@pytest.mark.parametrize("encoding", BOTH)
def test_batch_when_nested_or_of_no_packets_then_each_alone_is_bad(encoding: Encoding) -> None:
    for message in ([[["a", 1]]], [[]]):
        assert only_error(pack(message, encoding), encoding)[1].code == ErrorCode.BAD_PACKET
    batch = decode_message(pack([["a", 1], 5, "x", None, {}], encoding), encoding)
    assert [type(body) is RequestError for _, body, _ in batch] == [False, True, True, True, True]


@pytest.mark.parametrize("encoding", BOTH)
def test_batch_when_past_1000_packets_then_one_too_large(encoding: Encoding) -> None:
    assert len(decode_message(pack([["a", 1]] * 1000, encoding), encoding)) == 1000
    for count in (1001, 10_000):
        assert refused(pack([["a", 1]] * count, encoding), encoding).code == ErrorCode.TOO_LARGE


def test_json_event_when_escaped_then_resolved() -> None:
    assert decode_message(b'["\\u0065cho\\u20ac",1]', JSON) == [("echo\u20ac", b"1", None)]
    assert decode_message(b'["' + b"\\u0061" * 64 + b'",1]', JSON)[0][0] == "a" * 64
    for name in (b"\\ud800", b"\\u0000", b"\\n", b"\\u0061" * 65, b"\\u0085"):
        assert only_error(b'["' + name + b'",1,9]', JSON)[1].code == ErrorCode.BAD_PACKET


def test_msgpack_event_when_invalid_utf8_then_bad_packet() -> None:
    assert only_error(b"\x93\xa2\xc0\x80\x01\x09", MSGPACK)[2] == 9


def test_json_body_when_nested_past_any_use_then_bad_request_with_its_ref() -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        leaf = b'"]}["' if opening == b"[" else b'"\\"}"'
        payload = b'["deep",' + opening * 5000 + leaf + closing * 5000 + b",7]"
        event, error, ref = only_error(payload, JSON)
        assert (event, error.code, ref) == ("deep", ErrorCode.BAD_REQUEST, 7)


@pytest.mark.parametrize("encoding", BOTH)
def test_value_when_nested_past_64_then_bad_request(encoding: Encoding) -> None:
    value: Any = None
    for _ in range(65):
        value = [value]
    ((_, body, _),) = decode_message(pack(["a", value], encoding), encoding)
    assert isinstance(body, bytes)
    with pytest.raises(RequestError, match="nested") as caught:
        decode_value(body, encoding)
    assert caught.value.code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b'{"$x":1}', JSON),
        (b'"\\ud800"', JSON),
        (b"1e999", JSON),
        (b"18446744073709551616", JSON),
        (b'{"$bytes":"!"}', JSON),
        (b"\xd4\x01a", MSGPACK),
        (b"\x81\x01\x01", MSGPACK),
        (b"\xa1\xff", MSGPACK),
        (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", MSGPACK),
    ],
    ids=repr,
)
def test_value_when_against_the_rules_then_bad_request(body: bytes, encoding: Encoding) -> None:
    head, tail = (b'["a",', b",3]") if encoding == JSON else (b"\x93\xa1a", b"\x03")
    assert decode_message(head + body + tail, encoding) == [("a", body, 3)]
    with pytest.raises(RequestError) as caught:
        decode_value(body, encoding)
    assert caught.value.code == ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("encoding", BOTH)
def test_value_when_encoded_then_decodes_to_the_same(encoding: Encoding) -> None:
    value = {
        "$bytes": "x",
        "$": [b"\x00\xff", 2**64 - 1, -(2**63), 1.0, "\x00\u20ac"],
        "": None,
        "t": (True,),
    }
    assert decode_value(encode_value(value, encoding), encoding) == {**value, "t": [True]}


@pytest.mark.parametrize("encoding", BOTH)
def test_error_when_the_packet_had_a_ref_then_it_is_echoed(encoding: Encoding) -> None:
    error = RequestError(ErrorCode.FORBIDDEN, 'not yours: "x"\n')
    ok = 12 if encoding else "error"
    body = {"code": "forbidden", "message": 'not yours: "x"\n'}
    assert unpack(encode_error(error, encoding, 5, "message"), encoding) == [ok, body, 5]
    assert unpack(encode_error(error, encoding, None, "typing"), encoding) == [
        ok,
        {**body, "event": "typing"},
    ]
    assert unpack(encode_error(error, encoding), encoding) == [ok, body]
    limit = LimitExceeded("slow down", 1200)
    assert unpack(encode_error(limit, encoding, 1), encoding)[1]["retry_after_ms"] == 1200


@pytest.mark.parametrize("encoding", BOTH)
def test_packet_when_encoded_then_splits_again(encoding: Encoding) -> None:
    body = {"content": Encoded(b'{"a": 1}', JSON), "n": 1}
    payload = encode_packet("new_message", body, encoding, 3)
    ((event, encoded, ref),) = decode_message(payload, encoding)
    assert isinstance(encoded, bytes)
    assert (event, decode_value(encoded, encoding), ref) == ("new_message", {"content": {"a": 1}, "n": 1}, 3)


def test_split_when_the_input_is_hostile_then_linear() -> None:
    # Not a benchmark: quadratic work over 100 KB takes minutes, linear work milliseconds.
    began = time.monotonic()
    for piece in (b"[", b'{"', b'"\\', b"{}", b"[]", b"1,", b'{"$bytes":', b"\\u0024", b'{"\\u0024":'):
        for payload in (piece * (102_400 // len(piece)), b'["a",' + piece * (102_000 // len(piece))):
            with pytest.raises(RequestError):
                decode_message(payload, JSON)
            with pytest.raises(RequestError):
                decode_value(payload, JSON)
    for piece in (b"\x91", b"\xdd\x00\x00\x80\x00", b"\x81\xa1a", b"\xdc\x00\xff"):
        with pytest.raises(RequestError):
            decode_message(piece * (102_400 // len(piece)), MSGPACK)
    assert time.monotonic() - began < 60
