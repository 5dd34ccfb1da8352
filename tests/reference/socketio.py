"""The readable twin of Socket.IO's packets, on the standard decoders."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RESERVED = {"connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"}
INTRO = re.compile(r"([0-6])(?:(?<=[56])(\d+)-)?(?:(/[^,]*),?)?(\d+)?", re.ASCII)
MAX_DEPTH = 72

Packet = tuple[int, str, int | None, str, Any]


def read_text(data: bytes, max_attachments: int) -> Packet:
    text = data.decode()
    match = INTRO.match(text)
    if match is None:
        raise ValueError("no packet")
    kind, count = int(match[1]), int(match[2] or 0)
    if count > max_attachments or (kind >= 5 and match[2] is None):
        raise ValueError("attachments")
    if count:
        whole = read_attached(match, text, [b""] * count)
        return kind, whole[1], whole[2], whole[3], count
    return read_attached(match, text, [] if kind >= 5 else None)


def complete(data: bytes, attachments: list[bytes]) -> Packet:
    match = INTRO.match(data.decode())
    if match is None or int(match[2] or 0) != len(attachments):
        raise ValueError("attachments")
    return read_attached(match, data.decode(), attachments)


def read_attached(match: re.Match[str], text: str, attachments: list[bytes] | None) -> Packet:
    kind = int(match[1]) - 3 if match[1] in "56" else int(match[1])
    rest = text[match.end() :]
    value = plain(json.loads(rest, parse_constant=refuse, parse_int=whole)) if rest else None
    if value is None and rest:
        raise ValueError("null is no data")
    if attachments is not None:
        value = Attached(attachments).fill(value)
    return packet(kind, match[3] or "/", int(match[4]) if match[4] else None, value)


class Attached:
    """Attachments by number, each used once."""

    def __init__(self, attachments: list[bytes]) -> None:
        self.left: dict[int, bytes] = dict(enumerate(attachments))

    def fill(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if not isinstance(value, dict):
            return value
        filled = {key: self.fill(item) for key, item in value.items()}
        if filled.get("_placeholder") is not True:
            return filled
        if type(filled.get("num")) is not int or filled["num"] not in self.left:
            raise ValueError("placeholder")
        return self.left.pop(filled["num"])


def packet(kind: int, namespace: str, number: int | None, value: Any) -> Packet:
    if number is not None and number >= 2**53 - 1:
        raise ValueError("id")
    if len(namespace.encode()) > 256:
        raise ValueError("namespace")
    if kind in (2, 3):
        if not isinstance(value, list) or (kind == 3 and number is None):
            raise ValueError("no array, or an ack without id")
        if any(depth(item) > MAX_DEPTH for item in value):
            raise ValueError("too deep")
        event = value.pop(0) if kind == 2 and value else "" if kind == 3 else None
        if not isinstance(event, str) or event in RESERVED:
            raise ValueError("event")
        return kind, namespace, number, event, value
    if kind == 4 or number is not None or (kind == 1 and value is not None):
        raise ValueError("not a client's")
    if value is not None and (not isinstance(value, dict) or depth(value) > MAX_DEPTH):
        raise ValueError("auth")
    return kind, namespace, None, "", value


def depth(value: Any) -> int:
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    return 1 + max(map(depth, value.values()), default=0) if isinstance(value, dict) else 0


def whole(digits: str) -> int | float:
    number = int(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def refuse(_: str) -> None:
    raise ValueError("no JSON")


def plain(value: Any) -> Any:
    """Replace lone surrogates, and refuse what is too large for a double."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        raise ValueError("too large")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {plain(k): plain(v) for k, v in value.items()} if isinstance(value, dict) else value


# -- msgpack


def read_map(data: bytes) -> Packet:
    fields = msgpack.unpackb(data, ext_hook=extension, strict_map_key=True, timestamp=0)
    if not isinstance(fields, dict):
        raise ValueError("no map")
    check_keys(fields)
    kind, number = fields.get("type"), fields.get("id")
    namespace = "/" if fields.get("nsp") is None else fields["nsp"]
    if type(kind) is not int or not 0 <= kind <= 4 or not isinstance(namespace, str):
        raise ValueError("type or nsp")
    if number is not None and (type(number) is not int or number < 0):
        raise ValueError("id")
    return packet(kind, namespace, number, fields.get("data"))


def extension(code: int, data: bytes) -> Any:
    """By length: the standard decoder does not tell the fixed forms from the others."""
    if code:
        raise ValueError("extension")
    if len(data) == 1:
        return None
    return (
        EPOCH + timedelta(milliseconds=int.from_bytes(data, "big", signed=True)) if len(data) == 8 else data
    )


def check_keys(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("key")
        for item in value.values():
            check_keys(item)
    elif isinstance(value, list):
        for item in value:
            check_keys(item)


# -- out


def write_text(kind: int, items: list[Any], ref: int | None) -> tuple[bytes, tuple[bytes, ...]]:
    attachments: list[bytes] = []
    array = json.dumps(detach(items, attachments), separators=(",", ":"), ensure_ascii=False)
    count = f"{len(attachments)}-" if attachments else ""
    text = f"4{kind + 3 if attachments else kind}{count}{'' if ref is None else ref}{array}"
    return text.encode(), tuple(attachments)


def detach(value: Any, attachments: list[bytes]) -> Any:
    if isinstance(value, bytes):
        attachments.append(value)
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, float) and value - value != 0:
        return None
    if isinstance(value, list | tuple):
        return [detach(item, attachments) for item in value]
    return {str(k): detach(v, attachments) for k, v in value.items()} if isinstance(value, dict) else value
