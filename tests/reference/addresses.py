"""The twins of the core's ranges and counts of addresses: plain, slow, and easy to believe."""

from __future__ import annotations

import ipaddress
from collections import Counter

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def as_ipv6(address: Address) -> ipaddress.IPv6Address:
    """Map an IPv4 address into IPv6 (RFC 4291, section 2.5.5.2)."""
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(0xFFFF << 32 | int(address))
    return address


def as_ipv6_network(text: str) -> ipaddress.IPv6Network:
    """Map a range as its addresses are mapped."""
    network = ipaddress.ip_network(text, strict=False)
    bits = network.prefixlen + (96 if network.version == 4 else 0)
    return ipaddress.IPv6Network((as_ipv6(network.network_address), bits), strict=False)


class AddressRanges:
    """Ranges with ends, asked one after the other."""

    def __init__(self) -> None:
        self.ends: dict[ipaddress.IPv6Network, int] = {}

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, network: str, until_ns: int = 0) -> None:
        self.ends[as_ipv6_network(network)] = until_ns

    def remove(self, network: str) -> bool:
        return self.ends.pop(as_ipv6_network(network), None) is not None

    def covers(self, address: str, now_ns: int) -> bool:
        mapped = as_ipv6(ipaddress.ip_address(address))
        return any(mapped in network and not 0 < end <= now_ns for network, end in self.ends.items())

    def sweep(self, now_ns: int) -> int:
        ended = [network for network, end in self.ends.items() if 0 < end <= now_ns]
        for network in ended:
            del self.ends[network]
        return len(ended)


class AddressCounts:
    """Counts by IPv4 address or IPv6 /64."""

    def __init__(self) -> None:
        self.counts: Counter[ipaddress.IPv6Network] = Counter()

    def __len__(self) -> int:
        return len(+self.counts)

    @staticmethod
    def site(address: str) -> ipaddress.IPv6Network:
        mapped = as_ipv6(ipaddress.ip_address(address))
        return ipaddress.IPv6Network((mapped, 128 if mapped.ipv4_mapped else 64), strict=False)

    def add(self, address: str) -> None:
        self.counts[self.site(address)] += 1

    def remove(self, address: str) -> None:
        if self.counts[self.site(address)]:
            self.counts[self.site(address)] -= 1

    def count(self, address: str) -> int:
        return self.counts[self.site(address)]
