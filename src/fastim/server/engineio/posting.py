"""A POST of a session that polls: what its client sends.

Its packets are served as WebSocket messages are: not while the session is paused, not more at once than a
turn of the loop may take. Who is over its rate gets the answer later, so that the next POST, which waits for
the answer, comes later too. As long as a POST is on its way, or waits for its answer, its client can send
nothing else, no pong either: it is not taken for gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from fastim.errors import ProtocolError
from fastim.server.engineio.refusals import EngineError, EngineRefusal
from fastim.wire import engineio as wire

if TYPE_CHECKING:
    from fastim.server.engineio.exchange import Exchange
    from fastim.server.engineio.polling import Polling
    from fastim.server.engineio.session import EngineSession
    from fastim.server.front.requests import HttpRequest

__all__ = ["Posting"]

PACKETS_A_TURN: Final = 128  # of one POST; the others' come first then


class Posting:
    """A POST that is not answered yet.

    Args:
        polling: The requests of the session that it is one of.
        session: The session.
        exchange: The request.
    """

    __slots__ = ("_exchange", "_handle", "_is_stopping", "_packets", "_polling", "_ready_ns", "_session")

    def __init__(self, polling: Polling, session: EngineSession, exchange: Exchange) -> None:
        self._polling = polling
        self._session = session
        self._handle = session.handle
        self._exchange = exchange
        self._packets: Iterator[bytes] | None = None  # None until the body has come
        self._ready_ns = 0  # it is not answered before
        self._is_stopping = False  # the session is paused because of it

    def read(self) -> None:
        """Read its body, and serve it.

        Raises:
            Refusal: It is not read.
        """
        request, engine = self._exchange.request, self._session.engine
        request.read_body(engine.options.max_payload_bytes, self._received, self._aborted)
        if self._packets is None:
            self._stop()

    def _aborted(self, _: HttpRequest) -> None:
        """Its client has gone: a part of it is missing, or nobody waits for the answer."""
        self._polling.aborted()

    def _received(self, _: HttpRequest, payload: bytes) -> None:
        """Serve its body, which has come."""
        self._go_on()
        hub, now_ns = self._session.engine.hub, self._session.engine.clock_ns()
        if not hub.alive(self._handle):
            self._polling.posted()  # nobody listens any more, as the next GET says
            return
        try:
            self._packets = wire.split_payload(payload)
        except ProtocolError as error:
            self._polling.end(error.code, error.reason, now_ns)
            return
        count, pong = wire.packet_count(payload), wire.has_pong(payload)
        wait_ns = hub.receive_polled(self._handle, count, len(payload), pong, now_ns)
        if wait_ns < 0:  # it has been closed for it
            self._polling.refuse_post()
            return
        self._ready_ns = now_ns + wait_ns
        self.serve(now_ns)

    def serve(self, now_ns: int) -> None:
        """Serve packets, and answer behind the last; what has to wait comes here again."""
        session, packets = self._session, self._packets
        hub, waiting = session.engine.hub, session.engine.service.waiting
        if packets is None:  # ``_received`` comes
            return
        if self._is_stopping:
            if now_ns < self._ready_ns:
                waiting.later(self._polling)
                return
            self._go_on()
        for _ in range(PACKETS_A_TURN):
            if hub.is_paused(self._handle):
                waiting.later(self._polling)
                return
            packet = next(packets, None) if hub.alive(self._handle) else None
            if packet is None:
                break
            if packet.startswith(wire.CLOSE_PACKET):
                self._polling.left_by_client(now_ns)
                break
            session.engine.service.posted += 1
            try:
                session.take(packet, now_ns)
            except ProtocolError as error:
                self._polling.end(error.code, error.reason, now_ns)
                return
        else:
            waiting.soon(self._polling)
            session.engine.service.poll_soon()
            return
        if now_ns >= self._ready_ns:
            self._polling.posted()
            return
        self._stop()
        waiting.later(self._polling)
        # That may be long, and a session that is paused is not taken for gone.
        if not self._exchange.request.hold(self._aborted):
            self._polling.aborted()

    def answer(self) -> None:
        """Answer that all of it has been taken."""
        self._exchange.answer_post()

    def refuse(self) -> None:
        """Answer that it is not served."""
        self._exchange.refuse(EngineRefusal(EngineError.BAD_REQUEST))

    def _stop(self) -> None:
        """Pause the session, which nothing comes from while this waits."""
        hub = self._session.engine.hub
        if not hub.is_paused(self._handle):
            self._is_stopping = hub.pause(self._handle)

    def _go_on(self) -> None:
        if self._is_stopping:
            self._is_stopping = False
            self._session.engine.hub.resume(self._handle)
