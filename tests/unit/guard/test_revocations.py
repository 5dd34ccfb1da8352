"""Revocations: which tokens they refuse, and how long they are kept."""

from __future__ import annotations

from typing import Any

import pytest

from fastim.guard.revocations import Revocation, RevocationKind, Revocations


def record(kind: str = "user", subject: str = "ann", device: str = "", **fields: Any) -> Revocation:
    given = {"before": 10_000, "until": 100, "reason": "", "created": 0, **fields}
    return Revocation(kind, subject, device, **given)


def test_token_when_revoked_by_id_then_refused_whatever_its_age() -> None:
    revocations = Revocations()
    revocations.add(record(RevocationKind.TOKEN, "j", before=0))
    assert revocations.find("ann", None, "j", 5) is not None
    assert revocations.find("bob", "d", "j", None) is not None
    assert revocations.find("ann", None, "k", 5) is None
    assert revocations.find("j", None, None, 5) is None


@pytest.mark.parametrize(("iat", "refused"), [(None, True), (0, True), (9, True), (10, False), (11, False)])
def test_user_when_revoked_then_tokens_issued_before_are_refused(iat: int | None, refused: bool) -> None:
    revocations = Revocations()
    revocations.add(record())
    assert (revocations.find("ann", "d", "j", iat) is not None) is refused
    assert revocations.find("bob", "d", "j", iat) is None


def test_device_when_revoked_then_only_tokens_used_on_it_are_refused() -> None:
    revocations = Revocations()
    revocations.add(record(RevocationKind.DEVICE, device="d"))
    assert revocations.find("ann", "d", None, 9) is not None
    assert revocations.find("ann", "e", None, 9) is None
    assert revocations.find("ann", None, None, 9) is None


def test_revocation_when_repeated_then_never_weaker() -> None:
    revocations = Revocations()
    revocations.add(record(before=20_000, until=300))
    assert revocations.add(record(before=10_000, until=200)) == record(before=20_000, until=300)
    assert revocations.find("ann", None, None, 15) is not None
    revocations.prune(200)
    assert len(revocations) == 1
    revocations.prune(300)
    assert len(revocations) == 0


def test_revocation_when_lifted_then_good_again_and_a_new_one_lives_its_own_time() -> None:
    revocations = Revocations()
    revocations.add(record(until=100))
    assert revocations.lift("user", "ann")
    assert not revocations.lift("user", "ann")
    assert revocations.find("ann", None, None, 1) is None
    revocations.add(record(until=200))
    revocations.prune(100)
    assert revocations.find("ann", None, None, 1) is not None


def test_records_when_listed_then_the_oldest_first() -> None:
    revocations = Revocations()
    for created in (3, 1, 2):
        revocations.add(record(subject=str(created), created=created))
    assert [found.created for found in revocations.records()] == [1, 2, 3]
