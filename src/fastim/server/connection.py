"""A connection as the service sees it: the domain's session, and what the service keeps beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from fastim._core.hub import Hub, Lane
from fastim.errors import CloseCode
from fastim.im.session import Session
from fastim.server.application.handlers import NO_ACK
from fastim.wire.native import encode_packet

if TYPE_CHECKING:
    from fastim.server.application.context import Context
    from fastim.server.application.rooms import Room

__all__ = ["Connection", "Phase", "Work"]


class Phase(IntEnum):
    """How far the service has come with a connection."""

    OPENING = 0  # upgraded; only a hello is served
    ENTERING = 1  # a hello is being served
    STARTING = 2  # its ok is queued; the application's async on_connect handlers run, packets wait
    READY = 3
    LEAVING = 4  # it was in and is being closed; nothing of it is served any more
    CLOSED = 5


class Work:
    """What a connection has only while handlers of it run or it was asked something.

    Attributes:
        in_flight: Handlers that have begun and not returned; those that wait for the client do not count.
        unstarted: Tasks that were made and have not run their first step; plain handlers wait for them.
        backlog: Packets that wait, in order.
        paused: The connection is not read until there is room again.
        holds: How often it was, and is read again.
        running: How many handlers have begun and not returned, by event.
        asks: Futures of the questions that the client has not answered, by ref.
    """

    __slots__ = ("asks", "backlog", "holds", "in_flight", "paused", "running", "unstarted")

    def __init__(self) -> None:
        self.in_flight = 0
        self.unstarted = 0
        self.backlog: deque[tuple[str | int | None, Any, int | None]] = deque()
        self.paused = False
        self.holds = 0
        self.running: dict[str | int | None, int] = {}
        self.asks: dict[int, asyncio.Future[Any]] = {}

    @property
    def idle(self) -> bool:
        return not (self.in_flight or self.unstarted or self.backlog or self.asks or self.paused)


class Connection(Session):
    """The owner object of a row in the hub.

    Those of other protocols are of a class derived from it, which says otherwise where it differs:

    - ``recovered``: Whether it is one that its client had before.
    - ``native``: Whether the client speaks the native protocol.
    - ``namespace``: Where it is.
    - ``sid``: By which an application reaches it.
    - ``transport``: ``websocket`` or ``polling``.
    - ``acknowledge``: How a packet is answered.
    - ``is_beside``: Which others are the same client.
    - ``takes_blame``: Which of them answers for what the client did.
    - ``disconnect``: How it ends for good.

    ``extra`` holds the claims of a token from the request's head until the hello.

    Attributes:
        phase: See ``Phase``.
        context: What the application's handlers get; None until the first needs it.
        rooms: The application's rooms that it is in.
        connected_ns: When it came, by which its place in the limits of connects is known; 0 after the hello.
        jti, iat: The token's id and when it was issued, seconds since the epoch; None where it does not say.
        values: The application's own values; None until the first.
        warned: ``token_expiring`` was sent.
        work: See ``Work``; None while there is none.
    """

    __slots__ = ("connected_ns", "context", "iat", "jti", "phase", "rooms", "values", "warned", "work")

    native: ClassVar[bool] = True
    recovered: bool = False
    namespace: str = "/"

    def __init__(self, hub: Hub, handle: int, encoding: int) -> None:
        super().__init__(hub, handle, encoding)
        self.phase: int = Phase.OPENING
        self.context: Context | None = None
        self.values: dict[str, Any] | None = None
        self.rooms: tuple[Room, ...] = ()
        self.connected_ns = 0
        self.warned = False
        self.jti: str | None = None
        self.iat: int | None = None
        self.work: Work | None = None

    @property
    def transport(self) -> str:
        """What carries it: ``websocket`` or ``polling``."""
        return "websocket"

    @property
    def sid(self) -> str:
        """By which an application reaches it; empty until it is in."""
        return self.session_id

    def acknowledge(self, ref: int, result: Any) -> None:
        """Queue the answer of an application's handler: what it returned.

        Raises:
            ValueError: The protocol cannot carry it.
        """
        if result is not NO_ACK:
            self.hub.send(self.handle, encode_packet("ok", result, self.encoding, ref), 1)

    def close(self, code: int, reason: str, now_ns: int) -> bool:
        """Close it, after what was sent to it before; what it has sent already is not served any more.

        Returns:
            False if it is closed already.
        """
        closed = self.hub.close(self.handle, code, reason, now_ns)
        if self.phase < Phase.LEAVING:
            self.phase = Phase.LEAVING if self.phase >= Phase.STARTING else Phase.CLOSED
        return closed

    def is_beside(self, other: object) -> bool:
        """Whether another connection is the same client's, in another namespace."""
        return False

    def takes_blame(self) -> bool:
        """Whether what it was closed for counts against it: once for a client, however many it has."""
        return True

    def disconnect(self, transport: bool, now_ns: int) -> bool:
        """Close it so that the client does not come back by itself.

        Args:
            transport: What it shares with others, too.

        Returns:
            False if it is closed already.
        """
        return self.close(CloseCode.REMOVED, "disconnected by the server", now_ns)

    def send_off(self, code: CloseCode, reason: str, now_ns: int) -> bool:
        """Close it, and tell it why it has to go."""
        self.send_event("forced_disconnect", {"reason": reason}, Lane.HIGH)
        return self.close(code, reason, now_ns)
