"""Who is shut out: ranges of addresses and users, each with an end and a reason."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from fastim._core.addresses import AddressRanges
from fastim._core.values import check_name
from fastim.guard.limits import IPV6_SITE_BITS

__all__ = ["ADDRESS", "OPERATOR", "USER", "Ban", "BlockList", "normal_network", "normal_subject", "site_of"]

ADDRESS: Final = "address"
USER: Final = "user"
OPERATOR: Final = "operator"
MAX_AUTOMATIC: Final = 65_536
MAX_USER_BYTES: Final = 128
NS_PER_MS: Final = 1_000_000


class Ban(NamedTuple):
    """Somebody who is shut out; kept in the store as a record of the same fields."""

    kind: str  # ADDRESS or USER
    subject: str  # a network as CIDR, or a user's id
    until: int  # ms since the epoch; 0: for ever
    reason: str
    source: str  # OPERATOR, or another where nobody did it by hand
    created: int  # ms since the epoch


class _Entry(NamedTuple):
    record: Ban
    until_ns: int  # by the monotonic clock; 0: for ever


class BlockList:
    """The bans that are in force, in memory.

    Ends come as times of the day, which may be set back; from when a ban is put in they are kept by the clock
    that is not.

    Args:
        blocked: The ranges that the hub refuses at accept; kept up to date.
        allow: Ranges that are never shut out, whatever else covers them.
    """

    def __init__(self, blocked: AddressRanges, allow: Iterable[str] = ()) -> None:
        self._blocked = blocked
        self._allowed = AddressRanges()
        self._allow = [ipaddress.ip_network(network) for network in allow]
        for network in self._allow:
            self._allowed.add(str(network))
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._automatic: dict[tuple[str, str], None] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Ban]:
        return (entry.record for entry in self._entries.values())

    def put(self, record: Ban, now_ms: int, now_ns: int) -> list[Ban]:
        """Put a ban in, in the place of the one of the same subject.

        Args:
            record: Its subject as ``normal_subject`` returns it.
            now_ms: The time, ms since the epoch.
            now_ns: The time of the hub's clock.

        Returns:
            Bans that were taken out for it: at most 65,536 stand that nobody set by hand, the oldest goes.
        """
        until_ns = 0 if not record.until else max(1, now_ns + (record.until - now_ms) * NS_PER_MS)
        key = record.kind, record.subject
        self._entries[key] = _Entry(record, until_ns)
        if record.kind == ADDRESS:
            self._blocked.add(record.subject, until_ns)
        self._automatic.pop(key, None)
        if record.source == OPERATOR:
            return []
        self._automatic[key] = None
        return self._shrink()

    def _shrink(self) -> list[Ban]:
        removed = []
        while len(self._automatic) > MAX_AUTOMATIC:
            key = next(iter(self._automatic))
            removed.append(self._entries[key].record)
            self.remove(*key)
        return removed

    def remove(self, kind: str, subject: str) -> bool:
        """Take a ban out; False if there is none."""
        if self._entries.pop((kind, subject), None) is None:
            return False
        self._automatic.pop((kind, subject), None)
        if kind == ADDRESS:
            self._blocked.remove(subject)
        return True

    def sweep(self, now_ns: int) -> None:
        """Take out what has ended. **Cost**: O(bans)."""
        for key, entry in list(self._entries.items()):
            if entry.until_ns and entry.until_ns <= now_ns:
                self.remove(*key)

    # -- questions

    def is_allowed(self, address: str) -> bool:
        """Tell whether an address is never shut out; what is no address is not."""
        return bool(address) and self._allowed.covers(address, 0)

    def is_blocked(self, address: str, now_ns: int) -> bool:
        """Tell whether an address is shut out now. **Cost**: O(prefix lengths in use)."""
        return (
            bool(address) and self._blocked.covers(address, now_ns) and not self._allowed.covers(address, 0)
        )

    def always_allows(self, network: str) -> bool:
        """Tell whether all of a range is allowed, so that a ban of it would do nothing."""
        wanted = ipaddress.ip_network(network)
        return any(
            wanted.version == allowed.version and wanted.subnet_of(allowed)  # type: ignore[arg-type]
            for allowed in self._allow
        )

    def find(self, kind: str, subject: str, now_ns: int) -> Ban | None:
        """Return the ban of this very subject that is in force."""
        entry = self._entries.get((kind, subject))
        if entry is None or (entry.until_ns and entry.until_ns <= now_ns):
            return None
        return entry.record

    def user_ban(self, user: str, now_ns: int) -> Ban | None:
        """Return the ban of a user that is in force."""
        return self.find(USER, user, now_ns)


def normal_subject(kind: str, subject: str) -> str:
    """Return a subject in the one form in which it is kept.

    Raises:
        ValueError: It is no range of addresses, or no user's id.
    """
    if kind == ADDRESS:
        return normal_network(subject)
    if fault := check_name(subject, MAX_USER_BYTES):
        raise ValueError(fault)
    return subject


def normal_network(text: str) -> str:
    """Return a range as CIDR, with its host bits cleared; IPv4 that is mapped into IPv6 as IPv4.

    Raises:
        ValueError: It is none.
    """
    network = ipaddress.ip_network(text.strip(), strict=False)
    if isinstance(network, ipaddress.IPv6Network):
        if network.network_address.scope_id is not None:
            raise ValueError(f"{text!r} names a zone")
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return f"{mapped}/{network.prefixlen - 96}"
    return str(network)


def site_of(address: str) -> str:
    """Return the range that is one client's: an IPv4 address, or an IPv6 /64."""
    mapped = normal_network(address)
    if mapped.endswith("/128"):
        return normal_network(f"{mapped.removesuffix('128')}{IPV6_SITE_BITS}")
    return mapped
