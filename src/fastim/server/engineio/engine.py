"""An endpoint of Engine.IO: its requests, its sessions, and the checks before one begins."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode
from fastim.server.engineio.cors import Cors, Fields
from fastim.server.engineio.exchange import Exchange
from fastim.server.engineio.options import POLLING, WEBSOCKET, EngineOptions
from fastim.server.engineio.polling import Polling
from fastim.server.engineio.probe import Probe, Stray
from fastim.server.engineio.query import Query, parse_query
from fastim.server.engineio.refusals import EngineError, EngineRefusal
from fastim.server.engineio.session import EngineProtocol, EngineSession, TransportOwner
from fastim.server.engineio.stats import EngineStats
from fastim.server.front import handshake
from fastim.server.front.handshake import Head, Refusal
from fastim.wire import engineio as wire

if TYPE_CHECKING:
    from fastim.server.front.front import Front
    from fastim.server.front.requests import HttpRequest
    from fastim.server.service import Service

__all__ = ["Engine"]

SID_BYTES: Final = 15  # 20 characters
NO_JSONP: Final = "JSONP is not spoken: use XHR, fetch or WebSocket."


class Engine:
    """An endpoint.

    Args:
        service: Whose hub its sessions are in.
        front: Says whether a newcomer may come in.
        options: See ``EngineOptions``.
        protocol: What speaks over its sessions.
        stats: Shared by all endpoints.

    Attributes:
        sessions: By their ids.
    """

    def __init__(
        self,
        service: Service,
        front: Front,
        options: EngineOptions,
        protocol: EngineProtocol,
        stats: EngineStats,
    ) -> None:
        self.service = service
        self.hub = service.hub
        self.clock_ns: Callable[[], int] = service.clock_ns
        self.options = options
        self.protocol = protocol
        self.stats = stats
        self.sessions: dict[str, EngineSession] = {}
        self._front = front
        self._cors = Cors(options.allowed_origins, options.credentials)

    # -- HTTP

    def serve(self, request: HttpRequest) -> None:
        """Serve an HTTP request."""
        exchange = Exchange(request, (), self.stats)
        try:
            fields = self._cors.preflight(request.fields) if request.method == b"OPTIONS" else None
            if fields is not None:
                request.reply(204, headers=fields)
                return
            exchange = Exchange(request, self._cors.fields(request.fields), self.stats)
            self._serve(exchange, parse_query(request.query), self.clock_ns())
        except Refusal as refusal:
            refusals = self._front.refusal_log
            refusals.refused(refusal, request.peer)
            if isinstance(refusal, EngineRefusal) and refusal.code is EngineError.FORBIDDEN:
                refusals.origin_refused(request.fields[b"origin"], self.clock_ns())
            exchange.refuse(refusal)

    def _serve(self, exchange: Exchange, query: Query, now_ns: int) -> None:
        request = exchange.request
        if handshake.wants_upgrade(request.head):
            self._upgrade(request, query, now_ns)
            return
        self._check_transport(query)
        if not query.sid:
            self._check_handshake(query, request.method, POLLING)
            self._open_polling(exchange, now_ns)
            return
        session = self._session(query)
        polling = session.polling
        if polling is None or query.transport != POLLING.encode():
            raise EngineRefusal(EngineError.BAD_REQUEST)
        if polling.is_expired(now_ns):
            raise EngineRefusal(EngineError.UNKNOWN_SID)
        if not self.hub.is_pending(session.handle):
            request.authenticated()
        if request.method == b"GET":
            self.stats.polls += 1
            polling.get(exchange, now_ns)
        elif request.method == b"POST":
            self.stats.posts += 1
            polling.post(exchange, now_ns)
        else:
            raise EngineRefusal(EngineError.BAD_REQUEST)

    # -- the checks, in the order of the reference implementation

    def _check_transport(self, query: Query) -> None:
        if query.transport.decode("latin-1") not in self.options.transports:
            raise EngineRefusal(EngineError.UNKNOWN_TRANSPORT)
        if query.is_jsonp:
            raise EngineRefusal(EngineError.BAD_REQUEST, NO_JSONP)

    def _session(self, query: Query) -> EngineSession:
        session = self.sessions.get(query.sid.decode("latin-1"))
        if session is None:
            raise EngineRefusal(EngineError.UNKNOWN_SID)
        if query.version != wire.VERSION:
            raise EngineRefusal(EngineError.UNSUPPORTED_VERSION)
        return session

    def _check_handshake(self, query: Query, method: bytes, transport: str) -> None:
        if method != b"GET":
            raise EngineRefusal(EngineError.BAD_HANDSHAKE_METHOD)
        if query.transport.decode("latin-1") != transport:
            raise EngineRefusal(EngineError.BAD_REQUEST)
        if query.version != wire.VERSION:
            raise EngineRefusal(EngineError.UNSUPPORTED_VERSION)

    # -- a session's beginning

    def _new_session(self, head: Head, now_ns: int) -> EngineSession:
        return EngineSession(self, secrets.token_urlsafe(SID_BYTES), head, now_ns)

    def _open_packet(self, session: EngineSession, upgrades: tuple[str, ...]) -> bytes:
        options = self.options
        return wire.open_packet(
            session.sid,
            upgrades,
            options.ping_interval_ms,
            options.ping_timeout_ms,
            options.max_payload_bytes,
        )

    def _cookie(self, session: EngineSession) -> Fields:
        name = self.options.cookie
        return (("Set-Cookie", f"{name}={session.sid}; Path=/; HttpOnly; SameSite=Lax"),) if name else ()

    def _open_polling(self, exchange: Exchange, now_ns: int) -> None:
        request, options = exchange.request, self.options
        self._front.admit(request.peer, now_ns)
        if options.polling_sessions and self.stats.polling >= options.polling_sessions:
            raise Refusal(503, "Too many sessions poll.", (("Retry-After", "1"),))
        session = self._new_session(request.head, now_ns)
        session.handle = self.hub.open_polling(request.peer, session, now_ns)
        if not session.handle:
            raise Refusal(503, "Too many sessions are open.", (("Retry-After", "1"),))
        session.polling = Polling(session, session.handle)
        self.service.bridges[session.handle] = session.polling
        self.sessions[session.sid] = session
        self.stats.polling += 1
        self.stats.opened_polling += 1
        self.hub.set_heartbeat(session.handle, options.ping_interval_ms, now_ns)
        exchange.answer(self._open_packet(session, options.upgrades), self._cookie(session))
        self.protocol.opened(session, now_ns)

    # -- WebSocket

    def _upgrade(self, request: HttpRequest, query: Query, now_ns: int) -> None:
        handle, head = request.handle, request.head
        self._check_transport(query)
        if not query.sid:
            self._check_handshake(query, head.method, WEBSOCKET)
            self._front.admit(request.peer, now_ns)
            session = self._new_session(head, now_ns)
            if self._shake_hands(handle, head, session, self._cookie(session)):
                self._opened(session, handle, now_ns)
            return
        session = self._session(query)
        if query.transport != WEBSOCKET.encode():
            raise EngineRefusal(EngineError.BAD_REQUEST)
        polling = session.polling
        if polling is None or polling.probe is not None:
            # Opened and closed again: what clients know of the reference implementation, which does so.
            self._shake_hands(handle, head, Stray(self, handle))
            self.hub.close(handle, CloseCode.NO_STATUS, "", now_ns)
            return
        if polling.is_expired(now_ns):
            raise EngineRefusal(EngineError.UNKNOWN_SID)
        probe = Probe(session, handle)
        if not self._shake_hands(handle, head, probe, (), now_ns + self.options.upgrade_timeout_ns):
            return
        if not self.hub.is_pending(session.handle):
            # What comes right behind the upgrade is read, and counted, before the upgrade is served.
            self.hub.authenticated(handle)
        polling.probe = probe

    def _shake_hands(
        self, handle: int, head: Head, owner: TransportOwner, more: Fields = (), deadline_ns: int = 0
    ) -> bool:
        """Open a WebSocket; False if the client has gone.

        Raises:
            Refusal: Its opening handshake is not right.
        """
        key = handshake.check_upgrade(head)
        offered = head.fields.get(b"sec-websocket-extensions")
        deflate = handshake.negotiate_deflate(offered, self.options.deflate_window_bits)
        protocol = handshake.first_subprotocol(head.fields.get(b"sec-websocket-protocol"))
        return self.hub.upgrade(
            handle,
            handshake.accept_response(key, protocol, deflate, more),
            owner,
            deflate=deflate is not None,
            deadline_ns=deadline_ns,
            engine=True,
        )

    def _opened(self, session: EngineSession, handle: int, now_ns: int) -> None:
        session.handle = handle
        self.sessions[session.sid] = session
        self.stats.websocket += 1
        self.stats.opened_websocket += 1
        self.hub.send_engine(handle, self._open_packet(session, ()), False)
        self.hub.set_heartbeat(handle, self.options.ping_interval_ms, now_ns)
        self.protocol.opened(session, now_ns)

    def upgraded(self, probe: Probe, now_ns: int) -> bool:
        """A polling session goes over to its probe's WebSocket; False: it is being closed, and does not."""
        session, hub = probe.session, self.hub
        polling, before = session.polling, session.handle
        assert polling is not None
        if not hub.move_channels(before, probe.handle):
            return False
        rest = polling.leave()
        hub.set_timer(probe.handle, 0)
        session.handle, session.polling = probe.handle, None
        hub.abort(before)
        hub.take_finished(before)
        del self.service.bridges[before]
        hub.send_payload(probe.handle, rest)
        self.stats.polling -= 1
        self.stats.websocket += 1
        self.stats.upgraded += 1
        self.protocol.moved(session, now_ns)
        return True

    # -- a session's end

    def closed(self, session: EngineSession, code: int) -> None:
        """A session is over; one that polls may have something to take yet, and is known until then."""
        self.stats.expired += code == CloseCode.HEARTBEAT_LOST
        if session.polling is None:
            self.stats.websocket -= 1
            self.forget_sid(session)
        else:
            self.stats.polling -= 1
            session.polling.closed(code)

    def forget_sid(self, session: EngineSession) -> None:
        """Know a session no more."""
        self.sessions.pop(session.sid, None)
