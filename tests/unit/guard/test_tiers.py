"""Which tier a connection gets, and who gives way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.guard.tiers import DEFAULT_POLICIES, RANKS, TIERS, Place, Placement, Rank, TierPolicy
from fastim.guard.tokens import Tier

CRITICAL, STANDARD, DEGRADED = Rank.CRITICAL, Rank.STANDARD, Rank.DEGRADED
COUNTS = st.tuples(*[st.integers(0, 6)] * 3)


def test_ranks_when_compared_then_those_of_the_tokens_in_order() -> None:
    assert [RANKS[tier] for tier in Tier] == list(Rank)
    assert [TIERS[rank] for rank in Rank] == list(Tier)


def test_policies_when_nothing_is_set_then_the_published_figures() -> None:
    figures = {
        tier: (policy.connections, policy.heartbeat_ns // 10**9, policy.queued_messages, policy.message_bytes)
        for tier, policy in DEFAULT_POLICIES.items()
    }
    assert figures == {
        "critical": (10_000, 30, 1_000, 1024),
        "standard": (100_000, 30, 500, 1024),
        "degraded": (50_000, 60, 100, 1024),
    }
    assert TierPolicy(queued_messages=100).outbox_bytes == 102_400


@pytest.mark.parametrize(
    ("wanted", "counts", "place"),
    [
        (CRITICAL, (0, 0, 0), Place(CRITICAL, None)),
        (CRITICAL, (2, 0, 0), Place(STANDARD, None)),
        (CRITICAL, (2, 3, 0), Place(DEGRADED, None)),
        (STANDARD, (0, 3, 0), Place(DEGRADED, None)),
        (STANDARD, (2, 1, 1), Place(STANDARD, None)),
        (STANDARD, (1, 3, 4), None),  # all tiers from its own down are full
        (DEGRADED, (0, 0, 4), None),
        # The server is full: the lowest tier gives way to a higher one,
        (CRITICAL, (1, 3, 2), Place(CRITICAL, DEGRADED)),
        (STANDARD, (2, 2, 2), Place(STANDARD, DEGRADED)),
        # never to an equal one,
        (DEGRADED, (2, 1, 3), None),
        (STANDARD, (2, 3, 1), None),  # it would be a degraded one itself
        (CRITICAL, (2, 3, 1), None),
    ],
)
def test_newcomer_when_it_comes_then_its_own_tier_or_lower_or_anothers_place(
    wanted: Rank, counts: tuple[int, int, int], place: Place | None
) -> None:
    assert Placement((2, 3, 4), 6).newcomer(wanted, counts) == place


def test_newcomer_when_nobody_is_of_the_lowest_tier_then_the_next_gives_way() -> None:
    placement = Placement((0, 0, 0), 4)
    assert placement.newcomer(CRITICAL, (1, 3, 0)) == Place(CRITICAL, STANDARD)
    assert placement.newcomer(CRITICAL, (4, 0, 0)) is None
    assert placement.newcomer(STANDARD, (0, 4, 0)) is None


def test_newcomer_when_nothing_is_limited_then_always_its_own_tier() -> None:
    assert Placement((0, 0, 0), 0).newcomer(DEGRADED, (10**6, 10**6, 10**6)) == Place(DEGRADED, None)


@given(
    caps=st.tuples(*[st.integers(0, 4)] * 3),
    total=st.integers(0, 8),
    counts=COUNTS,
    wanted=st.sampled_from(Rank),
)
def test_newcomer_when_placed_then_every_cap_holds_and_a_victim_is_lower(
    caps: tuple[int, int, int], total: int, counts: tuple[int, int, int], wanted: Rank
) -> None:
    place = Placement(caps, total).newcomer(wanted, counts)
    if place is None:
        full_tiers = all(caps[rank] and counts[rank] >= caps[rank] for rank in Rank if rank >= wanted)
        assert full_tiers or (total and sum(counts) >= total)
        return
    assert place.rank >= wanted
    assert not caps[place.rank] or counts[place.rank] < caps[place.rank]
    if place.victim is None:
        assert not total or sum(counts) < total
    else:
        assert place.victim > place.rank
        assert counts[place.victim] > 0
        assert not any(counts[rank] for rank in Rank if rank > place.victim)


@pytest.mark.parametrize(
    ("wanted", "current", "counts", "rank"),
    [
        (CRITICAL, DEGRADED, (1, 0, 1), CRITICAL),
        (CRITICAL, DEGRADED, (2, 0, 1), STANDARD),
        (CRITICAL, DEGRADED, (2, 3, 4), DEGRADED),  # keeps what it has
        (DEGRADED, CRITICAL, (2, 3, 3), DEGRADED),
        (STANDARD, CRITICAL, (2, 3, 3), DEGRADED),
        (DEGRADED, CRITICAL, (2, 3, 4), CRITICAL),  # nowhere else to go; nobody is closed for a new token
        (STANDARD, STANDARD, (2, 3, 4), STANDARD),
    ],
)
def test_change_when_the_token_names_another_tier_then_there_or_lower(
    wanted: Rank, current: Rank, counts: tuple[int, int, int], rank: Rank
) -> None:
    assert Placement((2, 3, 4), 9).change(wanted, current, counts) == rank
