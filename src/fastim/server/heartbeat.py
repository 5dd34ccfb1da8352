"""The heartbeat as the service sets it: the rules for the core, and what a client is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastim.im.session import Status

if TYPE_CHECKING:
    from fastim._core.hub import Hub
    from fastim.guard.tiers import TierPolicy
    from fastim.server.connection import Connection

__all__ = ["Heartbeat", "HeartbeatOptions"]

NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    """Plain options of the heartbeat.

    Attributes:
        interval_ns: The first interval of every connection; 0: no heartbeat; None: what its tier says.
        min_ns, max_ns: Bounds of the interval; a first interval outside of them moves them.
        timeout_ns: A ping is missed when no byte came for so long.
        misses: So many in a row: 4009.
        fast_ns, slow_ns: A round trip below lengthens the interval by a fifth, one from there on shortens it.
    """

    interval_ns: int | None = None
    min_ns: int = 10 * NS_PER_S
    max_ns: int = 60 * NS_PER_S
    timeout_ns: int = 10 * NS_PER_S
    misses: int = 3
    fast_ns: int = 50 * NS_PER_MS
    slow_ns: int = 200 * NS_PER_MS


class Heartbeat:
    """Begins the heartbeats of connections; the core does the rest.

    Args:
        hub: Whose connections they are; it is told the rules.
        options: See ``HeartbeatOptions``.
        policies: Of all tiers.
    """

    def __init__(self, hub: Hub, options: HeartbeatOptions, policies: Iterable[TierPolicy]) -> None:
        self._hub = hub
        self._interval_ns = options.interval_ns
        bases = [base for base in map(self.interval_ns, policies) if base]
        min_ms = max(1, min([options.min_ns, *bases]) // NS_PER_MS)
        max_ms = max(min_ms, max([options.max_ns, *bases]) // NS_PER_MS)
        hub.set_heartbeat_rules(
            min_ms=min_ms,
            max_ms=max_ms,
            timeout_ns=options.timeout_ns,
            misses=options.misses,
            fast_ns=options.fast_ns,
            slow_ns=options.slow_ns,
        )
        self._longest_silence_ms = max_ms + options.timeout_ns // NS_PER_MS

    def interval_ns(self, policy: TierPolicy) -> int:
        """Return the first interval of a tier's connections; 0: they have no heartbeat."""
        return policy.heartbeat_ns if self._interval_ns is None else self._interval_ns

    def longest_silence_ms(self, policy: TierPolicy) -> int:
        """Return what ``heartbeat_ms`` tells: the longest silence a client should bear; 0: there is no limit.

        The server sends a ping at the latest when the longest interval has passed since the last one, and the
        way may take as long as a pong may.
        """
        return self._longest_silence_ms if self.interval_ns(policy) else 0

    def begin(self, connection: Connection, policy: TierPolicy, now_ns: int) -> None:
        """Begin a connection's heartbeat, or set it to another tier's."""
        interval_ns = self.interval_ns(policy)
        interval_ms = max(1, interval_ns // NS_PER_MS) if interval_ns else 0
        self._hub.set_heartbeat(connection.handle, interval_ms, now_ns)
        self._hub.set_slow_heartbeat(connection.handle, connection.status == Status.AWAY)
