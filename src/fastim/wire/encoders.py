"""The packets that the server makes for every message and delivery, put together faster than from dicts.

Values come in as they go out: ids as strings, content as ``Encoded``, so that one call serves both encodings.
"""

from __future__ import annotations

from typing import TypeAlias

from fastim._core.encoder import Encoded, Shape
from fastim.wire.events import CODES

__all__ = ["MessageFields", "body_of_new_message", "message_body", "new_message_packet", "ok_message_packet"]

_NEW_MESSAGE = Shape(
    "new_message",
    CODES["new_message"],
    (
        "id",
        "conversation",
        "seq",
        "sender",
        "device",
        "content",
        "kind",
        "time",
        "client_id",
        "reply_to",
    ),
    optional=("client_id", "reply_to"),
)
_OK_MESSAGE = Shape("ok", CODES["ok"], ("id", "conversation", "seq", "time", "client_id", "duplicate"))

MessageFields: TypeAlias = tuple[str, str, int, str, str, Encoded, str, int, str | None, int | None]
"""``(id, conversation, seq, sender, device, content, kind, time, client_id, reply_to)``."""


def new_message_packet(encoding: int, message: MessageFields) -> bytes:
    """Make a ``new_message`` packet.

    Args:
        encoding: Of the packet.
        message: Its fields in order; ``client_id`` and ``reply_to`` are left out where None. The content must
            have been checked; it is transcoded where its encoding is the other one.
    """
    return _NEW_MESSAGE.packet(encoding, message)


def message_body(encoding: int, message: MessageFields) -> Encoded:
    """Make the body of a ``new_message``, as ``history`` lists them."""
    return Encoded(_NEW_MESSAGE.body(encoding, message), encoding)


_BODY_AT = (len(b'["new_message",'), len(b"\x92") + 1)  # behind the name, and behind the code
_BEHIND_BODY = (len(b"]"), 0)


def body_of_new_message(encoding: int, packet: bytes) -> Encoded:
    """Cut the body out of a packet that ``new_message_packet`` has made."""
    return Encoded(packet[_BODY_AT[encoding] : len(packet) - _BEHIND_BODY[encoding]], encoding)


def ok_message_packet(
    encoding: int,
    ref: int,
    answer: tuple[str, str, int, int, str | None, bool],
) -> bytes:
    """Make the ``ok`` of a ``message``.

    Args:
        encoding: Of the packet.
        ref: The request's.
        answer: ``(id, conversation, seq, time, client_id, duplicate)``; a client_id of None is null.
    """
    return _OK_MESSAGE.packet(encoding, answer, ref)
