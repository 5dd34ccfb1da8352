"""Who is behind a proxy: the address that trusted proxies tell, and nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

from fastim._core.addresses import AddressRanges

__all__ = ["ForwardedHeader", "TrustedProxies"]

# RFC 7239, section 4: pairs of a token and a token or a quoted string, parted by semicolons.
_PAIR: Final = re.compile(
    r'\s*([!#$%&\'*+.^_`|~\w-]+)=([!#$%&\'*+.^_`|~\w:\[\]-]+|"(?:[^"\\]|\\.)*")\s*(?:;|$)'
)
_QUOTE: Final = re.compile(r'(?<!\\)(?:\\\\)*"')  # one that is not escaped
_BRACKETED: Final = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?")  # IPv6, with or without a port
_WITH_PORT: Final = re.compile(r"([0-9.]+):\d{1,5}")


class ForwardedHeader(StrEnum):
    """The header field in which the proxies in front name the client; exactly one is believed.

    A proxy that writes the one hands on what the client wrote into the other.
    """

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"  # RFC 7239


class TrustedProxies:
    """Finds a client's address in what its proxies wrote.

    The list is walked from the right, where the nearest proxy wrote, as long as those who wrote are trusted:
    whatever stands left of the first who is not may be the client's own invention.

    Args:
        networks: CIDR ranges of the proxies; none: nobody is believed.
        header: The header field they write.
    """

    def __init__(
        self, networks: Iterable[str] = (), header: ForwardedHeader = ForwardedHeader.X_FORWARDED_FOR
    ) -> None:
        self.header = header.value.encode()
        self._ranges = AddressRanges()
        for network in networks:
            self._ranges.add(network)
        self._entries = _forwarded_entries if header is ForwardedHeader.FORWARDED else _plain_entries

    def client_address(self, peer: str, value: bytes | None) -> str:
        """Return the address of the client.

        Args:
            peer: The address of the socket's other end.
            value: Of the header field; several of them joined by commas; None: there is none.

        Returns:
            The right-most address that is no trusted proxy's; where there is none, or an entry is malformed
            (or hides who it is), that of the nearest hop which is known.
        """
        if value is None or not len(self._ranges) or not self.trusts(peer):
            return peer
        address = peer
        for entry in self._entries(value.decode("latin-1")):
            stripped = _without_port(entry)
            try:
                trusted = self._ranges.covers(stripped, 0)
            except ValueError:
                return address
            address = stripped
            if not trusted:
                break
        return address

    def trusts(self, address: str) -> bool:
        """Tell whether an address is a trusted proxy's; what is no address is not."""
        try:
            return self._ranges.covers(address, 0)
        except ValueError:
            return False


def _plain_entries(value: str) -> Iterator[str]:
    """Yield the entries, the last one first."""
    return (entry.strip(" \t") for entry in reversed(value.split(",")))


def _forwarded_entries(value: str) -> Iterator[str]:
    """Yield each element's ``for``, the last one first; one without, or that is malformed, is no address.

    A comma parts elements unless an odd number of quotes stands between it and the end of its element: a
    quote that a client left open must not take in what a proxy wrote behind it.
    """
    end = len(value)
    while end >= 0:
        begin, quotes = end, 0
        while begin >= 0:
            comma = value.rfind(",", 0, begin)
            quotes += len(_QUOTE.findall(value, comma + 1, begin))
            begin = comma
            if quotes % 2 == 0:
                break
        yield _for_of(value[begin + 1 : end])
        end = begin


def _for_of(element: str) -> str:
    position = 0
    found = ""
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return ""
        if pair[1].lower() == "for":
            if found:
                return ""  # section 4: each parameter stands once in an element
            found = pair[2].strip('"')
        position = pair.end()
    return found


def _without_port(entry: str) -> str:
    match = _BRACKETED.fullmatch(entry) or _WITH_PORT.fullmatch(entry)
    return match[1] if match is not None else entry
