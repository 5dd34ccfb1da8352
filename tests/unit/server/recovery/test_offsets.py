"""Offsets: what is written is read, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.server.recovery.offsets import new_epoch, offset_text, parse_offset

COUNTS = st.integers(0, 2**60 - 1)


@given(COUNTS, COUNTS, COUNTS)
def test_offset_when_written_then_is_read_as_it_was(number: int, key: int, change: int) -> None:
    epoch = new_epoch()
    assert parse_offset(offset_text(epoch, number, key, change)) == (epoch, number, key, change)


@pytest.mark.parametrize(
    "text",
    [
        None,
        7,
        b"0123456789ab-1-1-1",
        ["0123456789ab-1-1-1"],
        "",
        "0123456789ab",
        "0123456789ab-1-1",
        "0123456789ab-1-1-",
        "0123456789ab--1-1",
        "0123456789ab-1-1-1-1",
        "0123456789ab-1-1-1\n",
        " 0123456789ab-1-1-1",
        "0123456789AB-1-1-1",
        "0123456789ab-+1-1-1",
        "0123456789ab-1_0-1-1",
        "0123456789abc-1-1-1",
        "0123456789ab-1-1-" + "f" * 16,
        "0123456789ab-" + "1" * 1_000_000 + "-1-1",
        "0123456789ab-\u0661-1-1",
    ],
)
def test_offset_when_it_is_something_else_then_is_none(text: object) -> None:
    assert parse_offset(text) is None


@given(st.text(max_size=40))
def test_offset_when_any_text_then_never_raises(text: str) -> None:
    found = parse_offset(text)
    assert found is None or offset_text(*found).count("-") == 3
