"""The readable twin of the packet splitter, on the standard decoders."""

from __future__ import annotations

import json
from typing import Any

import msgpack

JSON, MSGPACK = 0, 1
MAX_PACKETS = 1000


class Refused(Exception):
    """The whole message; ``code`` is the error code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def split(data: bytes, encoding: int, names: dict[int, str]) -> list[tuple[Any, bytes | None, int | None]]:
    """Split into (event, encoded body or None if the packet is bad, ref)."""
    items = json_items if encoding == JSON else msgpack_items
    spans = items(data)
    if not spans or not isinstance(spans[0][0], list):
        return [packet(spans, names)]
    if len(spans) > MAX_PACKETS:
        raise Refused("too_large")
    return [
        packet(items(raw), names) if isinstance(value, list) else (None, None, None) for value, raw in spans
    ]


def packet(spans: list[tuple[Any, bytes]], names: dict[int, str]) -> tuple[Any, bytes | None, int | None]:
    event = event_of(spans[0][0], names) if spans else None
    ref, ref_is_wrong = None, False
    if len(spans) > 2:
        value = spans[2][0]
        ref_is_wrong = type(value) is not int or not 0 < value < 2**53
        ref = None if ref_is_wrong else value
    good = event is not None and len(spans) in (2, 3) and not ref_is_wrong
    return event, spans[1][1] if good else None, ref


def event_of(event: Any, names: dict[int, str]) -> str | int | None:
    if type(event) is int and event > 0:
        return names.get(event, event)
    if not isinstance(event, str) or any(c < " " or "\x7f" <= c <= "\x9f" for c in event):
        return None
    try:
        return event if 1 <= len(event.encode()) <= 64 else None
    except UnicodeEncodeError:
        return None


def json_items(data: bytes) -> list[tuple[Any, bytes]]:
    """The array's items, each with its bytes. An integer event is none in JSON: it is made a float."""

    def refuse(_: str) -> None:
        raise ValueError

    decoder = json.JSONDecoder(parse_constant=refuse)
    spaces = " \t\n\r"
    try:
        text = data.decode()
        if text[: len(text) - len(text.lstrip(spaces)) + 1].strip(spaces) != "[":
            raise ValueError
        decoder.decode(text)
        pos, spans = text.index("[") + 1, []
        while True:
            while text[pos] in spaces + ",":
                pos += 1
            if text[pos] == "]":
                return spans
            value, end = decoder.raw_decode(text, pos)
            if not spans and type(value) is int:
                value = float("nan")
            spans.append((value, text[pos:end].encode()))
            pos = end
    except ValueError:
        raise Refused("bad_packet") from None


def msgpack_items(data: bytes) -> list[tuple[Any, bytes]]:
    unpacker = msgpack.Unpacker(
        strict_map_key=False, max_buffer_size=2**20, unicode_errors="surrogateescape", timestamp=0
    )
    unpacker.feed(data)
    try:
        count, begin, spans = unpacker.read_array_header(), unpacker.tell(), []
        for _ in range(count):
            value = unpacker.unpack()
            spans.append((value, data[begin : unpacker.tell()]))
            begin = unpacker.tell()
    except (ValueError, msgpack.UnpackException, TypeError):
        raise Refused("bad_packet") from None
    if begin != len(data):
        raise Refused("bad_packet")
    return spans
