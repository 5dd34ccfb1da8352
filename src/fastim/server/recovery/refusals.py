"""Why a client that wants its connection back gets a new one."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["NotRecovered", "Refusal"]


class Refusal(StrEnum):
    """Reasons, as the metrics name them."""

    FORGED = "forged"  # the private id is none of this server's
    EXPIRED = "expired"  # the private id is too old
    NAMESPACE = "namespace"  # it is for another one
    OFFSET = "offset"  # what it says it has got is none of this server's offsets
    USER = "user"  # it is another user's, or another device's
    PARSER = "parser"  # what the connection was sent is in another encoding
    UNKNOWN = "unknown"  # nothing is kept of the connection any more, or it ended for good
    SESSION = "session"  # its messaging session has ended
    RESTART = "restart"  # the server has restarted, and other things than messages may be missing
    EVENTS = "events"  # not all the events that it missed are kept any more
    MESSAGES = "messages"  # it missed more than is sent at once
    SIZE = "size"  # likewise, in bytes
    STORE = "store"  # the store did not answer


class NotRecovered(Exception):
    """A connection is not recovered; its client gets a new one."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal
