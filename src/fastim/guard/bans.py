"""Addresses that are shut out for a while."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Final

from fastim._core.limits import SlidingWindows
from fastim.guard.limits import client_network, keyed_windows, ms_up

__all__ = ["BlockList"]

MAX_BLOCKED: Final = 65_536


class BlockList:
    """Shuts out addresses that keep being refused; never loopback: behind a proxy that is everybody.

    Args:
        automatic: False: only ``block`` shuts out.
        refusals_per_minute: So many refusals in any 60 s are borne; the next one shuts the address out.
        duration_ns: For how long.
    """

    __slots__ = ("_duration_ns", "_refusals", "_until_ns")

    def __init__(self, automatic: bool, refusals_per_minute: int, duration_ns: int) -> None:
        self._refusals: SlidingWindows | None = keyed_windows(refusals_per_minute) if automatic else None
        self._duration_ns = duration_ns
        self._until_ns: OrderedDict[str, int] = OrderedDict()  # by network; the latest block last

    def __len__(self) -> int:
        return len(self._until_ns)

    def blocked_ms(self, address: str, now_ns: int) -> int:
        """Return for how many milliseconds the address is still shut out; 0: it is not. **Cost**: O(1)."""
        if not self._until_ns:
            return 0
        network = client_network(address)
        left_ns = self._until_ns.get(network, 0) - now_ns
        if left_ns > 0:
            return ms_up(left_ns)
        self._until_ns.pop(network, None)
        return 0

    def refused(self, address: str, now_ns: int) -> bool:
        """Note that an address was refused (bad token, connect limit); True if that shuts it out now."""
        if self._refusals is None or is_loopback(address):
            return False
        network = client_network(address)
        if not self._refusals.take(network, now_ns):
            return False
        self.block(address, now_ns)
        self._refusals.forget(network)  # served; afterwards it begins anew
        return True

    def block(self, address: str, now_ns: int, duration_ns: int | None = None) -> None:
        """Shut an address (IPv6: its /64 network) out; None: for the usual time.

        At most 65,536 are; the one that was shut out the longest ago goes first.
        """
        network = client_network(address)
        self._until_ns.pop(network, None)
        self._until_ns[network] = now_ns + (self._duration_ns if duration_ns is None else duration_ns)
        if len(self._until_ns) > MAX_BLOCKED:
            self._until_ns.popitem(last=False)

    def lift(self, address: str) -> bool:
        """Let an address in again; False if it was not shut out."""
        return self._until_ns.pop(client_network(address), None) is not None


def is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
