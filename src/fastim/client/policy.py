"""What a client does after its connection ended: come back, with what, or not at all."""

from __future__ import annotations

from enum import Enum, auto

from websockets.exceptions import InvalidStatus

from fastim.errors import CloseCode

__all__ = ["After", "after_close", "after_status", "is_refusal", "retry_after_ms_of"]

FINAL = frozenset({CloseCode.UNAUTHORIZED, CloseCode.BANNED, CloseCode.REPLACED, CloseCode.REMOVED})
REFUSALS = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_PAYLOAD,
        CloseCode.MESSAGE_TOO_BIG,
    }
)


class After(Enum):
    """What follows the end of a connection."""

    RECONNECT = auto()
    FRESH_TOKEN = auto()
    STOP = auto()


def after_close(code: int) -> After:
    """Return what to do after a close with ``code``."""
    if code in FINAL:
        return After.STOP
    return After.FRESH_TOKEN if code == CloseCode.TOKEN_EXPIRED else After.RECONNECT


def is_refusal(code: int) -> bool:
    """Return whether the server said that it cannot read what it was sent."""
    return code in REFUSALS


def after_status(status: int) -> After:
    """Return what to do when the upgrade was answered with the HTTP ``status``."""
    if status in (408, 425, 429) or status >= 500:
        return After.RECONNECT
    return After.STOP


def retry_after_ms_of(error: InvalidStatus) -> int:
    """Return the pause that an HTTP answer asks for in ``Retry-After``; 0 if none (dates are not read)."""
    value = error.response.headers.get("Retry-After", "")
    return int(value) * 1000 if value.isascii() and value.isdigit() and len(value) < 8 else 0
