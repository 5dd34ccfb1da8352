"""Sids that are made from handles."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from fastim.server.application.sids import SID_CHARS, handle_of, sid_of

handles = st.integers(min_value=0, max_value=2**64 - 1)


@given(handles)
def test_sid_when_made_then_it_leads_back(handle: int) -> None:
    sid = sid_of(handle)
    assert len(sid) == SID_CHARS
    assert re.fullmatch(r"[\w-]+", sid, re.ASCII)
    assert handle_of(sid) == handle


@given(handles, st.integers(min_value=0, max_value=SID_CHARS - 1), st.sampled_from("Aa0-_é"))
def test_sid_when_a_character_is_another_then_it_leads_nowhere(handle: int, place: int, other: str) -> None:
    sid = sid_of(handle)
    changed = sid[:place] + other + sid[place + 1 :]
    assert handle_of(changed) == (handle if changed == sid else None)


@given(st.text(max_size=30))
def test_sid_when_it_is_any_text_then_it_leads_nowhere(text: str) -> None:
    assert handle_of(text) is None
