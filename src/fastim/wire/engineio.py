"""Engine.IO, revision 4: packets, payloads of long-polling, and the handshake. Bytes in, bytes out.

A packet is a digit, its type, and what follows; a message of bytes has no digit. Over WebSocket each packet
is a message of its own, binary for one of bytes. Over long-polling some of them are a payload, with a record
separator between them, and bytes go as ``b`` and their base64.

Source: the Engine.IO protocol, version 4.1, "Packet encoding".
"""

from __future__ import annotations

import json
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterator, Sequence
from typing import Final

from fastim.errors import CloseCode, ProtocolError

__all__ = [
    "BINARY",
    "CLOSE",
    "CLOSE_PACKET",
    "MESSAGE",
    "NOOP",
    "OPEN",
    "PING",
    "PONG",
    "PROBE",
    "PROBE_ANSWER",
    "SEPARATOR",
    "UPGRADE",
    "VERSION",
    "decode_binary",
    "has_pong",
    "open_packet",
    "packet_count",
    "split_payload",
]

VERSION: Final = b"4"
SEPARATOR: Final = b"\x1e"

# The first byte of a text packet.
OPEN: Final = 0x30
CLOSE: Final = 0x31
PING: Final = 0x32
PONG: Final = 0x33
MESSAGE: Final = 0x34
UPGRADE: Final = 0x35
NOOP: Final = 0x36
BINARY: Final = 0x62  # a message of bytes, in base64

# Whole packets: the end, and those of the way from long-polling to WebSocket.
CLOSE_PACKET: Final = b"1"
PROBE: Final = b"2probe"
PROBE_ANSWER: Final = b"3probe"


def open_packet(
    sid: str, upgrades: Sequence[str], ping_interval_ms: int, ping_timeout_ms: int, max_payload_bytes: int
) -> bytes:
    """Make the packet that begins a session: what the client is to know, in five keys.

    Args:
        sid: The session's id.
        upgrades: Transports that the client may go over to.
        ping_interval_ms: The longest time between two pings, milliseconds.
        ping_timeout_ms: How long the server waits for a pong, milliseconds.
        max_payload_bytes: Size of the largest payload that is taken, bytes.
    """
    body = {
        "sid": sid,
        "upgrades": list(upgrades),
        "pingInterval": ping_interval_ms,
        "pingTimeout": ping_timeout_ms,
        "maxPayload": max_payload_bytes,
    }
    return b"0" + json.dumps(body, separators=(",", ":")).encode()


def split_payload(payload: bytes) -> Iterator[bytes]:
    """Take a payload apart, packet by packet: each as over WebSocket, one of bytes still in base64.

    **Cost**: O(its size) before the first packet, one object for each.

    Raises:
        ProtocolError: The payload is no text. A packet is looked at by whoever takes it.
    """
    if not payload.isascii():
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise ProtocolError(CloseCode.INVALID_PAYLOAD, "the payload is no UTF-8") from None
    return iter(payload.split(SEPARATOR))


def packet_count(payload: bytes) -> int:
    """Return how many packets a payload holds."""
    return payload.count(SEPARATOR) + 1


def has_pong(payload: bytes) -> bool:
    """Tell whether one of a payload's packets answers a ping."""
    if len(payload) == 1:
        return payload == b"3"
    return payload.startswith(b"3\x1e") or payload.endswith(b"\x1e3") or b"\x1e3\x1e" in payload


def decode_binary(packet: bytes) -> bytes:
    """Return the bytes of a packet that begins with ``b``; the padding may be left out.

    Raises:
        ProtocolError: It is no base64.
    """
    padding = b"=" * (-(len(packet) - 1) % 4)
    try:
        return a2b_base64(packet[1:] + padding, strict_mode=True)
    except Base64Error:
        raise ProtocolError(CloseCode.PROTOCOL_ERROR, "a binary packet is no base64") from None
