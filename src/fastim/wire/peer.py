"""The client's side of the native protocol: the same encodings, looked at from the other end."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastim._core.decoder import decode_value
from fastim.errors import CloseCode, ErrorCode, LimitExceeded, ProtocolError, RequestError
from fastim.wire.native import decode_message, encode_packet

__all__ = ["MAX_BODY_DEPTH", "ServerPacket", "decode_server_message", "encode_client_packet", "error_of"]

MAX_BODY_DEPTH = 72  # content of the full depth, inside of a body


class ServerPacket(NamedTuple):
    """A packet from the server; ``event`` is an int only for a code that this version has no name for."""

    event: str | int
    body: Any
    ref: int | None


def encode_client_packet(event: str, body: Any, encoding: int, ref: int | None = None) -> bytes:
    """Make a message of one packet.

    Args:
        event: Its name; in msgpack it goes out as its code where it has one.
        body: Values; ``Encoded`` parts are inserted.
        encoding: Of the connection.
        ref: To ask for an answer: a positive integer below 2^53, used once.

    Raises:
        ValueError: the body cannot be encoded.
    """
    return encode_packet(event, body, encoding, ref)


def decode_server_message(payload: bytes, encoding: int) -> list[ServerPacket]:
    """Decode a message, a packet or a batch, to Python values.

    Raises:
        ProtocolError: it is not the protocol's; the connection is of no use any more.
    """
    try:
        packets = decode_message(payload, encoding)
    except RequestError as error:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, error.message) from None
    return [_server_packet(event, body, ref, encoding) for event, body, ref in packets]


def _server_packet(
    event: str | int | None, body: bytes | RequestError, ref: int | None, encoding: int
) -> ServerPacket:
    if isinstance(body, RequestError) or event is None:
        reason = body.message if isinstance(body, RequestError) else "no event"
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, reason)
    try:
        return ServerPacket(event, decode_value(body, encoding, max_depth=MAX_BODY_DEPTH), ref)
    except ValueError as error:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, f"{event}: {error}") from None


def error_of(body: Any) -> RequestError:
    """Make the exception that an ``error`` packet's body stands for; an unknown code is ``internal``."""
    fields = body if isinstance(body, dict) else {}
    message = str(fields.get("message", ""))
    retry_after_ms = fields.get("retry_after_ms")
    code = str(fields.get("code"))
    if code == ErrorCode.RATE_LIMITED and isinstance(retry_after_ms, int):
        return LimitExceeded(message, retry_after_ms)
    try:
        return RequestError(ErrorCode(code), message)
    except ValueError:
        return RequestError(ErrorCode.INTERNAL, f"{code}: {message}")
