"""The value scanners, the decoder and the encoder against their readable twin."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.decoder import decode_value
from fastim._core.encoder import Encoded, encode_value
from fastim._core.values import Encoding, Kind, check, check_name, is_string, transcode
from tests.reference import values as reference

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BOTH = (JSON, MSGPACK)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
KEYS = st.one_of(TEXT, st.sampled_from(["$bytes", "$", "$$", "$$bytes", "$x", "", "key"]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(
        [-(2**63), 2**64 - 1, 2**63, 127, 128, -32, -33, 255, 256, 65535, 65536, 2**32 - 1, 2**32]
    ),
    st.floats(allow_nan=False, allow_infinity=False),
    TEXT,
    st.binary(max_size=40),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=20), st.dictionaries(KEYS, inner, max_size=20)),
    max_leaves=40,
)


def outcome(call: Callable[..., Any], *args: Any) -> Any:
    """What a call returns, or that it refuses."""
    try:
        return ("ok", call(*args))
    except ValueError:
        return "refused"


def same(one: Any, other: Any) -> bool:
    """Equal with types: 1, 1.0 and True differ, and so do the zeros."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    return bool(one == other)


def agree(data: bytes, encoding: int) -> None:
    """Every compiled function says of these bytes what the twin says."""
    assert outcome(check, data, encoding) == outcome(reference.check, data, encoding)
    mine, twin = outcome(decode_value, data, encoding), outcome(reference.decode, data, encoding)
    assert mine == "refused" == twin or same(mine[1], twin[1])
    for target in BOTH:
        expected = outcome(reference.transcode, data, encoding, target)
        assert outcome(transcode, data, encoding, target) == expected
    if mine != "refused":
        assert is_string(data, encoding) == isinstance(mine[1], str)


@given(VALUES, st.sampled_from(BOTH))
def test_values_when_encoded_then_decode_to_the_same(value: Any, encoding: Encoding) -> None:
    data = encode_value(value, encoding)
    assert same(decode_value(data, encoding), value)
    agree(data, encoding)


@given(VALUES)
def test_transcode_when_there_and_back_then_nothing_changes(value: Any) -> None:
    as_json, as_msgpack = encode_value(value, JSON), encode_value(value, MSGPACK)
    assert transcode(as_json, JSON, MSGPACK) == as_msgpack
    assert transcode(as_msgpack, MSGPACK, JSON) == as_json
    assert msgpack.packb(value) == as_msgpack
    assert same(msgpack.unpackb(as_msgpack, strict_map_key=False), value)


@given(VALUES, st.sampled_from(BOTH), st.data())
def test_truncated_when_cut_at_any_byte_then_as_the_twin(value: Any, encoding: Encoding, data: Any) -> None:
    encoded = encode_value(value, encoding)
    cut = data.draw(st.integers(0, len(encoded)))
    agree(encoded[:cut], encoding)


@pytest.mark.parametrize("encoding", BOTH)
def test_truncated_when_cut_at_each_byte_then_refused(encoding: Encoding) -> None:
    value = {"a": [1, -2.5e300, "h\u00e9\U0001f600\n", b"\x00\xff", None], "$k": {"": True}, "n": 2**64 - 1}
    data = encode_value([value] * 3, encoding)
    for cut in range(len(data)):
        with pytest.raises(ValueError, match="byte"):
            check(data[:cut], encoding)
        agree(data[:cut], encoding)
    with pytest.raises(ValueError, match="data behind the value"):
        check(data + data, encoding)


@settings(max_examples=400)
@given(VALUES, st.sampled_from(BOTH), st.data())
def test_damaged_when_bytes_change_then_as_the_twin(value: Any, encoding: Encoding, data: Any) -> None:
    damaged = bytearray(encode_value(value, encoding))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged)))
        piece = data.draw(st.one_of(st.binary(max_size=2), st.sampled_from(FRAGMENTS)))
        damaged[at : at + data.draw(st.integers(0, 2))] = piece
    agree(bytes(damaged), encoding)


FRAGMENTS = [
    *(
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"\\udc00",
        b"\\u0024",
        b"$",
        b"$$",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
    ),
    *(
        b"-",
        b"0",
        b"1e9",
        b".5",
        b"E+",
        b"null",
        b'{"$bytes":"',
        b"=",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf5",
        b"\t",
    ),
    *(
        b"\xc1",
        b"\xd4",
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xca\x7f\x80\x00\x00",
        b"\xa1a",
        b"\x91",
    ),
]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join), st.sampled_from(BOTH))
def test_fragments_when_joined_at_random_then_as_the_twin(data: bytes, encoding: Encoding) -> None:
    agree(data, encoding)


@settings(max_examples=300)
@given(st.binary(max_size=64))
def test_any_bytes_when_read_as_msgpack_then_as_the_twin(data: bytes) -> None:
    agree(data, MSGPACK)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (" null\n", Kind.NIL),
        ("true", Kind.BOOLEAN),
        ("-0", Kind.INTEGER),
        ("18446744073709551615", Kind.INTEGER),
        ("-9223372036854775808", Kind.INTEGER),
        ("-0.0", Kind.DOUBLE),
        ("1E5", Kind.DOUBLE),
        ("1.7976931348623157e308", Kind.DOUBLE),
        ("0." + "0" * 400 + "1e400", Kind.DOUBLE),
        ("123456789012345678901234567890e-5", Kind.DOUBLE),
        ("1e-99999999999999999999", Kind.DOUBLE),
        ('"\\u0000\\ud83d\\ude00\\/"', Kind.STRING),
        ('{"$bytes":"aGk="}', Kind.BYTES),
        (' { "\\u0024byte\\u0073" : "\\u0061Gk\\u003d" } ', Kind.BYTES),
        ('{"$bytes":"\\/\\/8="}', Kind.BYTES),
        ('{"$bytes":""}', Kind.BYTES),
        ('{"$$bytes":1,"$$":2,"\\u0024$x":3}', Kind.MAP),
        ('{"a":1,"a":2}', Kind.MAP),
        ('{"":{}}', Kind.MAP),
        ("[[],[ ]]", Kind.ARRAY),
    ],
)
def test_json_when_a_value_then_its_kind(text: str, kind: Kind) -> None:
    assert check(text.encode(), JSON) is kind
    agree(text.encode(), JSON)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "missing"),
        (b"NaN", "expected a value"),
        (b"Infinity", "expected a value"),
        (b"-Infinity", "digit"),
        (b"1e309", "double out of range"),
        (b"-" + b"9" * 400 + b".0", "double out of range"),
        (b"1e99999999999999999999", "double out of range"),
        (b"18446744073709551616", "integer out of range"),
        (b"-9223372036854775809", "integer out of range"),
        (b"9" * 100_000, "integer out of range"),
        (b"01", "leading zero"),
        (b"+1", "expected a value"),
        (b"1.", "digit"),
        (b".5", "expected a value"),
        (b"1e", "digit"),
        (b"'a'", "expected a value"),
        (b'"\n"', "control character"),
        (b'"\x00"', "control character"),
        (b'"\\x41"', "escape"),
        (b'"\\u12"', "escape"),
        (b'"\\ud800"', "lone surrogate"),
        (b'"\\ud800\\ud800"', "lone surrogate"),
        (b'"\\ud800x"', "lone surrogate"),
        (b'"\\udc00\\ud800"', "lone surrogate"),
        (b'{"\\ud800":1}', "lone surrogate"),
        (b'"\xc0\x80"', "UTF-8"),
        (b'"\xe0\x80\x80"', "UTF-8"),
        (b'"\xf0\x80\x80\x80"', "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b'"\xf4\x90\x80\x80"', "UTF-8"),
        (b'"\xff"', "UTF-8"),
        (b"\xef\xbb\xbf1", "expected a value"),
        (b"[1,]", "expected a value"),
        (b"[1 2]", "expected ,"),
        (b"[1}", "expected ,"),
        (b'{"a":1]', "expected ,"),
        (b'{"a":1,}', "string as key"),
        (b"{1:2}", "string as key"),
        (b'{"a" 1}', "expected :"),
        (b"1 1", "data behind"),
        (b"null\x00", "data behind"),
        (b'{"$a":1}', r"written with \$\$"),
        (b'{"$":1}', r"written with \$\$"),
        (b'{"\\u0024a":1}', r"written with \$\$"),
        (b'{"$bytes ":""}', r"written with \$\$"),
        (b'{"$bytes":"aGk=","a":1}', "alone"),
        (b'{"a":1,"$bytes":"aGk="}', "alone"),
        (b'{"$bytes":"aGk=","$bytes":"aGk="}', "alone"),
        (b'{"$bytes":1}', "wants a string"),
        (b'{"$bytes":null}', "wants a string"),
        (b'{"$bytes":"aGk"}', "base64"),
        (b'{"$bytes":"aGl="}', "base64"),
        (b'{"$bytes":"aG=k"}', "base64"),
        (b'{"$bytes":"===="}', "base64"),
        (b'{"$bytes":"aG k"}', "base64"),
        (b'{"$bytes":"-_-_"}', "base64"),
        (b'{"$bytes":"aGk=\\n"}', "base64"),
    ],
)
def test_json_when_no_value_then_says_what_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check(data, JSON)
    agree(data, JSON)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "truncated"),
        (b"\xc1", "0xC1"),
        (b"\xd4\x01a", "extension"),
        (b"\xd8\x01" + b"a" * 16, "extension"),
        (b"\xc7\x01\x01a", "extension"),
        (b"\xd6\xff\x00\x00\x00\x00", "extension"),
        (b"\xcb\x7f\xf0" + b"\x00" * 6, "finite"),
        (b"\xcb\x7f\xf8" + b"\x00" * 6, "finite"),
        (b"\xca\xff\x80\x00\x00", "finite"),
        (b"\xa1\xff", "UTF-8"),
        (b"\xa2\xc0\x80", "UTF-8"),
        (b"\xa3\xed\xa0\x80", "UTF-8"),
        (b"\x81\x01\x01", "key"),
        (b"\x81\xc4\x01a\x01", "key"),
        (b"\x81\xc0\x01", "key"),
        (b"\x81\x90\x01", "key"),
        (b"\x81\xa1a", "truncated"),
        (b"\xdb\xff\xff\xff\xff", "truncated"),
        (b"\xc6\xff\xff\xff\xffaa", "truncated"),
        (b"\xdd\xff\xff\xff\xff\x01", "truncated"),
        (b"\xdf\xff\xff\xff\xff\xa1a\x01", "truncated"),
        (b"\xdd\xff\xff\xff\xff" * 64, "truncated"),
        (b"\xc0\xc0", "data behind"),
    ],
)
def test_msgpack_when_no_value_then_says_what_is_wrong(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check(data, MSGPACK)
    assert outcome(reference.check, data, MSGPACK) == "refused" or data[0] == 0xDD
    for target in BOTH:
        with pytest.raises(ValueError, match=problem):
            transcode(data, MSGPACK, target)
    with pytest.raises(ValueError, match=problem):
        decode_value(data, MSGPACK)


@pytest.mark.parametrize(
    "data",
    [b"\xcc\x05", b"\xcf" + b"\x00" * 7 + b"\x05", b"\xd3" + b"\x00" * 7 + b"\x05", b"\xd0\x05"],
)
def test_msgpack_when_a_number_is_wider_than_needed_then_the_same_value(data: bytes) -> None:
    assert decode_value(data, MSGPACK) == 5
    assert transcode(data, MSGPACK, JSON) == b"5"


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_when_json_is_past_64_then_refused(opening: bytes, closing: bytes) -> None:
    def nest(depth: int, leaf: bytes = b"1") -> bytes:
        return opening * depth + leaf + closing * depth

    assert check(nest(64), JSON) is not None
    agree(nest(64), JSON)
    agree(nest(64, b'{"$bytes":"aGk="}'), JSON)
    agree(nest(63, b"{}"), JSON)
    for data in (
        nest(65),
        nest(64, b"[]"),
        nest(64, b"{}"),
        nest(64, b'{"a":1}'),
        nest(50_000),
        opening * 50_000,
    ):
        for refuse in (check, decode_value):
            with pytest.raises(ValueError, match=r"deep|without end"):
                refuse(data, JSON)


@pytest.mark.parametrize("head", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x00\x00\x01"])
def test_depth_when_msgpack_is_past_64_then_refused(head: bytes) -> None:
    agree(head * 64 + b"\x01", MSGPACK)
    assert check(head * 64 + b"\xc4\x00", MSGPACK) is not None
    for data in (head * 65 + b"\x01", head * 64 + b"\x90", head * 50_000 + b"\x01"):
        for refuse in (check, decode_value):
            with pytest.raises(ValueError, match="deep"):
                refuse(data, MSGPACK)


def test_depth_when_max_depth_is_given_then_it_counts() -> None:
    data = b"[" * 72 + b"]" * 72
    assert decode_value(data, JSON, max_depth=72)
    with pytest.raises(ValueError, match="deep"):
        decode_value(data, JSON, max_depth=71)
    with pytest.raises(ValueError, match="max_depth"):
        decode_value(data, JSON, max_depth=129)


def test_duplicate_keys_when_carried_then_both_stay_and_the_last_counts() -> None:
    assert transcode(b'{"a":1,"a":2}', JSON, MSGPACK) == b"\x82\xa1a\x01\xa1a\x02"
    assert decode_value(b'{"a":1,"a":2}', JSON) == {"a": 2}
    assert decode_value(b"\x82\xa1a\x01\xa1a\x02", MSGPACK) == {"a": 2}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65535, 65536])
def test_counts_when_heads_change_their_width_then_exact(count: int) -> None:
    for value in (
        list(range(count)),
        {f"k{i}": [i] for i in range(min(count, 70_000))},
        "a" * count,
        b"b" * count,
    ):
        as_json = encode_value([value, "end"], JSON)
        assert transcode(as_json, JSON, MSGPACK) == msgpack.packb([value, "end"])
        assert transcode(msgpack.packb([value, "end"]), MSGPACK, JSON) == as_json
        assert decode_value(as_json, JSON) == [value, "end"]


@pytest.mark.parametrize("size", [0, 1, 30, 31, 32, 33, 255, 256, 65535, 65536])
def test_escapes_when_a_string_shrinks_then_the_head_fits(size: int) -> None:
    data = b'["' + b"\\u0041" * size + b'","end"]'
    assert msgpack.unpackb(transcode(data, JSON, MSGPACK)) == ["A" * size, "end"]
    assert transcode(data, JSON, MSGPACK) == msgpack.packb(["A" * size, "end"])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_doubles_when_transcoded_then_bit_for_bit(value: float) -> None:
    data = transcode(struct.pack(">Bd", 0xCB, value), MSGPACK, JSON)
    assert data.decode() == repr(value)
    assert transcode(data, JSON, MSGPACK) == struct.pack(">Bd", 0xCB, value)
    assert isinstance(json.loads(data), float)


@given(
    st.integers(-(10**18), 10**18), st.integers(0, 20), st.sampled_from(["", "0", "000", "e0", "E-3", "e+2"])
)
def test_doubles_when_decimals_of_any_length_then_as_python_reads_and_writes(
    digits: int, decimals: int, tail: str
) -> None:
    whole, fraction = divmod(abs(digits), 10**decimals)
    text = f"{'-' if digits < 0 else ''}{whole}.{fraction:0{max(decimals, 1)}d}{tail}"
    value = decode_value(text.encode(), JSON)
    assert same(value, float(text))
    assert encode_value(value, JSON) == repr(value).encode()
    assert transcode(text.encode(), JSON, MSGPACK) == struct.pack(">Bd", 0xCB, float(text))


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_singles_when_transcoded_then_the_same_number(value: float) -> None:
    assert float(transcode(struct.pack(">Bf", 0xCA, value), MSGPACK, JSON)) == value


@given(st.text(max_size=30))
def test_strings_when_any_code_points_then_only_lone_surrogates_are_refused(text: str) -> None:
    ascii_only = json.dumps(text).encode()
    has_lone = any("\ud800" <= c <= "\udfff" for c in text)
    assert outcome(check, ascii_only, JSON) == ("refused" if has_lone else ("ok", Kind.STRING))
    if not has_lone:
        assert decode_value(ascii_only, JSON) == text


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        2**64,
        -(2**63) - 1,
        {1: 2},
        {None: 1},
        {b"a": 1},
        "\ud800",
        {"\ud800": 1},
        object(),
        {1, 2},
        1j,
    ],
    ids=repr,
)
def test_encode_when_no_value_then_refused(value: Any, encoding: Encoding) -> None:
    for whole in (value, [value], {"a": [value]}):
        with pytest.raises(ValueError):
            encode_value(whole, encoding)


@pytest.mark.parametrize("encoding", BOTH)
def test_encode_when_too_deep_or_endless_then_refused(encoding: Encoding) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="deep"):
        encode_value(endless, encoding)


def test_encode_when_encoded_parts_are_inside_then_inserted_or_transcoded() -> None:
    part = Encoded(b'{"$bytes": "aGk="}', JSON)
    assert encode_value({"a": part}, JSON) == b'{"a":{"$bytes": "aGk="}}'
    assert encode_value({"a": part}, MSGPACK) == b"\x81\xa1a\xc4\x02hi"
    assert encode_value([Encoded(b"\xc4\x02hi", MSGPACK)], JSON) == b'[{"$bytes":"aGk="}]'
    with pytest.raises(ValueError):
        encode_value(Encoded(b"[", JSON), MSGPACK)


def test_buffers_when_not_bytes_then_read_as_well() -> None:
    for data in (bytearray(b"[1]"), memoryview(b"x[1]y")[1:4]):
        assert check(data, JSON) is Kind.ARRAY
        assert transcode(data, JSON, MSGPACK) == b"\x91\x01"
    with pytest.raises(TypeError):
        check("[1]", JSON)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encoding"):
        check(b"1", 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a", ""),
        ("é" * 32, ""),
        ("\u00a0\u2028", ""),
        ("", "1 to 64"),
        ("é" * 33, "got 66"),
        ("a\x00", "control"),
        ("\x7f", "control"),
        ("a\x85", "control"),
        ("\x9f", "control"),
        ("\ud800", "surrogate"),
    ],
)
def test_name_when_checked_then_says_what_was_expected(text: str, problem: str) -> None:
    answer = check_name(text, 64)
    assert problem in answer
    assert bool(problem) == bool(answer)
