"""The plain options of Engine.IO."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["POLLING", "WEBSOCKET", "EngineOptions"]

POLLING = "polling"
WEBSOCKET = "websocket"

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Plain options of Engine.IO, filled from the settings.

    Attributes:
        transports: Those that are spoken, of ``polling`` and ``websocket``.
        ping_interval_ms: The longest time between two pings, as clients are told it.
        ping_timeout_ms: Within which a pong has to come, as clients are told it.
        ping_min_ms: Down to which the interval adapts.
        max_payload_bytes: Of the body of a POST.
        upgrade_timeout_ns: From the upgrade of a polling session's WebSocket to the end of its probe.
        cookie: Name of the cookie that carries the session's id; empty: none is set.
        allowed_origins: Besides the server's own; ``*`` allows all.
        credentials: Whether pages of other origins may send cookies along.
        polling_sessions: That may be open at a time; 0: no bound.
        deflate_window_bits: Window that permessage-deflate is negotiated with; 0: it is declined.
    """

    transports: tuple[str, ...] = (POLLING, WEBSOCKET)
    ping_interval_ms: int = 15_000
    ping_timeout_ms: int = 10_000
    ping_min_ms: int = 5_000
    max_payload_bytes: int = 102_400
    upgrade_timeout_ns: int = 10 * NS_PER_S
    cookie: str = ""
    allowed_origins: tuple[str, ...] = ()
    credentials: bool = False
    polling_sessions: int = 0
    deflate_window_bits: int = 12

    @property
    def upgrades(self) -> tuple[str, ...]:
        """What a polling session may go over to."""
        return (WEBSOCKET,) if WEBSOCKET in self.transports else ()
