"""The core's request heads against the grammar's own words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastim._core.requesthead import split_head
from tests.reference.requesthead import split_head as reference

SINGLE = frozenset({b"host", b"origin"})
PIECES = [
    b"GET",
    b"P!#$%&'*+-.^_`|~9",
    b" ",
    b"/",
    b"/a?b=c",
    b"/\xc3\xa4",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/1.2\r\n",
    b"Host",
    b"hOST: x\r\n",
    b"Accept: a\r\n",
    b"ACCEPT:\t b , c \t\r\n",
    b"Empty:\r\n",
    b":",
    b"\t",
    b"\r\n",
    b"\r",
    b"\n",
    b"\x00",
    b"\x7f",
    b"\x80\xff",
]
SOUND = b"POST /x?y HTTP/1.1\r\nHost: h\r\nAccept: a\r\naccept: b\r\nX-Own:  v w\t\r\nEmpty:\r\n\r\n"

Split = Callable[[bytes, frozenset[bytes]], Any]


def outcome(split: Split, data: bytes) -> Any:
    try:
        return split(data, SINGLE)
    except ValueError as error:
        return str(error)


def test_head_when_sound_then_taken_apart() -> None:
    fields = {b"host": b"h", b"accept": b"a, b", b"x-own": b"v w", b"empty": b""}
    assert split_head(SOUND, SINGLE) == (b"POST", b"/x?y", b"1.1", fields) == reference(SOUND, SINGLE)


def test_head_when_one_byte_is_another_then_as_the_reference_says() -> None:
    for at in range(len(SOUND)):
        for byte in b"\x00\t\n\r :Aa\x7f\x80":
            data = SOUND[:at] + bytes([byte]) + SOUND[at + 1 :]
            assert outcome(split_head, data) == outcome(reference, data), data


def test_head_when_cut_off_or_followed_then_as_the_reference_says() -> None:
    for at in range(len(SOUND)):
        assert outcome(split_head, SOUND[:at]) == outcome(reference, SOUND[:at])
    assert outcome(split_head, SOUND + b"x") == outcome(reference, SOUND + b"x")


@given(st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
def test_head_when_made_of_pieces_then_as_the_reference_says(data: bytes) -> None:
    assert outcome(split_head, data) == outcome(reference, data)


@given(st.lists(st.sampled_from(PIECES[9:]), max_size=8).map(b"".join))
def test_fields_when_made_of_pieces_then_as_the_reference_says(data: bytes) -> None:
    data = b"GET / HTTP/1.1\r\n" + data + b"\r\n"
    assert outcome(split_head, data) == outcome(reference, data)
