"""How much one user, one address and everybody may ask for; over the core's sliding windows.

Attempts that are refused do not count, so whoever hammers on is let in again as soon as the window has room.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from fastim._core.limits import SlidingWindow, SlidingWindows, TokenBucket, TokenBuckets

__all__ = ["ConnectLimiter", "MemberLimiter", "MessageLimiter", "client_network", "packet_bucket"]

MINUTE_NS: Final = 60_000_000_000
MAX_KEYED_LIMIT: Final = 65_535  # of the core's table of windows
IPV6_SITE_BITS: Final = 64  # what one customer is given; single addresses inside are free to take


class MessageLimiter:
    """At most so many messages of a user in any 60 s, whichever devices they come from.

    Args:
        per_minute: The limit; 0: none.
    """

    __slots__ = ("_windows",)

    def __init__(self, per_minute: int) -> None:
        self._windows = keyed_windows(per_minute)

    def attempt(self, user: str, now_ns: int) -> int:
        """Count a message and return 0, or return the milliseconds until one is welcome. **Cost**: O(1)."""
        if self._windows is None:
            return 0
        return ms_up(self._windows.take(user, now_ns))


class MemberLimiter:
    """How many members a user may put into conversations: each is rows on the disk, and work at each hello.

    Args:
        per_minute: On average, and at a time; 0: no limit.
    """

    __slots__ = ("_buckets", "_per_minute")

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._buckets = TokenBuckets(per_minute, per_minute, MINUTE_NS) if per_minute else None

    def attempt(self, user: str, count: int, now_ns: int) -> int:
        """Count new members and return 0, or return the milliseconds to wait. **Cost**: O(1)."""
        if self._buckets is None:
            return 0
        return ms_up(self._buckets.take(user, min(count, self._per_minute), now_ns))


class ConnectLimiter:
    """At most so many new connections in any 60 s of one address, and of all together.

    The address is looked at first: what it is refused takes nothing from the others.

    Args:
        per_minute: The limit for all together; 0: none.
        per_minute_per_address: The limit for an address (IPv6: a /64 network); 0: none.
    """

    __slots__ = ("_all", "_by_address")

    def __init__(self, per_minute: int, per_minute_per_address: int) -> None:
        self._all = SlidingWindow(per_minute, MINUTE_NS) if per_minute else None
        self._by_address = keyed_windows(per_minute_per_address)

    def attempt(self, address: str, now_ns: int) -> int:
        """Count a connection and return 0, or return the milliseconds until one is welcome.

        Args:
            address: The IP address of the socket's other end, without a port.
            now_ns: The time, of a clock that does not go back.

        **Cost**: O(1); parsing for IPv6.
        """
        network = client_network(address)
        if self._by_address is not None and (wait_ns := self._by_address.take(network, now_ns)):
            return ms_up(wait_ns)
        if self._all is not None and (wait_ns := self._all.take(now_ns)):
            if self._by_address is not None:
                self._by_address.refund(network, now_ns)
            return ms_up(wait_ns)
        return 0


def packet_bucket(per_second: int) -> TokenBucket | None:
    """Return a connection's bucket of packets, with bursts of two seconds' worth; None for no limit (0)."""
    return TokenBucket(per_second, 2 * per_second) if per_second else None


def client_network(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or an IPv6 /64 network."""
    if ":" not in address:
        return address
    try:
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, IPV6_SITE_BITS), strict=False).network_address)


def keyed_windows(per_minute: int) -> SlidingWindows | None:
    """Return windows that never grant more than ``per_minute`` to a key in any 60 s; None for no limit (0).

    A limit past the table's own is kept in parts: a k-th of it in a k-th of the minute.
    """
    if not per_minute:
        return None
    parts = -(-per_minute // MAX_KEYED_LIMIT)
    return SlidingWindows(per_minute // parts, MINUTE_NS // parts)


def ms_up(wait_ns: int) -> int:
    """Return the milliseconds after which the wait is surely over."""
    return -(-wait_ns // 1_000_000)
