"""The events of the native protocol: name, code, and who sends them."""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple

__all__ = [
    "CODES",
    "EVENTS",
    "FIRST_APPLICATION_CODE",
    "MAX_EVENT_BYTES",
    "NAMES",
    "REPLACEABLE",
    "SOCKETIO_OWN",
    "Direction",
    "Event",
    "is_reserved",
]

MAX_EVENT_BYTES = 64
FIRST_APPLICATION_CODE = 256  # the codes below are the protocol's


class Direction(Flag):
    """Who sends an event."""

    TO_SERVER = auto()
    TO_CLIENT = auto()
    BOTH = TO_SERVER | TO_CLIENT


class Event(NamedTuple):
    name: str
    code: int
    direction: Direction


# The order of the codes has no meaning; a code is never used again for another event.
EVENTS: tuple[Event, ...] = (
    Event("message", 1, Direction.TO_SERVER),
    Event("typing", 2, Direction.TO_SERVER),
    Event("presence", 3, Direction.TO_SERVER),
    Event("ack", 4, Direction.TO_SERVER),
    Event("system", 5, Direction.TO_CLIENT),
    Event("binary", 6, Direction.TO_SERVER),
    Event("hello", 10, Direction.TO_SERVER),
    Event("ok", 11, Direction.BOTH),
    Event("error", 12, Direction.BOTH),
    Event("new_message", 13, Direction.TO_CLIENT),
    Event("receipt", 14, Direction.TO_CLIENT),
    Event("state_batch", 15, Direction.TO_CLIENT),
    Event("history", 16, Direction.TO_SERVER),
    Event("conversations", 17, Direction.TO_SERVER),
    Event("conversation_create", 18, Direction.TO_SERVER),
    Event("read_receipt", 19, Direction.TO_SERVER),
    Event("presence_subscribe", 20, Direction.TO_SERVER),
    Event("server_shutdown", 21, Direction.TO_CLIENT),
    Event("migrate", 22, Direction.TO_CLIENT),
    Event("forced_disconnect", 23, Direction.TO_CLIENT),
    Event("gap", 24, Direction.TO_CLIENT),
    Event("refresh", 25, Direction.TO_SERVER),
    Event("members", 26, Direction.TO_SERVER),
    Event("conversation_update", 27, Direction.TO_SERVER),
    Event("conversation", 28, Direction.TO_CLIENT),
    Event("token_expiring", 29, Direction.TO_CLIENT),
    Event("ping", 30, Direction.TO_SERVER),
)

CODES: dict[str, int] = {event.name: event.code for event in EVENTS}
NAMES: dict[int, str] = {event.code: event.name for event in EVENTS}

REPLACEABLE: frozenset[str] = frozenset(
    event.name for event in EVENTS if event.direction is Direction.TO_SERVER
) - {"hello", "refresh"}
"""What an application may have a handler of its own for, which is served instead."""

SOCKETIO_OWN: frozenset[str] = frozenset(
    {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
)
"""What no packet of Socket.IO may name as its event: clients close with "parse error" when they get one."""

_FAMILIES = ("message", "conversation", "presence", "doc")


def is_reserved(event: str | int) -> bool:
    """Say whether an event belongs to the protocol, or to what it may grow into.

    Applications use other names, and codes from 256: not ``message``, ``message_…`` and ``message.…``, and
    likewise with the other families, nor what begins with ``fastim``. ``message-back`` is theirs.
    """
    if isinstance(event, int):
        return event < FIRST_APPLICATION_CODE
    if event in CODES or event in _FAMILIES or event.startswith("fastim"):
        return True
    return event.startswith(tuple(f"{family}{mark}" for family in _FAMILIES for mark in "_."))
