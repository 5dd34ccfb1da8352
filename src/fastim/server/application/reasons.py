"""Why a connection is gone, as an application is told."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from fastim.errors import CloseCode

__all__ = ["DisconnectReason", "reason_of"]


class DisconnectReason(StrEnum):
    """What ``on_disconnect`` handlers get."""

    CLIENT = "client disconnect"  # it said so
    SERVER = "server disconnect"  # an application's, an operator's or a limit's decision
    PING_TIMEOUT = "ping timeout"
    TRANSPORT_CLOSE = "transport close"  # it is gone without a word
    TRANSPORT_ERROR = "transport error"  # its bytes made no sense
    SHUTDOWN = "server shutting down"


_REASONS: Final[dict[int, DisconnectReason]] = {
    CloseCode.ABNORMAL: DisconnectReason.TRANSPORT_CLOSE,
    CloseCode.NO_STATUS: DisconnectReason.TRANSPORT_CLOSE,
    CloseCode.HEARTBEAT_LOST: DisconnectReason.PING_TIMEOUT,
    CloseCode.DRAINING: DisconnectReason.SHUTDOWN,
    CloseCode.PROTOCOL_ERROR: DisconnectReason.TRANSPORT_ERROR,
    CloseCode.UNSUPPORTED_DATA: DisconnectReason.TRANSPORT_ERROR,
    CloseCode.INVALID_PAYLOAD: DisconnectReason.TRANSPORT_ERROR,
    CloseCode.MESSAGE_TOO_BIG: DisconnectReason.TRANSPORT_ERROR,
}


def reason_of(code: int, clean: bool) -> DisconnectReason:
    """Return the reason for the end of a connection that was closed with a code.

    Args:
        clean: The client closed it.
    """
    if clean:
        return DisconnectReason.CLIENT
    return _REASONS.get(code, DisconnectReason.SERVER)
