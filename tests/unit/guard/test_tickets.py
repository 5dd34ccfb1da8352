"""Tickets: signed for their purpose alone, for a minute, and what they say comes out as it went in."""

from __future__ import annotations

from typing import Any

import pytest

from fastim.guard.tickets import LIFE_MS, Ticket, Tickets
from fastim.guard.tokens import MAX_TOKEN_BYTES, DeviceClass, Tier, TokenError, TokenVerifier, issue

OLD, NEW = b"an old secret of the unit tests, 32 bytes", b"a new secret of the unit tests, 32 bytes"


def ticket(**fields: Any) -> Ticket:
    given: dict[str, Any] = {
        "id": Tickets.new_id(),
        "expires": LIFE_MS,
        "session": "0123456789abcdef",
        "user": "ann",
        "device": "phone",
        "device_class": "mobile",
        "tier": "critical",
        "scope": ["one", "two"],
        "exp": 5_000,
        "jti": "j",
        "iat": 3,
        "status": 2,
        "metadata": b"\0\xff",
        "encoding": 1,
    }
    return Ticket(**given | fields)


def signed(tickets: Tickets, **fields: Any) -> str:
    text = tickets.sign(ticket(**fields))
    assert text is not None
    return text


def test_ticket_when_opened_in_time_then_what_was_signed() -> None:
    tickets = Tickets([NEW])
    made = ticket()
    text = tickets.sign(made)
    assert text is not None
    assert tickets.is_ticket(text)
    assert tickets.open(text, LIFE_MS - 1) == made
    claims = made.claims()
    assert (claims.user, claims.device, claims.device_class) == ("ann", "phone", DeviceClass.MOBILE)
    assert (claims.tier, claims.scope, claims.exp) == (Tier.CRITICAL, frozenset({"one", "two"}), 5_000)
    assert (claims.jti, claims.iat) == ("j", 3)
    with pytest.raises(TokenError, match="expired"):
        tickets.open(text, LIFE_MS)


def test_ticket_when_secrets_are_rotated_then_the_old_ones_are_still_accepted() -> None:
    text = signed(Tickets([OLD]))
    assert Tickets([NEW, OLD]).open(text, 0)
    with pytest.raises(TokenError, match="signature"):
        Tickets([NEW]).open(text, 0)


def test_ticket_when_any_character_is_changed_then_refused() -> None:
    tickets = Tickets([NEW])
    text = signed(tickets)
    start = text.index(".") + 1
    for at in range(start, len(text)):
        for other in "AB.-":
            if text[at] != other:
                with pytest.raises(TokenError):
                    tickets.open(text[:at] + other + text[at + 1 :], 0)


def test_ticket_when_taken_for_a_token_then_refused_and_the_other_way_round() -> None:
    verifier, tickets = TokenVerifier([NEW]), Tickets([NEW])
    with pytest.raises(TokenError):
        verifier.verify(signed(tickets), 0)
    token = issue(NEW, "ann", now_s=0)
    assert not tickets.is_ticket(token)
    with pytest.raises(TokenError, match="signature"):
        tickets.open("fastim-ticket." + token.split(".", 1)[1], 0)


@pytest.mark.parametrize(
    "text", ["fastim-ticket.", "fastim-ticket..", "fastim-ticket.é.é", "fastim-ticket." + "A" * 9_000]
)
def test_ticket_when_nonsense_then_refused(text: str) -> None:
    with pytest.raises(TokenError):
        Tickets([NEW]).open(text, 0)


def test_ticket_when_longer_than_a_hello_may_bring_then_none_is_made() -> None:
    tickets = Tickets([NEW])
    assert tickets.sign(ticket(scope=["s" * 128] * 64)) is None
    assert len(signed(tickets, metadata=b"m" * 1_024)) < MAX_TOKEN_BYTES
