"""An Engine.IO session: what lives from the handshake to the end, whatever it is carried by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from fastim.errors import CloseCode, ProtocolError
from fastim.server.engineio.options import POLLING, WEBSOCKET
from fastim.wire import engineio as wire

if TYPE_CHECKING:
    from fastim.server.engineio.engine import Engine
    from fastim.server.engineio.polling import Polling
    from fastim.server.front.handshake import Head

__all__ = ["EngineProtocol", "EngineSession", "TransportOwner"]


class EngineProtocol(Protocol):
    """What speaks over Engine.IO: Socket.IO, or an application's own.

    Its calls come on the loop's thread, one at a time. What it sends within one is written after it.
    """

    def opened(self, session: EngineSession, now_ns: int) -> None:
        """A session began; its open packet is on its way. Until the hub is told that it is ``authenticated``
        what it may send is bounded, and its timer is the protocol's to set.
        """

    def received(self, session: EngineSession, data: bytes, binary: bool, now_ns: int) -> int:
        """A message came: text (valid UTF-8) or bytes. Returns how many packets of the protocol it held."""

    def on_timer(self, session: EngineSession, now_ns: int) -> None:
        """What the protocol set the session's timer for is due."""

    def moved(self, session: EngineSession, now_ns: int) -> None:
        """The session went over from long-polling to WebSocket, whose row has no timer yet."""

    def carries(self, session: EngineSession) -> bool:
        """Tell whether it carries connections of the service, which end before it when the server does."""

    def closed(self, session: EngineSession, code: int, reason: str, clean: bool) -> None:
        """The session is over; exactly one call for each that was opened, the last."""


class TransportOwner:
    """What owns a row of the hub that speaks Engine.IO: its events come here."""

    __slots__ = ()

    def on_text(self, data: bytes, now_ns: int) -> int:
        """Serve a text message; returns how many packets it held."""
        raise NotImplementedError

    def on_binary(self, data: bytes, now_ns: int) -> int:
        """Serve a binary message; returns how many packets it held."""
        raise NotImplementedError

    def on_timer(self, now_ns: int) -> None:
        """The row's timer is due."""
        raise NotImplementedError

    def on_closed(self, code: int, reason: str, clean: bool) -> None:
        """The row is gone."""
        raise NotImplementedError

    def fail(self, now_ns: int) -> None:
        """Close it: serving it failed, by a mistake of ours."""
        raise NotImplementedError


BLAMED: Final = -1


class EngineSession(TransportOwner):
    """A session.

    Attributes:
        engine: The endpoint it belongs to.
        sid: Its id, by which requests name it; a secret of its client. Empty once none does.
        handle: Of the row that carries it now.
        polling: Its requests, while it polls.
        head: Of the handshake, until ``forget_head``.
        connected_ns: When that came, by which its place in the limits of connects is known; 0 as soon as who
            is there is known, ``BLAMED`` once a stranger was closed.
        sockets: The protocol's own.
    """

    __slots__ = ("connected_ns", "engine", "handle", "head", "polling", "sid", "sockets")

    def __init__(self, engine: Engine, sid: str, head: Head, now_ns: int) -> None:
        self.engine = engine
        self.sid = sid
        self.handle = 0
        self.polling: Polling | None = None
        self.head: Head | None = head
        self.connected_ns = now_ns
        self.sockets: object = None

    @property
    def transport(self) -> str:
        """What carries it: ``polling`` or ``websocket``."""
        return WEBSOCKET if self.polling is None else POLLING

    @property
    def address(self) -> str:
        """Who is there, behind the proxies; empty once it is gone."""
        return self.engine.hub.peer(self.handle)

    def forget_head(self) -> None:
        """Let the handshake's head go: nobody asks for it any more."""
        self.head = None
        self.connected_ns = 0

    def forget_sid(self) -> None:
        """Let the id go as well, over WebSocket, where no request names it: what is idle should be small."""
        if self.polling is None:
            self.engine.forget_sid(self)
            self.sid = ""

    # -- out

    def send(self, data: bytes, binary: bool) -> bool:
        """Send a message; False if it is gone, or has to go for what it has not taken."""
        return self.engine.hub.send_engine(self.handle, data if binary else b"4" + data, binary)

    def close(self, code: int, reason: str) -> bool:
        """Close it, after what was sent to it before; False if it is closed already."""
        self._speak_against(code)
        return self.engine.hub.close(self.handle, code, reason, self.engine.clock_ns())

    def fail(self, now_ns: int) -> None:
        self.engine.hub.close(self.handle, CloseCode.INTERNAL_ERROR, "", now_ns)

    # -- in

    def on_text(self, data: bytes, now_ns: int) -> int:
        try:
            return self.take(data, now_ns)
        except ProtocolError as error:
            self.close(error.code, error.reason)
            return 1

    def on_binary(self, data: bytes, now_ns: int) -> int:
        return self.engine.protocol.received(self, data, True, now_ns)

    def take(self, packet: bytes, now_ns: int) -> int:
        """Serve a packet of text, whatever carried it; returns how many packets it held for what is above.

        Raises:
            ProtocolError: It is none.
        """
        kind = packet[0] if packet else 0
        if kind == wire.MESSAGE:
            return self.engine.protocol.received(self, packet[1:], False, now_ns)
        if kind == wire.BINARY:
            return self.engine.protocol.received(self, wire.decode_binary(packet), True, now_ns)
        if kind == wire.CLOSE:
            self.engine.hub.close(self.handle, CloseCode.NO_STATUS, "", now_ns)
        elif kind == wire.PING:
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "only the server pings")
        elif kind not in (wire.OPEN, wire.PONG, wire.UPGRADE, wire.NOOP):
            raise ProtocolError(CloseCode.PROTOCOL_ERROR, "no packet of Engine.IO")
        return 1

    def on_timer(self, now_ns: int) -> None:
        self.engine.protocol.on_timer(self, now_ns)

    def on_closed(self, code: int, reason: str, clean: bool) -> None:
        if not clean:
            self._speak_against(code)
        self.engine.closed(self, code)
        self.engine.protocol.closed(self, code, reason, clean)

    def _speak_against(self, code: int) -> None:
        """Let what a stranger is closed with count against its address: once, and while that is known."""
        if self.connected_ns > 0 and self.engine.hub.is_pending(self.handle):
            self.engine.service.stranger_closed(code, self.address)
            self.connected_ns = BLAMED
