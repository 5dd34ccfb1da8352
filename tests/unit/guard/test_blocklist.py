"""Bans in force: ranges, users, ends, the allow list."""

from __future__ import annotations

import pytest

from fastim._core.addresses import AddressRanges
from fastim.guard import blocklist
from fastim.guard.blocklist import (
    ADDRESS,
    OPERATOR,
    USER,
    Ban,
    BlockList,
    normal_network,
    normal_subject,
    site_of,
)

NOW_MS = 1_000_000
NOW_NS = 77_000_000_000


def record(subject: str, kind: str = ADDRESS, until: int = 0, source: str = OPERATOR) -> Ban:
    return Ban(kind, subject, until, "", source, 1)


@pytest.fixture
def ranges() -> AddressRanges:
    return AddressRanges()


@pytest.fixture
def bans(ranges: AddressRanges) -> BlockList:
    return BlockList(ranges, ("127.0.0.0/8", "::1/128", "2001:db8::/32"))


def test_address_when_banned_then_blocked_until_the_end_and_the_hub_knows(
    bans: BlockList, ranges: AddressRanges
) -> None:
    bans.put(record("192.0.2.0/24", until=NOW_MS + 5), NOW_MS, NOW_NS)
    assert bans.is_blocked("192.0.2.9", NOW_NS + 4_999_999)
    assert ranges.covers("192.0.2.9", NOW_NS + 4_999_999)
    assert not bans.is_blocked("192.0.2.9", NOW_NS + 5_000_000)
    assert not bans.is_blocked("192.0.3.9", NOW_NS)
    bans.sweep(NOW_NS + 5_000_000)
    assert len(bans) == len(ranges) == 0


def test_address_when_its_ban_had_ended_already_then_it_is_not_for_ever(bans: BlockList) -> None:
    bans.put(record("192.0.2.0/24", until=1), NOW_MS, 5)
    bans.put(record("ann", USER, until=1), NOW_MS, 5)
    assert not bans.is_blocked("192.0.2.9", NOW_NS)
    assert bans.user_ban("ann", NOW_NS) is None


def test_address_when_allowed_then_never_blocked(bans: BlockList) -> None:
    bans.put(record("0.0.0.0/0"), NOW_MS, NOW_NS)
    bans.put(record("::/0"), NOW_MS, NOW_NS)
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "2001:db8::9"):
        assert bans.is_allowed(address)
        assert not bans.is_blocked(address, NOW_NS)
    assert bans.is_blocked("192.0.2.9", NOW_NS)
    assert not bans.is_blocked("", NOW_NS)
    assert bans.always_allows("127.1.0.0/16")
    assert not bans.always_allows("126.0.0.0/7")


def test_user_when_banned_then_found_until_the_end_or_taken_back(bans: BlockList) -> None:
    bans.put(record("ann", USER, until=NOW_MS + 5), NOW_MS, NOW_NS)
    assert bans.user_ban("ann", NOW_NS) is not None
    assert bans.user_ban("ann", NOW_NS + 5_000_000) is None
    assert bans.user_ban("bob", NOW_NS) is None
    assert bans.remove(USER, "ann")
    assert not bans.remove(USER, "ann")
    assert not bans.remove(ADDRESS, "192.0.2.0/24")


def test_ban_when_set_again_then_the_new_end_holds(bans: BlockList) -> None:
    bans.put(record("192.0.2.9/32"), NOW_MS, NOW_NS)
    bans.put(record("192.0.2.9/32", until=NOW_MS + 1), NOW_MS, NOW_NS)
    assert len(bans) == 1
    assert not bans.is_blocked("192.0.2.9", NOW_NS + 1_000_000)


def test_automatic_bans_when_too_many_then_the_oldest_go_and_those_by_hand_stay(
    bans: BlockList, ranges: AddressRanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocklist, "MAX_AUTOMATIC", 3)
    bans.put(record("203.0.113.1/32"), NOW_MS, NOW_NS)
    removed = []
    for number in range(5):
        removed += bans.put(record(f"192.0.2.{number}/32", source="automatic"), NOW_MS, NOW_NS)
    assert [ban.subject for ban in removed] == ["192.0.2.0/32", "192.0.2.1/32"]
    assert [ban.subject for ban in bans] == [
        "203.0.113.1/32", "192.0.2.2/32", "192.0.2.3/32", "192.0.2.4/32",
    ]  # fmt: skip
    assert len(ranges) == 4


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("192.0.2.77", "192.0.2.77/32"),
        ("192.0.2.77/24", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.77/32"),
        ("::ffff:192.0.2.77/120", "192.0.2.0/24"),
        ("2001:DB8::7", "2001:db8::7/128"),
        ("2001:db8::7/64", "2001:db8::/64"),
        ("::/0", "::/0"),
    ],
)
def test_network_when_written_otherwise_then_one_form(text: str, network: str) -> None:
    assert normal_network(text) == network


@pytest.mark.parametrize("text", ["", "host", "192.0.2.1/33", "192.0.2", "fe80::1%eth0", "192.0.2.1/x"])
def test_network_when_it_is_none_then_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        normal_subject(ADDRESS, text)


def test_user_when_no_id_then_refused() -> None:
    with pytest.raises(ValueError, match=r"."):
        normal_subject(USER, "a\x00b")
    assert normal_subject(USER, "ann") == "ann"


def test_site_when_ipv6_then_what_one_customer_has() -> None:
    assert site_of("192.0.2.7") == "192.0.2.7/32"
    assert site_of("::ffff:192.0.2.7") == "192.0.2.7/32"
    assert site_of("2001:db8:1:2:3::4") == "2001:db8:1:2::/64"
