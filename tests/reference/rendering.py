"""Socket.IO packets by its documents (Socket.IO 5, Engine.IO 4), and what a native packet becomes."""

import base64
import json
from dataclasses import dataclass
from typing import Any

import msgpack

CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR, BINARY_EVENT, BINARY_ACK = range(7)
MESSAGE_SENT_REF = 2**53 - 1
SEPARATOR = "\x1e"

Message = str | bytes  # of Engine.IO: text with its type, or the bytes of a message


@dataclass
class Packet:
    type: int
    namespace: str
    data: Any = None
    id: int | None = None


def from_native(native: list[Any], namespace: str, offset: str = "") -> Packet:
    """What a native packet, whose event is a name, becomes for a client of Socket.IO."""
    event, body, *rest = native
    ref = rest[0] if rest else None
    if event in ("ok", "error") and ref == MESSAGE_SENT_REF:
        event, ref = "message_sent" if event == "ok" else "error", None
    elif event in ("ok", "error") and ref is not None:
        return Packet(ACK, namespace, [body if event == "ok" else {"error": body}], ref)
    return Packet(EVENT, namespace, [event, body, *([offset] if offset else [])], ref)


# -- the default parser: "<type>[<attachments>-][<namespace>,][<id>][<JSON>]"


def encode_text(packet: Packet) -> str:
    """A packet without attachments, as a message."""
    text = f"4{packet.type}"
    if packet.namespace != "/":
        text += packet.namespace + ","
    if packet.id is not None:
        text += str(packet.id)
    if packet.data is not None:
        text += json.dumps(packet.data, ensure_ascii=False, separators=(",", ":"))
    return text


def decode_text(messages: list[Message]) -> list[Packet]:
    """The packets of messages; of those with attachments the placeholders are filled in."""
    found = []
    waiting = list(messages)
    while waiting:
        text = waiting.pop(0)
        assert isinstance(text, str), "bytes that nobody announced"
        assert text[0] == "4"
        type_, rest, attachments = int(text[1]), text[2:], 0
        if type_ in (BINARY_EVENT, BINARY_ACK):
            number, _, rest = rest.partition("-")
            attachments = int(number)
        namespace = "/"
        if rest.startswith("/"):
            namespace, _, rest = rest.partition(",")
        digits = len(rest) - len(rest.lstrip("0123456789"))
        id_, rest = rest[:digits], rest[digits:]
        parts = [waiting.pop(0) for _ in range(attachments)]
        assert all(isinstance(part, bytes) for part in parts), "a packet between another and its attachments"
        data = fill_in(json.loads(rest), parts) if rest else None
        found.append(Packet(type_, namespace, data, int(id_) if id_ else None))
    return found


def fill_in(value: Any, attachments: list[Message]) -> Any:
    if isinstance(value, list):
        return [fill_in(item, attachments) for item in value]
    if isinstance(value, dict):
        if value.get("_placeholder"):
            return attachments[value["num"]]
        return {key: fill_in(item, attachments) for key, item in value.items()}
    return value


# -- the msgpack parser: one map


def encode_packed(packet: Packet) -> bytes:
    """A packet as a message; the namespace is its last key."""
    packed = {"type": packet.type}
    if packet.data is not None:
        packed["data"] = packet.data
    if packet.id is not None:
        packed["id"] = packet.id
    return msgpack.packb({**packed, "nsp": packet.namespace})


# -- HTTP long-polling: records with a separator between them, bytes as "b" and base64


def encode_payload(messages: list[Message]) -> bytes:
    records = [
        message if isinstance(message, str) else "b" + base64.b64encode(message).decode()
        for message in messages
    ]
    return SEPARATOR.join(records).encode()


def decode_payload(payload: bytes) -> list[Message]:
    if not payload:
        return []
    return [
        base64.b64decode(record[1:], validate=True) if record.startswith("b") else record
        for record in payload.decode().split(SEPARATOR)
    ]
