"""Long-polling: the requests of a session, one GET and one POST at a time.

What a session is sent waits in the outbox of its row, which has no socket. A GET takes all of it, or is held
until there is something.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NoReturn

from fastim.errors import CloseCode
from fastim.server.engineio.posting import Posting
from fastim.server.engineio.refusals import EngineError, EngineRefusal
from fastim.server.front.handshake import Refusal
from fastim.wire import engineio as wire

if TYPE_CHECKING:
    from fastim.server.engineio.exchange import Exchange
    from fastim.server.engineio.probe import Probe
    from fastim.server.engineio.session import EngineSession
    from fastim.server.front.requests import HttpRequest

__all__ = ["Polling"]

log = logging.getLogger("fastim.engineio")

NOOP_EVERY_NS: Final = 100_000_000  # while a probe is on: a client that has not seen its answer polls on
NOOP_PACKET: Final = b"6"
BYTES_TYPE: Final = b"application/octet-stream"
# What has waited for one of these is not for a client that comes after all.
_TOO_LATE: Final = frozenset({CloseCode.HEARTBEAT_LOST, CloseCode.SLOW_CONSUMER, CloseCode.ABNORMAL})


class Polling:
    """The requests of a session that polls; the bridge of its row.

    Args:
        session: Whose requests they are.
        handle: Of its row.

    Attributes:
        probe: The WebSocket by which the client tries to go over; None: there is none.
    """

    __slots__ = ("_get", "_handle", "_is_closed", "_last_packet", "_noop_ns", "_posting", "_session", "probe")

    def __init__(self, session: EngineSession, handle: int) -> None:
        self.probe: Probe | None = None
        self._session = session
        self._handle = handle
        self._get: Exchange | None = None
        self._posting: Posting | None = None
        self._noop_ns = 0  # when a poll is answered though there is nothing to say; 0: it waits
        self._is_closed = False  # and the session has heard of it
        self._last_packet = wire.CLOSE_PACKET  # what an open GET is told at the end

    @property
    def is_posting(self) -> bool:
        """Whether a POST is not answered yet."""
        return self._posting is not None

    def is_expired(self, now_ns: int) -> bool:
        """Tell whether the time for a pong is over; the session ends with it."""
        engine = self._session.engine
        if not engine.hub.is_expired(self._handle, now_ns):
            return False
        self.end(CloseCode.HEARTBEAT_LOST, "no pong in time", now_ns)
        return True

    # -- GET: what the session is sent

    def get(self, exchange: Exchange, now_ns: int) -> None:
        """Serve a GET.

        Raises:
            EngineRefusal: It is one too many; the session ends with it.
        """
        if self._get is not None:
            self._overlap("two polls at once", now_ns)
        self._get = exchange
        self._answer_get(now_ns)
        if self._get is not None and not exchange.request.hold(self._get_aborted):
            self._get = None
            self.aborted()

    def _overlap(self, reason: str, now_ns: int) -> NoReturn:
        self._session.engine.stats.overlaps += 1
        self.end(CloseCode.PROTOCOL_ERROR, reason, now_ns)
        raise EngineRefusal(EngineError.BAD_REQUEST)

    def _answer_get(self, now_ns: int) -> None:
        """Answer the open GET if there is something to say."""
        engine = self._session.engine
        payload = engine.hub.take_payload(self._handle)
        if payload or not engine.hub.alive(self._handle):
            self._say(payload or self._last_packet)
            self._finish()
        elif self._noop_ns and now_ns >= self._noop_ns:
            self._noop_ns = now_ns + NOOP_EVERY_NS
            self._say(NOOP_PACKET)
        elif self._noop_ns:
            engine.service.waiting.later(self)

    def _say(self, payload: bytes) -> None:
        exchange, self._get = self._get, None
        if exchange is not None and not exchange.answer(payload):
            self.aborted()

    def _get_aborted(self, _: HttpRequest) -> None:
        self._get = None
        self.aborted()

    def aborted(self) -> None:
        """The client gave a request up, or lost it: what was on its way may be lost, so the session ends."""
        engine = self._session.engine
        engine.stats.aborted += 1
        self.end(CloseCode.ABNORMAL, "", engine.clock_ns())

    # -- POST: what the client sends

    def post(self, exchange: Exchange, now_ns: int) -> None:
        """Serve a POST.

        Raises:
            Refusal: It is one too many, or its body is not served. The session ends with it, unless it was
                only too large.
        """
        if self._posting is not None:
            self._overlap("two posts at once", now_ns)
        media_type = exchange.request.fields.get(b"content-type", b"")
        if media_type.partition(b";")[0].strip().lower() == BYTES_TYPE:
            self.end(CloseCode.UNSUPPORTED_DATA, "a payload of bytes", now_ns)
            raise EngineRefusal(EngineError.BAD_REQUEST, "Bytes are posted as base64.")
        self._posting = posting = Posting(self, self._session, exchange)
        try:
            posting.read()
        except Refusal:
            self._posting = None
            raise

    def posted(self) -> None:
        """The POST has been served."""
        posting, self._posting = self._posting, None
        if posting is not None:
            posting.answer()

    def refuse_post(self) -> None:
        """Answer the POST, if there is one, that it is not served."""
        posting, self._posting = self._posting, None
        if posting is not None:
            posting.refuse()

    def go_on(self, now_ns: int) -> None:
        """Go on with what had to wait, as far as that is possible now."""
        try:
            if self._get is not None and self._noop_ns:
                self._answer_get(now_ns)
            if self._posting is not None:
                self._posting.serve(now_ns)
        except Exception:
            log.exception("a post could not be served")
            self.end(CloseCode.INTERNAL_ERROR, "", now_ns)

    # -- over to WebSocket

    def probed(self, now_ns: int) -> None:
        """The probe is being answered: an open GET ends, so that the client can go over."""
        self._noop_ns = now_ns
        if self._get is not None:
            self._answer_get(now_ns)

    def probe_failed(self) -> None:
        """The probe came to nothing: polling goes on."""
        self.probe = None
        self._noop_ns = 0

    def leave(self) -> bytes:
        """The session goes over: return what no GET has taken."""
        self.probe = None
        payload = self._session.engine.hub.take_payload(self._handle)
        exchange, self._get = self._get, None
        if exchange is not None:
            exchange.answer(NOOP_PACKET)
        return payload

    # -- the end

    def pump(self) -> None:
        """There is something to say, or the row has come to its end."""
        if self._get is not None:
            self._answer_get(self._session.engine.clock_ns())
        self._finish()

    def closed(self, code: int) -> None:
        """The session has heard that its row is closed.

        What it was sent before may be taken yet, unless it has waited for too long.
        """
        self._is_closed = True
        if code in _TOO_LATE:
            self._session.engine.hub.take_payload(self._handle)
            self._session.engine.forget_sid(self._session)
        if self.probe is not None:
            self.probe.session_ended()
        self.pump()

    def left_by_client(self, now_ns: int) -> None:
        """The client said that it is over: an open GET is told nothing more than that it may go."""
        posting, self._posting = self._posting, None
        self._last_packet = NOOP_PACKET
        self.end(CloseCode.NO_STATUS, "", now_ns)
        self._posting = posting

    def end(self, code: int, reason: str, now_ns: int) -> None:
        """End the session at once: what it has not taken is thrown away."""
        engine = self._session.engine
        if code == CloseCode.ABNORMAL:
            engine.hub.abort(self._handle)
        else:
            engine.hub.close(self._handle, code, reason, now_ns)
        engine.hub.take_payload(self._handle)
        engine.forget_sid(self._session)
        self._tell_the_end()

    def _finish(self) -> None:
        """Let the row go if it has come to its end, and nobody has to be told anything."""
        engine = self._session.engine
        if self._is_closed and engine.hub.take_finished(self._handle):
            engine.service.bridges.pop(self._handle, None)
            engine.forget_sid(self._session)
            self._tell_the_end()

    def _tell_the_end(self) -> None:
        exchange, self._get = self._get, None
        if exchange is not None:
            exchange.answer(self._last_packet)
        self.refuse_post()
