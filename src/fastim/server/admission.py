"""How many connections may come in how fast: in all, and from one address."""

from __future__ import annotations

import ipaddress
from typing import Final

__all__ = ["Admission", "network_of"]

WINDOW_NS: Final = 60_000_000_000


def network_of(address: str) -> str:
    """Return what stands for a client in limits: its IPv4 address, or the /64 that one host has."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)
    except ValueError:
        return address


class Admission:
    """Counts connections against ``limits.connects_per_minute`` and ``…_per_address``.

    A connection that its address's limit refuses is not counted against the limit of all: one address cannot
    lock the others out.

    Args:
        per_minute: All addresses together; 0: no limit.
        per_minute_per_address: 0: no limit.
    """

    def __init__(self, per_minute: int, per_minute_per_address: int) -> None:
        self._per_minute = per_minute
        self._per_address = per_minute_per_address

    def admit(self, address: str, now_ns: int) -> int:
        """Count a connection; returns seconds until the next is welcome, 0 if this one is."""
        return 0

    def refused(self, address: str, now_ns: int) -> None:
        """Note that an address was refused for a bad token."""
