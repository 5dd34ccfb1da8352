"""What ``/metrics`` tells of Engine.IO."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastim.server.engineio.refusals import EngineError, EngineRefusal

if TYPE_CHECKING:
    from fastim.server.front.handshake import Refusal

__all__ = ["EngineStats"]


class EngineStats:
    """The counters of all endpoints.

    Attributes:
        polling, websocket: Sessions that are open, by what carries them.
        opened: Sessions that began, by what carried them first.
        upgraded: That went over to WebSocket.
        probes_failed: WebSockets that polling sessions opened and did not go over to.
        polls, posts: Requests of sessions.
        overlaps: Sessions that ended because of two GETs or two POSTs at once.
        aborted: … because a request was given up.
        expired: … because no pong came in time.
    """

    def __init__(self) -> None:
        self.polling = 0
        self.websocket = 0
        self.opened_polling = 0
        self.opened_websocket = 0
        self.upgraded = 0
        self.probes_failed = 0
        self.polls = 0
        self.posts = 0
        self.overlaps = 0
        self.aborted = 0
        self.expired = 0
        self._refused = dict.fromkeys(EngineError, 0)
        self._refused_otherwise = 0

    def refused(self, refusal: Refusal) -> None:
        """Count a request that was not served."""
        if isinstance(refusal, EngineRefusal):
            self._refused[refusal.code] += 1
        else:
            self._refused_otherwise += 1

    def figures(self) -> dict[str, int]:
        """Return the gauges and counters."""
        refused = {f"refused_{code.name.lower()}_total": count for code, count in self._refused.items()}
        return {
            "polling_sessions": self.polling,
            "websocket_sessions": self.websocket,
            "opened_polling_total": self.opened_polling,
            "opened_websocket_total": self.opened_websocket,
            "upgraded_total": self.upgraded,
            "probes_failed_total": self.probes_failed,
            "polls_total": self.polls,
            "posts_total": self.posts,
            "overlaps_total": self.overlaps,
            "aborted_total": self.aborted,
            "expired_total": self.expired,
            **refused,
            "refused_otherwise_total": self._refused_otherwise,
        }
