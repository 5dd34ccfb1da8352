"""Ranges of addresses with an end, and counts by address: what a hub asks for each connection it accepts.

An address is text, IPv4 or IPv6; an IPv4 address and the same one mapped into IPv6 (RFC 4291, section
2.5.5.2) are one.
"""

from typing import final

from fastim._core.keytable import KeyTable

@final
class AddressRanges(KeyTable):
    """A set of ranges in CIDR notation (RFC 4632), each with an end.

    A hash table of all, looked into once for each prefix length in use, as in Waldvogel et al., "Scalable
    High Speed IP Routing Lookups" (SIGCOMM 1997), without their search over the lengths: block lists have
    few.

    **Cost**: ``covers``: one hash for each prefix length in use, no allocation. A range: 24 bytes and its
    place in the index.

    Args:
        hash_key: 16 bytes; None: random ones.
    """

    def __new__(cls, *, hash_key: bytes | None = None) -> AddressRanges: ...
    def add(self, network: str, until_ns: int = 0) -> None:
        """Put a range in, or give the same range another end.

        Args:
            network: ``192.0.2.0/24``, ``2001:db8::/32``, or an address alone. Bits beyond the prefix are
                ignored. An IPv6 prefix of 96 bits or less may take IPv4 in, as ``::/0`` does.
            until_ns: When it ends, by the caller's clock; 0: never.

        Raises:
            ValueError: It is none, or the end is negative.
        """

    def remove(self, network: str) -> bool:
        """Take a range out; False if that very range is not in, whatever others cover it.

        Raises:
            ValueError: It is none.
        """

    def covers(self, address: str, now_ns: int) -> bool:
        """Tell whether a range that has not ended holds the address.

        Raises:
            ValueError: It is none.
        """

    def sweep(self, now_ns: int) -> int:
        """Take out all ranges that have ended and return how many. **Cost**: O(ranges)."""

@final
class AddressCounts(KeyTable):
    """Counts of something by who is behind an address: the IPv4 address, or the /64 of an IPv6 one.

    **Cost**: O(1); 16 bytes and the index an address that has a count.

    Args:
        hash_key: 16 bytes; None: random ones.
    """

    def __new__(cls, *, hash_key: bytes | None = None) -> AddressCounts: ...
    def add(self, address: str) -> None:
        """Count one more.

        Raises:
            ValueError: It is no address.
        """

    def remove(self, address: str) -> None:
        """Count one less; a count of 0 stays.

        Raises:
            ValueError: It is no address.
        """

    def count(self, address: str) -> int:
        """Return the count.

        Raises:
            ValueError: It is no address.
        """
