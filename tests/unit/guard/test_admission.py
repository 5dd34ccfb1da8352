"""The steps of admission, and what leads to a ban."""

from __future__ import annotations

import pytest

from fastim._core.addresses import AddressRanges
from fastim.guard.admission import Admission, AutoBans, OffenceCounter, Refused
from fastim.guard.blocklist import BlockList
from fastim.guard.limits import ConnectLimiter
from fastim.guard.proxies import TrustedProxies

SECOND_NS = 1_000_000_000
HOME = "127.0.0.1"
AWAY = "192.0.2.1"


class Gatehouse:
    """An admission, and the bans that came of it."""

    def __init__(
        self, per_minute: int = 0, per_address: int = 0, proxies: tuple[str, ...] = (), **automatic: float
    ) -> None:
        self.banned: list[tuple[str, str, float]] = []
        self.admission = Admission(
            BlockList(AddressRanges(), ("127.0.0.0/8",)),
            ConnectLimiter(per_minute, per_address),
            TrustedProxies(proxies),
            automatic=AutoBans(**automatic),  # type: ignore[arg-type]
            ban=lambda kind, subject, for_s, reason: self.banned.append((kind, subject, for_s)),
        )


def test_connects_when_one_address_hammers_then_the_others_come_in() -> None:
    admission = Gatehouse(per_minute=20, per_address=5).admission
    answers = [admission.connect(AWAY, now) for now in range(1000)]
    assert answers.count(None) == 5
    assert {answer[0] for answer in answers if answer} == {Refused.ADDRESS_LIMIT}
    assert all(admission.connect(f"192.0.2.{number}", 1000) is None for number in range(2, 17))
    assert admission.stats()["refused_address_limit_total"] == 995


def test_connects_when_all_are_too_many_then_the_address_is_not_charged() -> None:
    admission = Gatehouse(per_minute=2, per_address=1).admission
    assert [admission.connect(f"192.0.2.{n}", 0) for n in range(2)] == [None, None]
    found = admission.connect("192.0.2.9", 0)
    assert found is not None
    assert found[0] is Refused.SERVER_LIMIT
    assert admission.connect("192.0.2.9", found[1] * 1_000_000) is None


def test_connects_when_tokens_are_good_then_an_office_behind_one_address_gets_in() -> None:
    admission = Gatehouse(per_address=3).admission
    for now_ns in range(100):
        assert admission.connect(AWAY, now_ns) is None
        admission.recognized(AWAY, now_ns)
    assert [admission.connect(AWAY, 100) is None for _ in range(4)] == [True, True, True, False]
    assert admission.stats()["slots_returned_total"] == 100


def test_connects_when_sessions_are_resumed_then_they_do_not_count() -> None:
    admission = Gatehouse(per_minute=3).admission
    for now_ns in range(100):
        assert admission.connect(AWAY, now_ns) is None
        admission.resumed(now_ns)
    assert [admission.connect(AWAY, 100) is None for _ in range(4)] == [True, True, True, False]


def test_connects_when_from_an_allowed_address_then_only_the_limit_of_all_holds() -> None:
    admission = Gatehouse(per_minute=10, per_address=1).admission
    assert [admission.connect(HOME, n) is None for n in range(12)] == [True] * 10 + [False] * 2


@pytest.mark.parametrize("enough", [1, 2, 7])
def test_offences_when_there_are_n_then_the_address_is_banned_and_the_count_begins_anew(enough: int) -> None:
    gate = Gatehouse(offences=enough, address_s=9)
    for round_ in range(1, 4):
        for _ in range(enough - 1):
            gate.admission.offence(AWAY, 0)
        assert len(gate.banned) == round_ - 1
        gate.admission.offence(AWAY, 0)
        assert gate.banned == [("address", AWAY, 9)] * round_


def test_offences_when_spread_over_addresses_of_a_site_or_time_then_by_site_and_window() -> None:
    gate = Gatehouse(offences=3, window_s=10)
    for number in range(3):
        gate.admission.offence(f"2001:db8::{number}", 0)
    assert [subject for _, subject, _ in gate.banned] == ["2001:db8::2"]
    for number in range(10):
        gate.admission.offence(AWAY, number * 6 * SECOND_NS)
    assert len(gate.banned) == 1


def test_offences_when_the_address_is_allowed_or_n_is_0_then_never_a_ban() -> None:
    allowed, never = Gatehouse(offences=1, violations=1), Gatehouse(offences=0, violations=0, refusals=0)
    for _ in range(100):
        allowed.admission.offence(HOME, 0)
        allowed.admission.violation("ann", HOME, 0)
        never.admission.offence(AWAY, 0)
        never.admission.violation("ann", AWAY, 0)
    assert not allowed.banned
    assert not never.banned
    assert allowed.admission.stats()["offences_total"] == 100


def test_proxy_when_those_behind_it_offend_then_it_is_neither_banned_nor_bounded() -> None:
    gate = Gatehouse(per_address=1, proxies=("192.0.2.0/28",), offences=1, refusals=1)
    for _ in range(9):
        gate.admission.offence(AWAY, 0)  # of a head that could not be read, and did not say whose it was
        assert gate.admission.connect(AWAY, 0) is None
    assert not gate.banned
    gate.admission.offence("192.0.2.16", 0)
    assert [subject for _, subject, _ in gate.banned] == ["192.0.2.16"]


def test_violations_when_there_are_n_then_the_user_is_banned_wherever_they_came_from() -> None:
    gate = Gatehouse(violations=3, user_s=0)
    for address in (AWAY, "192.0.2.2", HOME, "192.0.2.3"):
        gate.admission.violation("ann", address, 0)
        gate.admission.violation("bob", HOME, 0)
    assert gate.banned == [("user", "ann", 0)]


def test_connects_when_far_beyond_the_limit_then_the_address_is_banned() -> None:
    gate = Gatehouse(per_address=2, refusals=10)
    for _ in range(11):
        gate.admission.connect(AWAY, 0)
    assert not gate.banned
    gate.admission.connect(AWAY, 0)
    assert gate.banned == [("address", AWAY, 600.0)]


def test_counter_when_enough_is_the_most_that_a_key_may_have_then_it_says_so() -> None:
    counter = OffenceCounter(65_535, SECOND_NS)
    assert [counter.note("key", 0) for _ in range(65_535)].count(True) == 1
