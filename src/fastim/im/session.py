"""The session: one authenticated client connection, the owner object of its row in the hub."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from fastim._core.hub import Hub, Lane
from fastim.errors import LimitExceeded, RequestError
from fastim.wire.native import encode_packet, is_answer

if TYPE_CHECKING:
    from fastim.im.user import User

__all__ = ["Session", "SessionState", "Status"]


class SessionState(IntEnum):
    """How far a connection has come."""

    NEW = 0  # upgraded; no hello yet
    ATTACHED = 1  # hello accepted; its ok is being queued
    LIVE = 2  # ``begin`` was called: replay runs or is over, new messages arrive
    GONE = 3  # detached; nothing is sent any more


class Status(IntEnum):
    """Presence of a device, and of a user over the devices: the greatest counts."""

    OFFLINE = 0
    AWAY = 1
    ONLINE = 2
    BUSY = 3


class Session:
    """One client connection, from the upgrade to the close.

    Made by the service at the upgrade, with the hub's handle; filled by ``Messaging.attach``. What few
    connections need (replay, acknowledgements, subscriptions) lives beside it: an idle one stays small.

    Attributes:
        hub, handle, encoding: The connection's row in the hub.
        user: Who it is; None before ``attach``.
        device, device_class, tier, scope, exp: From the token and the hello. ``exp`` is in seconds since the
            epoch and belongs to the service, which moves it on ``refresh``.
        session_id: By which the session can be resumed; empty before ``attach``.
        cursors: What the device has acknowledged (``Cursors``); None: only the store knows.
        acks: The client acknowledges and wants what it did not acknowledge sent again.
        status, metadata: Presence of this device; metadata is an encoded value or None.
        origin: Under what its messages are stored; None: its connection cannot be recovered.
        replay: Where the replay starts until ``begin``, then the replay while one is on.
        extra: The service's own, untouched here.
    """

    __slots__ = (
        "acks",
        "cursors",
        "device",
        "device_class",
        "encoding",
        "exp",
        "extra",
        "handle",
        "hub",
        "metadata",
        "replay",
        "scope",
        "session_id",
        "state",
        "status",
        "tier",
        "user",
    )

    origin: str | None = None  # an attribute of those few that need one

    def __init__(self, hub: Hub, handle: int, encoding: int) -> None:
        self.hub = hub
        self.handle = handle
        self.encoding = encoding
        self.user: User | None = None
        self.device = ""
        self.device_class = ""
        self.tier = "standard"
        self.scope: tuple[str, ...] | frozenset[str] = ()
        self.exp = 0
        self.session_id = ""
        self.cursors: Any = None
        self.acks = False
        self.status: int = Status.ONLINE
        self.metadata: Any = None
        self.state: int = SessionState.NEW
        self.replay: Any = None
        self.extra: Any = None

    @property
    def user_id(self) -> str:
        """The user's public id; empty before ``attach``."""
        return self.user.id if self.user is not None else ""

    def send_event(self, event: str, body: Any, lane: int = Lane.NORMAL) -> bool:
        """Queue a packet that wants no answer; False if the connection is gone."""
        return self.hub.send(self.handle, encode_packet(event, body, self.encoding), lane)

    def answer(self, ref: int | None, body: Any) -> bool:
        """Queue the ``ok`` of a request; a packet without ``ref`` gets none."""
        if ref is None:
            return False
        return self.hub.send(self.handle, encode_packet("ok", body, self.encoding, ref), Lane.NORMAL)

    def fail(self, ref: int | None, event: str, error: RequestError) -> bool:
        """Queue the ``error`` of a request, or of a packet without ``ref``, which is named by its event."""
        body: dict[str, Any] = {"code": error.code.value, "message": error.message}
        if isinstance(error, LimitExceeded):
            body["retry_after_ms"] = error.retry_after_ms
        if not is_answer(ref):
            body["event"] = event
        return self.hub.send(self.handle, encode_packet("error", body, self.encoding, ref), Lane.HIGH)
