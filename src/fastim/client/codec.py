"""Packets to WebSocket messages and back, in the connection's encoding."""

from __future__ import annotations

from typing import Any

from fastim.client.options import EncodingName
from fastim.errors import ErrorCode, RequestError
from fastim.wire.native import Encoded, Encoding, encode_value
from fastim.wire.peer import ServerPacket, decode_server_message, encode_client_packet

__all__ = ["Codec"]


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
        encoding = self._encoding
        try:
            if isinstance(body, dict) and "content" in body:
                # By itself: the depth that content may have counts from here.
                content = Encoded(encode_value(body["content"], encoding), encoding)
                body = body | {"content": content}
            return encode_client_packet(event, body, encoding, ref)
        except ValueError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, str(error)) from None

    def decode(self, message: str | bytes) -> list[ServerPacket]:
        """Decode a message into its packets.

        Raises:
            ProtocolError: It is none that a fastim server sends.
        """
        data = message.encode() if isinstance(message, str) else message
        return decode_server_message(data, self._encoding)
