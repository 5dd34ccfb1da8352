"""Limits of connects by address and of all together."""

from __future__ import annotations

import pytest

from fastim.guard.limits import ConnectLimiter, client_network

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


def attempt(limiter: ConnectLimiter, address: str, now_ns: int) -> int:
    return limiter.attempt_address(address, now_ns) or limiter.attempt_all(now_ns)


@pytest.mark.parametrize("per_minute", [1, 600, 65_535, 65_536, 200_000])
def test_connects_when_flooded_then_never_more_than_the_limit_in_a_minute(per_minute: int) -> None:
    limiter = ConnectLimiter(per_minute=0, per_minute_per_address=per_minute)
    step_ns = MINUTE_NS // (per_minute * 2)
    granted = sum(attempt(limiter, "192.0.2.1", n * step_ns) == 0 for n in range(per_minute * 2))
    assert 0.9 * per_minute <= granted <= per_minute


def test_connects_when_hammering_then_refusals_do_not_prolong_the_wait() -> None:
    limiter = ConnectLimiter(per_minute=0, per_minute_per_address=1)
    assert attempt(limiter, "192.0.2.1", 0) == 0
    waits = [attempt(limiter, "192.0.2.1", second * SECOND_NS) for second in range(1, 60)]
    assert all(waits)
    assert waits == sorted(waits, reverse=True)


def test_connects_when_one_address_attacks_then_the_others_come_in() -> None:
    limiter = ConnectLimiter(per_minute=20, per_minute_per_address=5)
    attacks = [attempt(limiter, "192.0.2.1", now) for now in range(1000)]
    assert attacks.count(0) == 5
    assert attempt(limiter, "192.0.2.2", 1000) == 0


def test_connects_when_limits_are_0_then_none() -> None:
    limiter = ConnectLimiter(0, 0)
    assert not any(attempt(limiter, "192.0.2.1", 0) for _ in range(1000))


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::9", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("no:address", "no:address"),
    ],
)
def test_client_network_when_ipv6_then_the_site(address: str, network: str) -> None:
    assert client_network(address) == network
