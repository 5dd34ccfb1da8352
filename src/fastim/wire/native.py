"""The native protocol's messages: bytes to packets, packets to bytes, and the values inside.

A message is split into packets whose bodies stay encoded; what a body must be is in ``bodies``.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from fastim._core.decoder import decode_value as _decode_value
from fastim._core.encoder import Encoded, Shape, encode_value
from fastim._core.packets import PacketCodec
from fastim._core.values import Encoding, check, is_string, transcode
from fastim.errors import ConnectionRefused, ErrorCode, LimitExceeded, RequestError, TurnedAway, Unserved
from fastim.wire.events import MAX_EVENT_BYTES, NAMES

__all__ = [
    "MAX_BATCH_COUNT",
    "MESSAGE_SENT_REF",
    "Encoded",
    "Encoding",
    "Packet",
    "Shape",
    "check",
    "decode_message",
    "decode_value",
    "encode_error",
    "encode_packet",
    "encode_value",
    "error_body",
    "is_answer",
    "is_string",
    "transcode",
]

MAX_BATCH_COUNT = 1000

Packet: TypeAlias = tuple[str | int | None, bytes | RequestError, int | None]
"""``(event, body, ref)``: the body encoded, or a RequestError that answers the packet, with what of event and
ref is known. The event is an int only for a msgpack code without a name (an application's, or unknown)."""

_codec = PacketCodec(NAMES, max_packets=MAX_BATCH_COUNT, max_event_bytes=MAX_EVENT_BYTES)

decode_message = _codec.split
"""``decode_message(payload: bytes, encoding: int) -> list[Packet]``; see ``PacketCodec.split``.

Raises:
    RequestError: ``bad_packet`` or ``too_large``; nothing of the message may be served then.
"""

encode_packet = _codec.encode
"""``encode_packet(event, body, encoding, ref=None) -> bytes``; see ``PacketCodec.encode``."""


def decode_value(body: bytes, encoding: int) -> Any:
    """Decode a value to Python: bytes as ``bytes``, maps as ``dict``, keys without the ``$`` of JSON.

    Args:
        body: Encoded; checked here.
        encoding: Its Encoding.

    Raises:
        RequestError: ``bad_request``, naming what is wrong.
    """
    try:
        return _decode_value(body, encoding)
    except ValueError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"body: {error}") from None


MESSAGE_SENT_REF = (1 << 53) - 1
"""The ref of a ``message`` of Socket.IO that came without a wish for an acknowledgement: its ok becomes the
event ``message_sent``, its error the event ``error``."""


def is_answer(ref: int | None) -> bool:
    """Say whether what has this ref is told apart by it; else it has to name its event."""
    return ref is not None and ref != MESSAGE_SENT_REF


def error_body(error: RequestError, event: str | int | None = None) -> dict[str, Any]:
    """Make the body of an ``error`` packet; ``event`` is named for a packet without ref."""
    body: dict[str, Any] = {"code": error.code.value, "message": error.message}
    if isinstance(error, LimitExceeded) or (isinstance(error, TurnedAway) and error.retry_after_ms):
        body["retry_after_ms"] = error.retry_after_ms
    elif isinstance(error, Unserved):
        body["id"] = error.id
    elif isinstance(error, ConnectionRefused) and error.data is not None:
        body["data"] = error.data
    if event is not None:
        body["event"] = event
    return body


def encode_error(
    error: RequestError, encoding: int, ref: int | None = None, event: str | int | None = None
) -> bytes:
    """Make the ``error`` packet that answers a packet: by ref where it had one, else naming its event."""
    return encode_packet("error", error_body(error, None if is_answer(ref) else event), encoding, ref)
