"""Errors, close codes and error codes: each in one table.

FastimError
├── ConfigError                a setting, a file or an address is unusable; names which
├── ProtocolError(code)        the peer's bytes break a protocol; ``code`` closes the connection
├── RequestError(code)         a packet that cannot be served; answered, the connection stays
│   ├── LimitExceeded          … now; ``retry_after_ms`` says when to come back
│   ├── TurnedAway             a hello that is refused; the connection is closed with ``close_code``
│   │   └── ConnectionRefused  … by the application, with data of its own
│   └── Unserved(id)           a mistake, of which the client learns the id that stands in the log
├── StoreError(temporary)      the store did not take or give what was asked
└── InternalError              our own mistake
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = [
    "CloseCode",
    "ConfigError",
    "ConnectionRefused",
    "ErrorCode",
    "FastimError",
    "InternalError",
    "LimitExceeded",
    "ProtocolError",
    "RequestError",
    "StoreError",
    "TurnedAway",
    "Unserved",
]


class CloseCode(IntEnum):
    """WebSocket close codes: those of RFC 6455, section 7.4.1, that we send, and our own from 4001."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    ABNORMAL = 1006
    INVALID_PAYLOAD = 1007
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    UNAUTHORIZED = 4001
    TOKEN_EXPIRED = 4002
    BANNED = 4003
    REPLACED = 4004
    REMOVED = 4005
    SLOW_CONSUMER = 4008
    HEARTBEAT_LOST = 4009
    EVICTED = 4010
    RATE_LIMITED = 4011
    DRAINING = 4012
    FULL = 4013
    NO_HELLO = 4014


class ErrorCode(StrEnum):
    """What an ``error`` packet says in its ``code``."""

    BAD_PACKET = "bad_packet"
    UNKNOWN_EVENT = "unknown_event"
    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


class FastimError(Exception):
    """The root of every error that fastim raises on purpose."""


class ConfigError(FastimError):
    """A setting cannot be used.

    Args:
        setting: The setting's full name, e.g. ``server.port``; empty where none is to blame.
        reason: What is wrong with it, in one line.
    """

    def __init__(self, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: {reason}" if setting else reason)
        self.setting = setting
        self.reason = reason


class ProtocolError(FastimError):
    """The peer's bytes break a protocol beyond repair; the connection is closed with ``code``."""

    def __init__(self, code: CloseCode, reason: str = "") -> None:
        super().__init__(reason or code.name.lower())
        self.code = code
        self.reason = reason


class RequestError(FastimError):
    """A packet cannot be served; the sender gets an ``error`` packet and the connection stays.

    Args:
        code: The error code on the wire.
        message: One sentence for the developer at the other end; names the field for ``bad_request``.
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class LimitExceeded(RequestError):
    """A limit is used up; the same packet is welcome ``retry_after_ms`` milliseconds later."""

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(ErrorCode.RATE_LIMITED, message)
        self.retry_after_ms = retry_after_ms


class TurnedAway(RequestError):
    """Whoever says hello may not come in: the hello is answered, and the connection closed.

    Args:
        close_code: What it is closed with; says whether the client comes back by itself.
        message: As for RequestError; the close frame's reason too.
        code: Of the answer.
        retry_after_ms: When to come back, milliseconds; 0: not told.
    """

    def __init__(
        self,
        close_code: CloseCode,
        message: str,
        code: ErrorCode = ErrorCode.UNAUTHORIZED,
        *,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(code, message)
        self.close_code = close_code
        self.retry_after_ms = retry_after_ms


class ConnectionRefused(TurnedAway):
    """The application does not let a client in; its handlers raise this.

    Args:
        message: Why; the client is told so.
        data: What the client is told besides; None: nothing. Any value that the protocol can carry.
    """

    def __init__(self, message: str = "refused", data: object = None) -> None:
        super().__init__(CloseCode.UNAUTHORIZED, message)
        self.data = data


class Unserved(RequestError):
    """A mistake, ours or an application's, is why a packet is not served.

    Args:
        id: Under which it stands in the log.
    """

    def __init__(self, id: str) -> None:
        super().__init__(ErrorCode.INTERNAL, f"internal error {id}")
        self.id = id


class StoreError(FastimError):
    """The store did not do what was asked.

    Args:
        message: What failed.
        temporary: True if the same call may succeed later (file locked, disk full); False if the
            data file needs an operator (corrupt, failed sync, newer schema).
    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        self.temporary = temporary


class InternalError(FastimError):
    """An invariant of ours does not hold."""
