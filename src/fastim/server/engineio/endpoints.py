"""All endpoints of Engine.IO: one for Socket.IO, and an application's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastim.errors import ConfigError
from fastim.server.engineio.engine import Engine
from fastim.server.engineio.stats import EngineStats

if TYPE_CHECKING:
    from fastim.server.engineio.options import EngineOptions
    from fastim.server.engineio.session import EngineProtocol, EngineSession
    from fastim.server.front.front import Front
    from fastim.server.service import Service

__all__ = ["Endpoints"]


class Endpoints:
    """Makes endpoints, and tells the front of them.

    Args:
        service: Whose hub their sessions are in; it is told the rules of their heartbeats.
        front: Where their requests come in.
        options: Of all of them.
    """

    def __init__(self, service: Service, front: Front, options: EngineOptions) -> None:
        self.engines: list[Engine] = []
        self._service = service
        self._front = front
        self._options = options
        self._stats = EngineStats()
        service.hub.set_engine_heartbeat_rules(
            interval_ms=options.ping_interval_ms,
            timeout_ms=options.ping_timeout_ms,
            min_ms=min(options.ping_min_ms, options.ping_interval_ms),
        )
        service.figures["engineio"] = self._stats.figures

    def alone(self) -> list[EngineSession]:
        """Return the open sessions that carry no connection of the service: bare ones, and newcomers."""
        return [
            session
            for engine in self.engines
            for session in engine.sessions.values()
            if not engine.protocol.carries(session)
        ]

    def add(self, path: str, protocol: EngineProtocol) -> Engine:
        """Serve a path, with a slash at its end and without.

        Raises:
            ConfigError: It is another's already.
        """
        engine = Engine(self._service, self._front, self._options, protocol, self._stats)
        bare = path.rstrip("/").encode()
        for name in (bare, bare + b"/"):
            if name in self._front.routes or name == self._front.path:
                raise ConfigError("engineio.path", f"{path} is served by another part already")
            self._front.routes[name] = engine.serve
        self.engines.append(engine)
        return engine
