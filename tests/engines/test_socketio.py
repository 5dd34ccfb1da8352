"""Socket.IO's packets against their readable twin."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.socketio import PacketWriter, complete, read_map, read_text
from fastim._core.values import Encoding
from tests.reference import socketio as reference

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
WRITER = PacketWriter(str)
DATE = datetime(2023, 11, 14, 22, 13, 20, 123456, UTC)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(-1e9, 1e9),
    TEXT,
    st.binary(max_size=9),
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
        max_leaves=8,
    )


VALUES = nested(LEAVES)
PLACEHOLDERS = st.builds(
    lambda flag, num: {"_placeholder": flag, "num": num},
    st.sampled_from([True, True, True, False, 1]),
    st.one_of(st.integers(-1, 3), st.sampled_from(["0", 0.0, True, None])),
)
ITEMS = st.lists(nested(st.one_of(st.none(), st.integers(), st.text(max_size=4), PLACEHOLDERS)), max_size=4)
EVENTS = st.one_of(st.text(max_size=6), st.sampled_from(["echo", "connect", "disconnecting", 1, None]))
NAMESPACES = st.sampled_from(
    ["", "", "/,", "/chat,", "/chat", "/é x,", "/" + "n" * 255 + ",", "/" + "n" * 256]
)
IDS = st.sampled_from(["", "", "0", "7", "0012", "9007199254740990", "9007199254740991", "1" * 30, "-1", "a"])
COUNTS = st.sampled_from(["", "", "0-", "1-", "2-", "3-", "4-", "-", "1", "x-"])
INTROS = st.tuples(st.sampled_from("0123456789"), COUNTS, NAMESPACES, IDS).map("".join)
ARRAYS = st.tuples(EVENTS, ITEMS).map(lambda pair: [pair[0], *pair[1]])
BODIES = st.one_of(
    ARRAYS, ARRAYS, ITEMS, st.none(), st.dictionaries(TEXT, st.integers(), max_size=2), st.text()
)
PACKETS = st.tuples(INTROS, st.one_of(BODIES.map(json.dumps), st.just(""))).map("".join)


def outcome(read: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except ValueError:  # of which JSONDecodeError, UnicodeDecodeError and msgpack's own are some
        return "refused"


@settings(max_examples=600)
@given(PACKETS)
def test_read_text_when_any_packet_then_as_the_twin(packet: str) -> None:
    data = packet.encode()
    assert outcome(read_text, data, 3) == outcome(reference.read_text, data, 3)


@given(PACKETS, st.data())
def test_read_text_when_cut_then_as_the_twin(packet: str, data: Any) -> None:
    cut = packet.encode()[: data.draw(st.integers(0, len(packet)))]
    assert outcome(read_text, cut, 3) == outcome(reference.read_text, cut, 3)


@settings(max_examples=300)
@given(st.text('012356/,-"[]{}\\ud8_ \te.', max_size=24))
def test_read_text_when_almost_a_packet_then_as_the_twin(text: str) -> None:
    assert outcome(read_text, text.encode(), 3) == outcome(reference.read_text, text.encode(), 3)


BYTES = st.lists(st.binary(max_size=4), max_size=4)


@given(st.sampled_from(["51-", "52-7", "61-3", "63-/a,3"]), ARRAYS, BYTES)
def test_complete_when_attachments_came_then_as_the_twin(
    intro: str, items: list[Any], attachments: list[bytes]
) -> None:
    data = (intro + json.dumps(items)).encode()
    expected = outcome(reference.complete, data, list(attachments))
    assert outcome(complete, data, list(attachments)) == expected


@given(
    st.sampled_from([2, 3]),
    st.lists(st.one_of(VALUES, st.sampled_from([math.inf, math.nan, {1: 2}])), max_size=4),
    st.one_of(st.none(), st.integers(0, 2**53 - 2)),
)
def test_write_when_any_values_then_text_as_the_twin(kind: int, items: list[Any], ref: int | None) -> None:
    ref = 1 if kind == 3 and ref is None else ref
    mine = WRITER.event("e", items, JSON, ref) if kind == 2 else WRITER.ack(ref or 0, items, JSON)
    twin = reference.write_text(kind, ["e", *items] if kind == 2 else items, ref or (0 if kind == 3 else ref))
    assert mine[1] == twin[1]
    head = mine[0].partition(b"[")[0]
    assert head == twin[0].partition(b"[")[0]
    assert json.loads(mine[0][len(head) :]) == json.loads(twin[0][len(head) :])
    assert b": " not in mine[0].replace(json.dumps(": ").encode(), b"") or b": " in twin[0]


@given(st.lists(VALUES, max_size=4), st.integers(0, 2**53 - 2))
def test_write_when_read_again_then_the_same(items: list[Any], ref: int) -> None:
    packet, attachments = WRITER.event("e", items, JSON, ref)
    read = read_text(packet[1:], 99)
    if attachments:
        assert read[4] == len(attachments)
        read = complete(packet[1:], list(attachments))
    assert read == (2, "/", ref, "e", items)
    packed, none = WRITER.ack(ref, items, MSGPACK)
    assert none == ()
    assert read_map(packed + b"\xa3nsp\xa2/x") == (3, "/x", ref, "", items)


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(st.integers(-1, 6), st.sampled_from(["2", 2.0, None])),
        "nsp": st.sampled_from(["/", "/chat", "", None, 1, "/" + "n" * 256]),
        "id": st.sampled_from([None, 0, 7, -1, 2**53 - 2, 2**53 - 1, 2**64 - 1, 1.0, "1"]),
        "data": st.one_of(
            st.tuples(EVENTS, VALUES).map(list), VALUES, st.dictionaries(TEXT, VALUES, max_size=2)
        ),
        "options": VALUES,
    },
)


def packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return data


@settings(max_examples=400)
@given(FIELDS)
def test_read_map_when_any_packet_then_as_the_twin(fields: dict[str, Any]) -> None:
    data = packed(fields)
    assert outcome(read_map, data) == outcome(reference.read_map, data)


@given(FIELDS, st.data())
def test_read_map_when_cut_or_changed_then_refused_or_read_but_never_more(fields: Any, data: Any) -> None:
    whole = bytearray(packed(fields))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    outcome(read_map, bytes(whole))
    outcome(read_map, bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (b"\xd4\x00\x00", None),  # undefined
        (
            b"\xd7\x00" + (1_700_000_000_123).to_bytes(8, "big"),
            datetime(2023, 11, 14, 22, 13, 20, 123000, UTC),
        ),
        (b"\xd7\x00" + (-1).to_bytes(8, "big", signed=True), datetime(1969, 12, 31, 23, 59, 59, 999000, UTC)),
        (b"\xc7\x01\x00a", b"a"),  # a typed array of one byte, and one of eight
        (b"\xc7\x08\x00abcdefgh", b"abcdefgh"),
        (b"\xc8\x00\x02\x00ab", b"ab"),
        (b"\xc7\x00\x00", b""),
        (b"\xc4\x02ab", b"ab"),
        (b"\xca\x3f\x80\x00\x00", 1.0),
        (b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", math.inf),
    ],
)
def test_read_map_when_javascript_wrote_it_then_the_value_it_meant(item: bytes, value: object) -> None:
    data = b"\x83\xa4type\x02\xa4data\x92\xa1e" + item + b"\xa3nsp\xa1/"
    assert read_map(data) == (2, "/", None, "e", [value])


@pytest.mark.parametrize(
    "item",
    [
        b"\xd4\x01\x00",  # another type
        b"\xd7\x00\x7f" + b"\xff" * 7,  # a date past the year 9999
        b"\xc7\x05\x00ab",  # cut
        b"\xc1",
        b"\x81\x01\x01",  # a key that is no string
        b"\xa2\xff\xff",
        b"\x91" * 80 + b"\xc0",
    ],
)
def test_read_map_when_an_item_is_none_then_refused(item: bytes) -> None:
    with pytest.raises(ValueError):
        read_map(b"\x83\xa4type\x02\xa4data\x92\xa1e" + item + b"\xa3nsp\xa1/")


def test_read_map_when_fields_are_undefined_then_they_are_absent() -> None:
    undefined = b"\xd4\x00\x00"
    data = b"\x84\xa4type\x00\xa4data" + undefined + b"\xa2id" + undefined + b"\xa3nsp\xa1/"
    assert read_map(data) == (0, "/", None, "", None)


@pytest.mark.parametrize("depth", [72, 73, 100_000])
def test_read_text_when_nested_then_up_to_72_levels(depth: int) -> None:
    data = b'2["e",' + b"[" * depth + b"]" * depth + b"]"
    if depth == 72:
        assert read_text(data, 0)[3] == "e"
    else:
        with pytest.raises(ValueError, match="deeply"):
            read_text(data, 0)


def test_read_text_when_numbers_are_huge_then_doubles_or_refused() -> None:
    assert read_text(b"30[123456789012345680000,1e308]", 0)[4] == [1.2345678901234568e20, 1e308]
    for number in (b"1e309", b"9" * 400):
        with pytest.raises(ValueError, match="out of range"):
            read_text(b"30[" + number + b"]", 0)


def test_write_when_a_date_is_sent_then_as_javascript_has_it() -> None:
    date = DATE
    assert WRITER.event("e", (date,), JSON) == (b'42["e","2023-11-14T22:13:20.123Z"]', ())
    packet = WRITER.event("e", (date,), MSGPACK)[0] + b"\xa3nsp\xa1/"
    assert read_map(packet)[4] == [date.replace(microsecond=123000)]
    for encoding in (JSON, MSGPACK):
        with pytest.raises(ValueError, match="time zone"):
            WRITER.event("e", (datetime(2023, 1, 1),), encoding)


def test_write_when_a_value_is_none_of_the_wires_then_converted_within_bounds() -> None:
    assert WRITER.event("e", (1 + 2j,), JSON) == (b'42["e","(1+2j)"]', ())
    loop = PacketWriter(lambda value: [value])
    for encoding in (JSON, MSGPACK):
        with pytest.raises(ValueError, match="deeply"):
            loop.event("e", (1j,), encoding)
        with pytest.raises(ValueError, match="out of range"):
            WRITER.event("e", (2**64,), encoding)
        with pytest.raises(ValueError, match="key"):
            WRITER.event("e", ({None: 1},), encoding)


def test_answer_when_it_is_written_then_the_map_counts_the_namespace() -> None:
    assert WRITER.answer(0, {"sid": "a"}, JSON) == b'40{"sid":"a"}'
    packet = WRITER.answer(4, {"message": "no"}, MSGPACK) + b"\xa3nsp\xa2/x"
    assert msgpack.unpackb(packet) == {"type": 4, "data": {"message": "no"}, "nsp": "/x"}
