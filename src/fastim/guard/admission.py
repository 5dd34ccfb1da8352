"""The steps of letting somebody in, and the counting of what speaks against it.

In this order, each as early as possible: a blocked address (at accept, in the hub; behind a proxy after the
head), connects by address and of all together, the token, the bans of its user. The hub bounds what comes
before the token: connections, frames, bytes, time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from fastim._core.limits import SlidingWindows
from fastim.guard.blocklist import ADDRESS, USER, Ban, BlockList
from fastim.guard.limits import ConnectLimiter, client_network
from fastim.guard.proxies import TrustedProxies

__all__ = ["Admission", "AutoBans", "Offence", "OffenceCounter", "Refused"]

NS_PER_S: Final = 1_000_000_000


class Offence(StrEnum):
    """What is counted against an address or a user; the reason of a ban that comes of it."""

    BAD_TOKEN = "too many bad tokens or protocol errors"
    CONNECTS = "too many connects beyond the limit"
    VIOLATION = "too many packets that were refused"


class Refused(StrEnum):
    """At which step somebody was turned away; each is a counter."""

    BLOCKED = "blocked"
    ADDRESS_LIMIT = "address_limit"
    SERVER_LIMIT = "server_limit"
    PENDING = "pending"
    TOKEN = "token"
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class AutoBans:
    """After how many offences within the window somebody is banned, and for how long; counts, seconds.

    Attributes:
        window_s: In which offences are counted.
        offences: Bad tokens and protocol errors of an address before it is known who is there; 0: never.
        refusals: Connects of an address beyond its limit; 0: never.
        address_s: How long an address is banned; 0: for ever.
        violations: Refused packets of a user; 0: never.
        user_s: How long a user is banned; 0: for ever.
    """

    window_s: float = 60.0
    offences: int = 120
    refusals: int = 3_000
    address_s: float = 600.0
    violations: int = 200
    user_s: float = 600.0


class OffenceCounter:
    """Counts by key in a sliding window and says when it is enough.

    Args:
        enough: From this count on; 0: never.
        window_ns: Length of the window.
    """

    def __init__(self, enough: int, window_ns: int) -> None:
        self._enough = enough
        self._windows = SlidingWindows(enough, window_ns) if enough else None

    def note(self, key: str, now_ns: int) -> bool:
        """Count one; True if that makes it enough, and the count begins anew. **Cost**: O(1)."""
        windows = self._windows
        if windows is None or (not windows.take(key, now_ns) and windows.count(key, now_ns) < self._enough):
            return False
        windows.forget(key)
        return True


class Admission:
    """Decides about connections before they belong to a user.

    **Thread**: the loop's.

    Args:
        blocklist: Who is shut out, and who never is.
        connects: The windows of connects.
        proxies: Whose word about addresses is taken.
        automatic: When offences lead to bans.
        ban: Called with kind, subject, length in seconds (0: for ever) and reason, to ban somebody.
    """

    def __init__(
        self,
        blocklist: BlockList,
        connects: ConnectLimiter,
        proxies: TrustedProxies | None = None,
        automatic: AutoBans | None = None,
        ban: Callable[[str, str, float, str], object] = lambda *_: None,
    ) -> None:
        automatic = automatic or AutoBans()
        window_ns = int(automatic.window_s * NS_PER_S)
        self.blocklist = blocklist
        self.proxies = proxies or TrustedProxies()
        self.ban = ban
        self.refused: Counter[Refused] = Counter(dict.fromkeys(Refused, 0))
        self._connects = connects
        self._automatic = automatic
        self._offences = OffenceCounter(automatic.offences, window_ns)
        self._hammering = OffenceCounter(automatic.refusals, window_ns)
        self._violations = OffenceCounter(automatic.violations, window_ns)
        self._offence_count = 0
        self._violation_count = 0
        self._returned_count = 0

    def _is_exempt(self, address: str) -> bool:
        """Tell whether an address is not bounded: allowed, or a proxy's, which stands for all behind it."""
        return self.blocklist.is_allowed(address) or self.proxies.trusts(address)

    # -- the steps

    def is_blocked(self, address: str, now_ns: int) -> bool:
        """Tell whether an address is shut out, and count it if so."""
        if not self.blocklist.is_blocked(address, now_ns):
            return False
        self.refused[Refused.BLOCKED] += 1
        return True

    def connect(self, address: str, now_ns: int) -> tuple[Refused, int] | None:
        """Count a connect.

        Returns:
            None, or which limit it is over and after how many milliseconds it is welcome.
        """
        exempt = self._is_exempt(address)
        if not exempt and (wait_ms := self._connects.attempt_address(address, now_ns)):
            self.refused[Refused.ADDRESS_LIMIT] += 1
            if self._hammering.note(client_network(address), now_ns):
                self.ban(ADDRESS, address, self._automatic.address_s, Offence.CONNECTS)
            return Refused.ADDRESS_LIMIT, wait_ms
        if wait_ms := self._connects.attempt_all(now_ns):
            if not exempt:
                self._connects.refund_address(address, now_ns)
            self.refused[Refused.SERVER_LIMIT] += 1
            return Refused.SERVER_LIMIT, wait_ms
        return None

    def recognized(self, address: str, connected_ns: int) -> None:
        """A good token came of a connect: it does not count against the address any more.

        So an office behind one address gets in.
        """
        self._returned_count += self._connects.refund_address(address, connected_ns)

    def resumed(self, connected_ns: int) -> None:
        """A connect came back to a session that is known: it does not count at all."""
        self._connects.refund_all(connected_ns)

    def user_ban(self, user: str, now_ns: int) -> Ban | None:
        """Return the ban of a user that is in force, and count it."""
        if (found := self.blocklist.user_ban(user, now_ns)) is not None:
            self.refused[Refused.BANNED] += 1
        return found

    # -- what speaks against somebody

    def offence(self, address: str, now_ns: int) -> None:
        """Count a bad token, or a protocol error before one, against an address."""
        self._offence_count += 1
        if not address or self._is_exempt(address):
            return
        if self._offences.note(client_network(address), now_ns):
            self.ban(ADDRESS, address, self._automatic.address_s, Offence.BAD_TOKEN)

    def violation(self, user: str, address: str, now_ns: int) -> None:
        """Count a packet that was refused against its user, unless it came from an allowed address."""
        self._violation_count += 1
        if address and self.blocklist.is_allowed(address):
            return
        if self._violations.note(user, now_ns):
            self.ban(USER, user, self._automatic.user_s, Offence.VIOLATION)

    def stats(self) -> dict[str, int]:
        """Return the counters, and how many bans are in force."""
        figures = {f"refused_{step.value}_total": count for step, count in self.refused.items()}
        return figures | {
            "bans": len(self.blocklist),
            "offences_total": self._offence_count,
            "violations_total": self._violation_count,
            "slots_returned_total": self._returned_count,
        }
