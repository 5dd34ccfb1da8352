"""Packets to WebSocket messages and back, in the connection's encoding."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from fastim._core.packets import PacketCodec
from fastim.client.options import EncodingName
from fastim.errors import CloseCode, ErrorCode, ProtocolError, RequestError
from fastim.wire.events import MAX_EVENT_BYTES, NAMES
from fastim.wire.native import Encoded, Encoding, encode_value, plain_value

__all__ = ["Codec", "Packet"]

# The server may batch more than a client may; what bounds it is the size of a WebSocket message.
_packets = PacketCodec(NAMES, max_packets=1_000_000, max_event_bytes=MAX_EVENT_BYTES)


class Packet(NamedTuple):
    """A packet with its body as plain values; the event an int for a code without a name here."""

    event: str | int
    body: Any
    ref: int | None


class Codec:
    """Encodes and decodes in one encoding.

    Args:
        encoding: ``json`` or ``msgpack``.
    """

    def __init__(self, encoding: EncodingName) -> None:
        self._encoding = Encoding.JSON if encoding == "json" else Encoding.MSGPACK

    def encode(self, event: str, body: Any, ref: int | None) -> bytes:
        """Encode a packet.

        Raises:
            RequestError: ``bad_request``: the body holds what the protocol does not carry.
        """
        try:
            if isinstance(body, dict) and "content" in body:
                # By itself: the depth that content may have counts from here.
                body = body | {
                    "content": Encoded(encode_value(body["content"], self._encoding), self._encoding)
                }
            return _packets.encode(event, body, self._encoding, ref)
        except ValueError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, str(error)) from None

    def decode(self, message: str | bytes) -> list[Packet]:
        """Decode a message into its packets.

        Raises:
            ProtocolError: It is none that a fastim server sends.
        """
        data = message.encode() if isinstance(message, str) else message
        try:
            return [self._packet(*parts) for parts in _packets.split(data, self._encoding)]
        except (RequestError, ValueError, RecursionError) as error:
            raise ProtocolError(CloseCode.UNSUPPORTED_DATA, f"not a packet: {error}"[:120]) from None

    def _packet(self, event: str | int | None, body: bytes | RequestError, ref: int | None) -> Packet:
        if event is None or isinstance(body, RequestError):
            raise ValueError(body)
        return Packet(event, self._value(body), ref)

    def _value(self, body: bytes) -> Any:
        if self._encoding is Encoding.MSGPACK:
            return msgspec.msgpack.decode(body)
        value = msgspec.json.decode(body)
        return plain_value(value) if b'"$' in body else value
