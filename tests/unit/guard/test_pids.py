"""Private ids: signed for their purpose alone, and what they say comes out as it went in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.guard.pids import Pid, Pids
from fastim.guard.tickets import Tickets
from fastim.guard.tokens import MAX_TOKEN_BYTES, TokenError, TokenVerifier, issue

OLD, NEW = b"an old secret of the unit tests, 32 bytes", b"a new secret of the unit tests, 32 bytes"
END = 1_000


def pid(**fields: Any) -> Pid:
    given_: dict[str, Any] = {
        "sid": "sid",
        "namespace": "/chat",
        "user": "anna ü",
        "device": "phone",
        "session": "session",
        "epoch": "0123456789ab",
        "number": 2**50,
        "key": 7,
        "change": 3,
        "complete": True,
        "expires": END,
    }
    return Pid(**given_ | fields)


def test_pid_when_opened_in_time_then_is_what_was_signed() -> None:
    pids = Pids([NEW])
    made = pid()
    text = pids.sign(made)
    assert pids.open(text, END - 1) == made
    with pytest.raises(TokenError, match="expired"):
        pids.open(text, END)


def test_pid_when_secrets_are_rotated_then_the_old_ones_are_still_accepted() -> None:
    text = Pids([OLD]).sign(pid())
    assert Pids([NEW, OLD]).open(text, 0)
    with pytest.raises(TokenError, match="signature"):
        Pids([NEW]).open(text, 0)


def test_pid_when_a_token_or_a_ticket_is_shown_then_is_none() -> None:
    token = issue(NEW, "ann", now_s=0)
    with pytest.raises(TokenError):
        Pids([NEW]).open(token, 0)
    with pytest.raises(TokenError):
        TokenVerifier([NEW]).verify(Pids([NEW]).sign(pid()), 0)
    assert not Tickets.is_ticket(Pids([NEW]).sign(pid()))


@given(st.data())
def test_pid_when_any_byte_is_changed_then_is_refused(data: st.DataObject) -> None:
    pids = Pids([NEW])
    text = pids.sign(pid())
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(min_codepoint=33, max_codepoint=126).filter(lambda c: c != text[at]))
    with pytest.raises(TokenError):
        pids.open(text[:at] + other + text[at + 1 :], 0)


@pytest.mark.parametrize("text", ["", ".", "a", "a.b", "ü.ü", "a" * MAX_TOKEN_BYTES, "." * 9_000])
def test_pid_when_it_is_something_else_then_is_refused(text: str) -> None:
    with pytest.raises(TokenError):
        Pids([NEW]).open(text, 0)


def test_pid_when_it_is_of_another_version_then_is_refused() -> None:
    pids = Pids([NEW])
    pids._encode = lambda _: b"\x93\x01\x02\x03"  # type: ignore[assignment]
    text = pids.sign(pid())
    with pytest.raises(TokenError, match="version"):
        Pids([NEW]).open(text, 0)
