"""How many connections may come in how fast, in all and from one address; and who is shut out for a while."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

from fastim._core.limits import SlidingWindow, SlidingWindows, TokenBuckets

__all__ = ["Admission", "limit_by_key", "network_of", "take"]

WINDOW_NS: Final = 60_000_000_000
MAX_WINDOW_LIMIT: Final = 65_535
MAX_BANS: Final = 65_536
NS_PER_S: Final = 1_000_000_000


def limit_by_key(per_minute: int) -> SlidingWindows | TokenBuckets:
    """Make a limit for each key: a window of 60 s, or a bucket refilled in 60 s where it is very large.

    Both answer ``take(key, …)`` with 0 or the nanoseconds to wait; 0 per minute is no limit.
    """
    if per_minute <= MAX_WINDOW_LIMIT:
        return SlidingWindows(per_minute, WINDOW_NS)
    return TokenBuckets(per_minute, per_minute, WINDOW_NS)


def take(limit: SlidingWindows | TokenBuckets, key: str, now_ns: int) -> int:
    """Count one for a key; returns 0, or the nanoseconds until it is welcome."""
    return limit.take(key, now_ns) if isinstance(limit, SlidingWindows) else limit.take(key, 1, now_ns)


def network_of(address: str) -> str:
    """Return what stands for a client in limits: its IPv4 address, or the /64 that one host has."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    except ValueError:
        return address


def _is_loopback(address: str) -> bool:
    return address == "::1" or address.startswith("127.")


class Admission:
    """Counts connections against ``limits.connects_per_minute`` and ``…_per_address``.

    A connection that its address's limit refuses is not counted against the limit of all: one address cannot
    lock the others out. **Cost**: O(1), bounded memory.

    Args:
        per_minute: All addresses together; 0: no limit.
        per_minute_per_address: 0: no limit.
        refusals_per_minute: Refusals that shut an address out; 0: none is.
        ban_s: For so long, seconds.
    """

    def __init__(
        self,
        per_minute: int = 0,
        per_minute_per_address: int = 0,
        refusals_per_minute: int = 0,
        ban_s: float = 600.0,
    ) -> None:
        self._all = SlidingWindow(per_minute, WINDOW_NS) if per_minute else None
        self._by_address = limit_by_key(per_minute_per_address) if per_minute_per_address else None
        self._refusals = limit_by_key(refusals_per_minute) if refusals_per_minute else None
        self._ban_ns = int(ban_s * NS_PER_S)
        self._bans: OrderedDict[str, int] = OrderedDict()

    def admit(self, address: str, now_ns: int) -> int:
        """Count a connection; returns seconds until the next is welcome, 0 if this one is."""
        address = network_of(address)
        if self._bans and (until_ns := self._bans.get(address, 0)):
            if now_ns < until_ns:
                return -(-(until_ns - now_ns) // NS_PER_S)
            del self._bans[address]
        wait_ns = 0
        if self._by_address is not None:
            wait_ns = take(self._by_address, address, now_ns)
        if not wait_ns and self._all is not None:
            wait_ns = self._all.take(now_ns)
            if wait_ns:
                return -(-wait_ns // NS_PER_S)  # not this address's fault
        if wait_ns:
            self.refused(address, now_ns)
        return -(-wait_ns // NS_PER_S)

    def refused(self, address: str, now_ns: int) -> None:
        """Note that an address was refused by its own fault: a bad token, or its limit."""
        address = network_of(address)
        # Behind a proxy on this machine all clients have a loopback address.
        if self._refusals is None or _is_loopback(address) or not take(self._refusals, address, now_ns):
            return
        self._bans[address] = now_ns + self._ban_ns
        if len(self._bans) > MAX_BANS:
            self._bans.popitem(last=False)
