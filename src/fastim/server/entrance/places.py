"""Places: which tier a connection gets, and who gives way when all are taken."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from fastim._core.hub import Lane
from fastim.errors import CloseCode, ErrorCode, TurnedAway
from fastim.guard.tiers import RANKS, TIERS, Place, Placement, Rank
from fastim.server.connection import Connection

if TYPE_CHECKING:
    from fastim.server.service import Service

__all__ = ["Places"]

RETRY_WHEN_FULL_MS: Final = (
    5_000,
    15_000,
)  # spread: those that were refused together do not come back together
EVICTED: Final = "evicted: the place was needed by a connection of a higher tier"


class Places:
    """Gives connections their places; the core counts who has one, and knows who has been idle the longest.

    Args:
        service: Whose connections they are.
        placement: Decides.
        random_ms: Draws a pause between two bounds, milliseconds.

    Attributes:
        refused_count: Connections that were refused because the server was full.
        evicted_count: Connections that had to give way.
        lowered_count: Connections that got a lower tier than their token's.
    """

    def __init__(
        self, service: Service, placement: Placement, random_ms: Callable[[int, int], int] = random.randint
    ) -> None:
        self._service = service
        self._hub = service.hub
        self._placement = placement
        self._random_ms = random_ms
        self.refused_count = 0
        self.evicted_count = 0
        self.lowered_count = 0

    def stats(self) -> dict[str, int]:
        """Return the gauges and counters for the metrics."""
        critical, standard, degraded = self._hub.admitted
        return {
            "critical_connections": critical,
            "standard_connections": standard,
            "degraded_connections": degraded,
            "refused_total": self.refused_count,
            "evicted_total": self.evicted_count,
            "lowered_total": self.lowered_count,
        }

    def retry_ms(self) -> int:
        """Return after how long a connection that found no place may come back."""
        return self._random_ms(*RETRY_WHEN_FULL_MS)

    def look(self, tier: str, leaving: Sequence[str] = ()) -> Place:
        """Find the place that a connection whose token names this tier would get now.

        Args:
            tier: Of the token.
            leaving: The tiers of connections that give way to it anyway, by the login policy.

        Raises:
            TurnedAway: There is none for it.
        """
        counts = list(self._hub.admitted)
        for other in leaving:
            counts[RANKS[other]] = max(0, counts[RANKS[other]] - 1)
        place = self._placement.newcomer(RANKS[tier], counts)
        if place is None:
            self.refused_count += 1
            raise TurnedAway(
                CloseCode.FULL, "the server is full", ErrorCode.UNAVAILABLE, retry_after_ms=self.retry_ms()
            )
        self._service.relief.check(place.rank)
        return place

    def reserve(
        self, connection: Connection, tier: str, leaving: Sequence[str], *, replaces: bool
    ) -> Rank | None:
        """Before a session is made: take a place that is free; nobody is driven out for one yet.

        Args:
            connection: Whose hello is served.
            tier: Its token's.
            leaving: See ``look``.
            replaces: It goes on with a live connection's session, and has that one's place then.

        Returns:
            The tier it has a place in; None: ``take`` may find it one.

        Raises:
            TurnedAway: The server is full for it, whatever comes of its hello.
        """
        try:
            place = self.look(tier, leaving)
        except TurnedAway:
            if not replaces:
                raise
            return None
        if place.victim is not None:
            return None
        self._hub.admit(connection.handle, place.rank)
        return place.rank

    def release(self, connection: Connection) -> None:
        """The hello failed: a place that was reserved is free again."""
        self._hub.dismiss(connection.handle)

    def take(self, connection: Connection, tier: str, leaving: Sequence[str], reserved: Rank | None) -> None:
        """Give a connection that has its session the place it reserved, or one that another has to leave.

        Raises:
            TurnedAway: There is none any more.
        """
        rank = reserved
        if rank is None:
            place = self.look(tier, leaving)
            if not self._hub.alive(connection.handle):
                return  # nobody is driven out for one that has gone
            if place.victim is not None:
                self._evict(place.victim)
            rank = place.rank
            self._hub.admit(connection.handle, rank)
        connection.tier = TIERS[rank]
        self.lowered_count += rank != RANKS[tier]

    def change(self, connection: Connection, tier: str) -> None:
        """Move a connection whose new token names another tier: there or lower, or else it keeps its own."""
        rank = self._placement.change(RANKS[tier], RANKS[connection.tier], self._hub.admitted)
        connection.tier = TIERS[rank]
        self.lowered_count += rank > RANKS[tier]

    def _evict(self, rank: Rank) -> None:
        handle = self._hub.idlest(rank)
        victim = self._hub.owner(handle)
        assert isinstance(victim, Connection)
        self.evicted_count += 1
        body = {"reason": "evicted", "retry_after_ms": self.retry_ms()}
        victim.send_event("forced_disconnect", body, Lane.HIGH)
        self._hub.close(handle, CloseCode.EVICTED, EVICTED, self._service.clock_ns())
