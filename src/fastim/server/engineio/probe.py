"""The way from long-polling to WebSocket.

A polling client opens a WebSocket with its session's id and probes it: ``2probe``, which is answered
``3probe``. It stops polling then (an open GET ends with a noop for it) and says ``5``: from there on the
session is carried by the WebSocket. What was queued until then and no GET has taken goes out first. A client
that never says it goes on polling, and its WebSocket is closed after a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode
from fastim.server.engineio.session import TransportOwner
from fastim.wire import engineio as wire

if TYPE_CHECKING:
    from fastim.server.engineio.engine import Engine
    from fastim.server.engineio.session import EngineSession

__all__ = ["Probe", "Stray"]

UPGRADE_PACKET: Final = b"5"


class Probe(TransportOwner):
    """The owner of a WebSocket that a polling session has not gone over to yet.

    Args:
        session: Which may go over.
        handle: Of the WebSocket's row.
    """

    __slots__ = ("_answered", "_ended", "handle", "session")

    def __init__(self, session: EngineSession, handle: int) -> None:
        self.session = session
        self.handle = handle
        self._answered = False
        self._ended = False  # the session is, and the client does not know

    @property
    def _is_over(self) -> bool:
        """Whether it carries the session: what was read along with the upgrade is ours to hand on."""
        return self.session.handle == self.handle

    def on_text(self, data: bytes, now_ns: int) -> int:
        if self._is_over:
            return self.session.on_text(data, now_ns)
        polling = self.session.polling
        if self._ended:
            self._give_up(CloseCode.NORMAL, "the session is over", now_ns)
        elif polling is None or polling.probe is not self:
            pass  # it has been given up
        elif data == wire.PROBE and not self._answered:
            self._answered = True
            hub = self.session.engine.hub
            hub.send_engine(self.handle, wire.PROBE_ANSWER, False)
            hub.flush(now_ns)  # before any request that comes behind the probe is answered
            polling.probed(now_ns)
        elif data == UPGRADE_PACKET and self._answered and not polling.is_posting:
            if not self.session.engine.upgraded(self, now_ns):
                self._give_up(CloseCode.NORMAL, "the session is over", now_ns)
        else:
            self._give_up(CloseCode.PROTOCOL_ERROR, "no probe", now_ns)
        return 1

    def on_binary(self, data: bytes, now_ns: int) -> int:
        if self._is_over:
            return self.session.on_binary(data, now_ns)
        self._give_up(CloseCode.PROTOCOL_ERROR, "no probe", now_ns)
        return 1

    def on_timer(self, now_ns: int) -> None:
        if self._is_over:
            self.session.on_timer(now_ns)
        else:
            self._give_up(CloseCode.NORMAL, "no upgrade in time", now_ns)

    def on_closed(self, code: int, reason: str, clean: bool) -> None:
        if self._is_over:
            self.session.on_closed(code, reason, clean)
        else:
            self._forget()

    def fail(self, now_ns: int) -> None:
        if self._is_over:
            self.session.fail(now_ns)
        else:
            self._give_up(CloseCode.INTERNAL_ERROR, "", now_ns)

    def session_ended(self) -> None:
        """There is nothing left that could go over.

        A client whose probe was answered polls no more, and does not go back to it either if its WebSocket
        closes: it hears of the end when it goes over.
        """
        self._ended = True
        if not self._answered:
            self._give_up(CloseCode.NORMAL, "the session is over", self.session.engine.clock_ns())

    def _give_up(self, code: CloseCode, reason: str, now_ns: int) -> None:
        self.session.engine.hub.close(self.handle, code, reason, now_ns)
        self._forget()

    def _forget(self) -> None:
        polling = self.session.polling
        if polling is not None and polling.probe is self:
            polling.probe_failed()
            self.session.engine.stats.probes_failed += 1


class Stray(TransportOwner):
    """The owner of a row that no session is carried by: a WebSocket too many, or what one has left behind."""

    __slots__ = ("_engine", "handle")

    def __init__(self, engine: Engine, handle: int) -> None:
        self._engine = engine
        self.handle = handle

    def on_text(self, data: bytes, now_ns: int) -> int:
        return 1

    def on_binary(self, data: bytes, now_ns: int) -> int:
        return 1

    def on_timer(self, now_ns: int) -> None:
        pass

    def on_closed(self, code: int, reason: str, clean: bool) -> None:
        pass

    def fail(self, now_ns: int) -> None:
        self._engine.hub.close(self.handle, CloseCode.INTERNAL_ERROR, "", now_ns)
