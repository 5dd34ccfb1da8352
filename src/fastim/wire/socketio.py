"""Socket.IO protocol 5: bytes to packets, packets to bytes, with the default and the msgpack parser.

A client's packet is read by ``read_text`` or ``read_map``; one of the default parser whose attachments are
still to come goes through an ``Assembly``. What is written has no namespace: the hub puts it in, so that a
packet for many is written once.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Any, Final, TypeAlias

import msgspec

from fastim._core.decoder import decode_value
from fastim._core.socketio import PacketWriter, complete, native_body, read_map, read_text
from fastim._core.values import Encoding
from fastim.wire.native import MESSAGE_SENT_REF
from fastim.wire.peer import MAX_BODY_DEPTH

__all__ = [
    "DISCONNECT",
    "MESSAGE_SENT_REF",
    "ROOT",
    "Assembly",
    "Packet",
    "PacketType",
    "Written",
    "addressed",
    "encode_ack",
    "encode_connect",
    "encode_connect_error",
    "encode_event",
    "native_body",
    "read_map",
    "read_text",
    "written_from_native",
]

ROOT: Final = "/"


class PacketType(IntEnum):
    """What a packet is."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


Packet: TypeAlias = tuple[int, str, int | None, str, Any]
"""``(type, namespace, id, event, data)``; see ``read_text``."""

Written: TypeAlias = tuple[bytes, tuple[bytes, ...]]
"""A packet without its namespace, and its attachments."""

DISCONNECT: Final[dict[int, bytes]] = {Encoding.JSON: b"41", Encoding.MSGPACK: b"\x82\xa4type\x01"}
"""By parser. In msgpack it has no ``data``: clients take even null amiss."""


class Assembly:
    """A packet of the default parser whose attachments come one by one.

    Args:
        packet: The text, as ``read_text`` took it.
        count: How many attachments it names.
        max_bytes: Of the text and the attachments; 0: no bound but that of a message times their number.
    """

    __slots__ = ("_attachments", "_left_bytes", "_missing_count", "_packet")

    def __init__(self, packet: bytes, count: int, max_bytes: int) -> None:
        self._packet = packet
        self._missing_count = count
        self._left_bytes = max_bytes - len(packet) if max_bytes else None
        self._attachments: list[bytes] = []

    def add(self, attachment: bytes) -> Packet | None:
        """Take the next attachment.

        Returns:
            The packet, if it was the last.

        Raises:
            ValueError: They are too large together.
        """
        if self._left_bytes is not None:
            self._left_bytes -= len(attachment)
            if self._left_bytes < 0:
                raise ValueError("the packet and its attachments are too large")
        self._attachments.append(attachment)
        self._missing_count -= 1
        return complete(self._packet, self._attachments) if not self._missing_count else None


_KEPT: Final = (bytes, bytearray, memoryview, datetime)


def _convert(value: Any) -> Any:
    """Make a value that is none of the wire's into one: a dataclass, a set, a UUID, a decimal and so on."""
    return msgspec.to_builtins(value, builtin_types=_KEPT, str_keys=True)


_writer = PacketWriter(_convert)

encode_event = _writer.event
"""``encode_event(event, arguments, encoding, ref=None) -> Written``; see ``PacketWriter.event``."""

encode_ack = _writer.ack
"""``encode_ack(ref, arguments, encoding) -> Written``; see ``PacketWriter.ack``."""


def encode_connect(body: dict[str, Any], encoding: int) -> bytes:
    """Make the packet that lets a client in: ``{sid}``, and ``pid`` where it may be recovered."""
    return _writer.answer(PacketType.CONNECT, body, encoding)


def encode_connect_error(message: str, data: Any, encoding: int) -> bytes:
    """Make the packet that turns a client away; ``data`` tells its program why, None: nothing."""
    body: dict[str, Any] = {"message": message}
    if data is not None:
        body["data"] = data
    return _writer.answer(PacketType.CONNECT_ERROR, body, encoding)


def addressed(packet: bytes, namespace: str, encoding: int) -> bytes:
    """Put the namespace into a CONNECT or CONNECT_ERROR that goes to a client without a place in it."""
    if encoding == Encoding.MSGPACK:
        return packet + b"\xa3nsp" + msgspec.msgpack.encode(namespace)
    return packet if namespace == ROOT else b"%b%b,%b" % (packet[:2], namespace.encode(), packet[2:])


def written_from_native(packet: bytes) -> Written:
    """Write a native JSON packet as one of the default parser.

    The hub renders packets by itself; this is for those that it has no room to decode: with bytes, or keys
    that begin with ``$``.

    Args:
        packet: One packet of the server's own.

    Raises:
        ValueError: It is none.
    """
    event, value, *refs = decode_value(packet, Encoding.JSON, max_depth=MAX_BODY_DEPTH + 1)
    ref = refs[0] if refs else None
    if event not in ("ok", "error") or ref is None:
        return encode_event(event, (value,), Encoding.JSON, ref)
    if ref == MESSAGE_SENT_REF:
        return encode_event("message_sent" if event == "ok" else "error", (value,), Encoding.JSON)
    return encode_ack(ref, (value if event == "ok" else {"error": value},), Encoding.JSON)
