"""How much one user, one address and everybody may ask for; over the core's sliding windows.

Attempts that are refused do not count, so whoever hammers on is let in again as soon as the window has room.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from fastim._core.limits import SlidingWindow, SlidingWindows, TokenBuckets

__all__ = ["IPV6_SITE_BITS", "ConnectLimiter", "MemberLimiter", "client_network"]

MINUTE_NS: Final = 60_000_000_000
MAX_KEYED_LIMIT: Final = 65_535  # of the core's table of windows
IPV6_SITE_BITS: Final = 64  # what one customer is given; single addresses inside are free to take


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

    def attempt_address(self, address: str, now_ns: int) -> int:
        """Count a connection of an address and return 0, or the milliseconds until one is welcome.

        Args:
            address: The IP address of whoever connects, without a port.
            now_ns: The time, of a clock that does not go back.

        **Cost**: O(1); parsing for IPv6.
        """
        if self._by_address is None:
            return 0
        return ms_up(self._by_address.take(client_network(address), now_ns))

    def attempt_all(self, now_ns: int) -> int:
        """Count a connection of anybody and return 0, or the milliseconds until one is welcome."""
        return 0 if self._all is None else ms_up(self._all.take(now_ns))

    def refund_address(self, address: str, taken_ns: int) -> bool:
        """Give back what an address took at that time; False if it is gone, or was given back."""
        if self._by_address is None:
            return False
        return self._by_address.refund(client_network(address), taken_ns)

    def refund_all(self, taken_ns: int) -> bool:
        """Give back what was taken of all connections at that time; False if it is gone."""
        return self._all is not None and self._all.refund(taken_ns)


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
