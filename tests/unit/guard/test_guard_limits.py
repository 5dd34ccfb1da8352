"""Limits by user and address, and the block list."""

from __future__ import annotations

import pytest

from fastim.guard.bans import MAX_BLOCKED, BlockList
from fastim.guard.limits import ConnectLimiter, MessageLimiter, client_network, packet_bucket

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


def test_messages_when_over_the_limit_then_only_that_user_waits() -> None:
    """PITFALLS: 500 of 500 passed a limit of 5; a limiter that ignored its key."""
    limiter = MessageLimiter(5)
    answers = [limiter.attempt("alice", now) for now in range(500)]
    assert answers.count(0) == 5
    assert limiter.attempt("bob", 500) == 0
    wait_ms = limiter.attempt("alice", 500)
    assert 0 < wait_ms <= 64_000
    assert limiter.attempt("alice", 500 + wait_ms * 1_000_000) == 0


def test_messages_when_hammering_then_refusals_do_not_prolong_the_wait() -> None:
    limiter = MessageLimiter(1)
    assert limiter.attempt("alice", 0) == 0
    waits = [limiter.attempt("alice", second * SECOND_NS) for second in range(1, 60)]
    assert all(waits)
    assert waits == sorted(waits, reverse=True)


@pytest.mark.parametrize("per_minute", [1, 600, 65_535, 65_536, 200_000])
def test_messages_when_flooded_then_never_more_than_the_limit_in_a_minute(per_minute: int) -> None:
    limiter = MessageLimiter(per_minute)
    step_ns = MINUTE_NS // (per_minute * 2)
    granted = sum(limiter.attempt("alice", n * step_ns) == 0 for n in range(per_minute * 2))
    assert 0.9 * per_minute <= granted <= per_minute


def test_messages_when_limit_is_0_then_none() -> None:
    limiter = MessageLimiter(0)
    assert not any(limiter.attempt("alice", 0) for _ in range(10_000))


def test_connects_when_one_address_attacks_then_the_others_come_in() -> None:
    limiter = ConnectLimiter(per_minute=20, per_minute_per_address=5)
    attacks = [limiter.attempt("192.0.2.1", now) for now in range(1000)]
    assert attacks.count(0) == 5
    assert limiter.attempt("192.0.2.2", 1000) == 0


def test_connects_when_all_are_too_many_then_the_address_is_not_charged() -> None:
    limiter = ConnectLimiter(per_minute=2, per_minute_per_address=1)
    assert [limiter.attempt(f"192.0.2.{n}", 0) for n in range(2)] == [0, 0]
    wait_ms = limiter.attempt("192.0.2.9", 0)
    assert wait_ms > 0
    assert limiter.attempt("192.0.2.9", wait_ms * 1_000_000) == 0


def test_connects_when_limits_are_0_then_none() -> None:
    limiter = ConnectLimiter(0, 0)
    assert not any(limiter.attempt("192.0.2.1", 0) for _ in range(1000))


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


def test_packet_bucket_when_rate_given_then_bursts_of_two_seconds() -> None:
    assert packet_bucket(0) is None
    bucket = packet_bucket(10)
    assert bucket is not None
    assert [bucket.take(1, 0) for _ in range(21)].count(0) == 20
    assert bucket.take(1, SECOND_NS // 10) == 0


def test_block_list_when_refused_too_often_then_shut_out_for_the_time() -> None:
    bans = BlockList(automatic=True, refusals_per_minute=3, duration_ns=10 * SECOND_NS)
    assert [bans.refused("192.0.2.1", 0) for _ in range(4)] == [False, False, False, True]
    assert bans.blocked_ms("192.0.2.1", 0) == 10_000
    assert bans.blocked_ms("192.0.2.2", 0) == 0
    assert bans.blocked_ms("192.0.2.1", 10 * SECOND_NS) == 0
    assert len(bans) == 0
    assert not bans.refused("192.0.2.1", 10 * SECOND_NS)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_block_list_when_loopback_then_never_automatically(address: str) -> None:
    bans = BlockList(automatic=True, refusals_per_minute=1, duration_ns=SECOND_NS)
    assert not any(bans.refused(address, 0) for _ in range(100))


def test_block_list_when_not_automatic_then_only_by_hand() -> None:
    bans = BlockList(automatic=False, refusals_per_minute=1, duration_ns=SECOND_NS)
    assert not any(bans.refused("192.0.2.1", 0) for _ in range(100))
    bans.block("2001:db8::1", 0, 5 * SECOND_NS)
    assert bans.blocked_ms("2001:db8::2", 0) == 5000
    assert bans.lift("2001:db8::3")
    assert not bans.lift("2001:db8::3")
    assert bans.blocked_ms("2001:db8::1", 0) == 0


def test_block_list_when_flooded_with_addresses_then_bounded() -> None:
    bans = BlockList(automatic=True, refusals_per_minute=1, duration_ns=SECOND_NS)
    for number in range(MAX_BLOCKED + 10):
        bans.block(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0)
    assert len(bans) == MAX_BLOCKED
    assert bans.blocked_ms("10.0.0.1", 0) == 0
