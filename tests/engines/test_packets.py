"""The packet splitter against its readable twin."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.encoder import Encoded, Shape, encode_value
from fastim._core.packets import PacketCodec
from fastim._core.values import Encoding
from fastim.errors import RequestError
from tests.reference import packets as reference

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BOTH = (JSON, MSGPACK)
NAMES = {1: "message", 11: "ok", 30: "ping"}
CODEC = PacketCodec(NAMES)

SMALL = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**53), st.floats(-1e9, 1e9), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)
EVENTS = st.one_of(
    st.sampled_from(
        ["echo", "message", "", "a" * 64, "a" * 65, "é" * 33, "a\x00", "\x85", 1, 11, 0, -1, 256]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    SMALL,
)
REFS = st.one_of(st.integers(1, 2**53 - 1), st.sampled_from([0, -1, 2**53, 2**64 - 1, 1.0, True, None, "1"]))
PACKETS = st.one_of(
    st.tuples(EVENTS, SMALL), st.tuples(EVENTS, SMALL, REFS), st.lists(SMALL, max_size=5), SMALL
)
MESSAGES = st.one_of(PACKETS, st.lists(PACKETS, max_size=6))


def mine(data: bytes, encoding: int) -> Any:
    try:
        packets = CODEC.split(data, encoding)
    except RequestError as error:
        return str(error.code)
    return [(event, None if isinstance(body, RequestError) else body, ref) for event, body, ref in packets]


def twin(data: bytes, encoding: int) -> Any:
    try:
        return reference.split(data, encoding, NAMES)
    except reference.Refused as refused:
        return refused.code


@settings(max_examples=400)
@given(MESSAGES, st.sampled_from(BOTH))
def test_split_when_any_message_then_as_the_twin(message: Any, encoding: Encoding) -> None:
    data = encode_value(message, encoding)
    assert mine(data, encoding) == twin(data, encoding)


@given(MESSAGES, st.sampled_from(BOTH), st.data())
def test_split_when_cut_then_as_the_twin(message: Any, encoding: Encoding, data: Any) -> None:
    encoded = encode_value(message, encoding)
    cut = encoded[: data.draw(st.integers(0, len(encoded)))]
    assert mine(cut, encoding) == twin(cut, encoding)


@settings(max_examples=300)
@given(st.text('[]{},:"\\ud8001 \n\tae.-', max_size=30))
def test_split_when_almost_json_then_as_the_twin(text: str) -> None:
    assert mine(text.encode(), JSON) == twin(text.encode(), JSON)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), SMALL, st.integers(1, 9)), min_size=1, max_size=5))
def test_batch_when_encoded_packets_are_joined_then_split_again(packets: list[tuple[str, Any, int]]) -> None:
    for encoding in BOTH:
        encoded = [CODEC.encode(event, body, encoding, ref) for event, body, ref in packets]
        if encoding == JSON:
            batch = b"[" + b",".join(encoded) + b"]"
        else:
            batch = bytes([0x90 | len(encoded)]) + b"".join(encoded)
        expected = [(event, encode_value(body, encoding), ref) for event, body, ref in packets]
        assert CODEC.split(batch, encoding) == expected


@pytest.mark.parametrize("encoding", BOTH)
def test_shape_when_optional_fields_are_none_then_left_out(encoding: Encoding) -> None:
    shape = Shape("ok", 11, ("id", "content", "reply_to", "$x"), optional=("id", "reply_to"))
    for values in [("1", None, 2, 3), (None, "c", None, b"b"), (None, [1], 5, {})]:
        fields = dict(zip(("id", "content", "reply_to", "$x"), values, strict=True))
        expected = {k: v for k, v in fields.items() if v is not None or k in ("content", "$x")}
        assert shape.body(encoding, values) == encode_value(expected, encoding)
        assert shape.packet(encoding, values, 7) == CODEC.encode("ok", expected, encoding, 7)
        assert shape.packet(encoding, values) == CODEC.encode("ok", expected, encoding)
    with pytest.raises(ValueError, match="4 values"):
        shape.body(encoding, ("1",))
    with pytest.raises(ValueError, match="is no value"):
        shape.packet(encoding, (object(), 1, 1, 1))


def test_encode_when_the_event_has_a_code_then_msgpack_carries_it() -> None:
    assert msgpack.unpackb(CODEC.encode("ok", {}, MSGPACK, 5)) == [11, {}, 5]
    assert msgpack.unpackb(CODEC.encode("other", {}, MSGPACK)) == ["other", {}]
    assert msgpack.unpackb(CODEC.encode(300, Encoded(b"1", JSON), MSGPACK)) == [300, 1]
    assert CODEC.encode("ok", {}, JSON, 2**53 - 1) == b'["ok",{},9007199254740991]'
