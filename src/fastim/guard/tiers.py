"""Tiers: how much a connection may ask for, which place it gets, and who gives way to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from fastim._core.hub import Tier as Rank
from fastim.guard.tokens import Tier

__all__ = ["DEFAULT_POLICIES", "RANKS", "TIERS", "Place", "Placement", "Rank", "TierPolicy"]

TIERS: Final = (Tier.CRITICAL, Tier.STANDARD, Tier.DEGRADED)  # by rank
# A token's tier as the core knows it: the smaller, the higher.
RANKS: Final[Mapping[str, Rank]] = {tier: Rank(rank) for rank, tier in enumerate(TIERS)}


@dataclass(frozen=True, slots=True)
class TierPolicy:
    """What the connections of a tier may ask for.

    Attributes:
        connections: At a time; 0: no limit of the tier's own.
        heartbeat_ns: Silence after which a client is pinged at first; 0: never.
        queued_messages: May wait for a connection, at ``message_bytes`` each.
        message_bytes: What a waiting message counts as.
        flush_weight: Against the other tiers when writes wait for each other; at least 1.
        packets_per_second: Of a connection; 0: no limit.
        messages_per_minute: Of a user; 0: no limit.
    """

    connections: int = 0
    heartbeat_ns: int = 30_000_000_000
    queued_messages: int = 500
    message_bytes: int = 1024
    flush_weight: int = 2
    packets_per_second: int = 0
    messages_per_minute: int = 0

    @property
    def outbox_bytes(self) -> int:
        """Bound of a connection's outbox."""
        return self.queued_messages * self.message_bytes


DEFAULT_POLICIES: Final[Mapping[str, TierPolicy]] = {
    Tier.CRITICAL: TierPolicy(connections=10_000, queued_messages=1_000, flush_weight=4),
    Tier.STANDARD: TierPolicy(connections=100_000),
    Tier.DEGRADED: TierPolicy(
        connections=50_000, heartbeat_ns=60_000_000_000, queued_messages=100, flush_weight=1
    ),
}


class Place(NamedTuple):
    """Where a connection goes.

    Attributes:
        rank: The tier it gets.
        victim: The tier whose longest idle connection has to give way first; None: there is room.
    """

    rank: Rank
    victim: Rank | None


class Placement:
    """Decides which tier a connection gets, from how many each has.

    A full tier passes a newcomer on to the next lower one. When all places are taken a connection of the
    lowest tier gives way, but only to a newcomer that gets a higher one: among equals, whoever is driven out
    would come back and drive out the next.

    Args:
        connections: How many each tier takes, by rank; 0: no limit of its own.
        max_connections: How many all take together; 0: no limit.
    """

    __slots__ = ("_connections", "_max_connections")

    def __init__(self, connections: Sequence[int], max_connections: int) -> None:
        self._connections = tuple(connections)
        self._max_connections = max_connections

    def newcomer(self, wanted: Rank, counts: Sequence[int]) -> Place | None:
        """Find a place for a connection that comes.

        Args:
            wanted: Its token's tier.
            counts: How many each tier has now, by rank.

        Returns:
            None if the server is full for it. **Cost**: O(1).
        """
        rank = self._with_room(wanted, counts)
        if rank is None:
            return None
        if not self._max_connections or sum(counts) < self._max_connections:
            return Place(rank, None)
        lowest = max((rank for rank in Rank if counts[rank]), default=Rank.CRITICAL)
        return Place(rank, lowest) if lowest > rank else None

    def change(self, wanted: Rank, current: Rank, counts: Sequence[int]) -> Rank:
        """Find the tier of a connection whose new token names another one.

        It gets the wanted one or the next lower one that has room, and keeps its own where none has.
        """
        if wanted == current:
            return current
        without = [count - (rank == current) for rank, count in enumerate(counts)]
        rank = self._with_room(wanted, without)
        return current if rank is None else rank

    def _with_room(self, wanted: Rank, counts: Sequence[int]) -> Rank | None:
        for rank in Rank:
            limit = self._connections[rank]
            if rank >= wanted and (not limit or counts[rank] < limit):
                return rank
        return None
