"""The slow, readable twin of the value scanners: same rules, plain Python, one character at a time.

``parse`` gives a tree in which nothing is lost (duplicate keys stay, a double is never an integer);
``check``, ``decode`` and ``transcode`` follow from it. Every refusal is a ValueError.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64
JSON, MSGPACK = 0, 1


@dataclass(frozen=True)
class Map:
    """A map as it is written: pairs in order, one key may come twice."""

    pairs: tuple[tuple[str, Any], ...]


def kind_of(tree: Any) -> int:
    for kind, types in enumerate([type(None), bool, int, float, str, bytes, list, Map]):
        if type(tree) is types:
            return kind
    raise AssertionError(tree)


def check(data: bytes, encoding: int) -> int:
    return kind_of(parse(data, encoding))


def decode(data: bytes, encoding: int) -> Any:
    return plain(parse(data, encoding))


def transcode(data: bytes, source: int, target: int) -> bytes:
    tree = parse(data, source)
    if source == target:
        return data
    return write_json(tree).encode() if target == JSON else write_msgpack(tree)


def plain(tree: Any) -> Any:
    if isinstance(tree, list):
        return [plain(item) for item in tree]
    if isinstance(tree, Map):
        return {key: plain(item) for key, item in tree.pairs}
    return tree


def parse(data: bytes, encoding: int) -> Any:
    reader: JsonReader | MsgpackReader = (
        JsonReader(data.decode()) if encoding == JSON else MsgpackReader(data)
    )
    return reader.whole()


def checked_integer(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise ValueError("integer out of range")
    return value


def checked_double(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("not finite")
    return value


class JsonReader:
    """RFC 8259 by recursive descent, with the rules of values."""

    NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][+-]?[0-9]+)?")
    ESCAPES = dict(zip('"\\/bfnrt', '"\\/\b\f\n\r\t', strict=True))  # noqa: RUF012

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    def whole(self) -> Any:
        tree = self.value(MAX_DEPTH)
        self.space()
        if self.pos != len(self.text):
            raise ValueError("data behind the value")
        return tree

    def space(self) -> None:
        while self.text[self.pos : self.pos + 1] in (" ", "\t", "\n", "\r"):
            self.pos += 1

    def taken(self, what: str) -> bool:
        """Take the token if it comes next, behind white space."""
        self.space()
        if not self.text.startswith(what, self.pos):
            return False
        self.pos += len(what)
        return True

    def take(self, what: str) -> None:
        if not self.taken(what):
            raise ValueError(f"expected {what}")

    def value(self, depth: int) -> Any:
        for word, meaning in (("null", None), ("true", True), ("false", False)):
            if self.taken(word):
                return meaning
        if self.taken('"'):
            return self.string()
        if self.taken("["):
            return self.array(depth)
        if self.taken("{"):
            return self.map(depth)
        return self.number()

    def number(self) -> int | float:
        match = self.NUMBER.match(self.text, self.pos)
        if match is None:
            raise ValueError("expected a value")
        self.pos = match.end()
        if match[2] or match[3]:
            return checked_double(float(match[0]))
        if len(match[0]) > 30:
            raise ValueError("integer out of range")
        return checked_integer(int(match[0]))

    def string(self) -> str:
        units: list[str] = []
        while True:
            char = self.text[self.pos : self.pos + 1]
            self.pos += 1
            if char == '"':
                break
            if char < " ":  # or the end
                raise ValueError("string without end")
            units.append(self.escape() if char == "\\" else char)
        joined = "".join(units).encode("utf-16-le", "surrogatepass")
        return joined.decode("utf-16-le")  # pairs become one, a lone one raises

    def escape(self) -> str:
        char = self.text[self.pos : self.pos + 1]
        self.pos += 1
        if char != "u":
            if char not in self.ESCAPES:
                raise ValueError("invalid escape")
            return self.ESCAPES[char]
        digits = self.text[self.pos : self.pos + 4]
        self.pos += 4
        if not re.fullmatch("[0-9a-fA-F]{4}", digits):
            raise ValueError("invalid escape")
        return chr(int(digits, 16))

    def array(self, depth: int) -> list[Any]:
        if depth == 0:
            raise ValueError("too deep")
        items: list[Any] = []
        if self.taken("]"):
            return items
        while True:
            items.append(self.value(depth - 1))
            if self.taken("]"):
                return items
            self.take(",")

    def map(self, depth: int) -> Map | bytes:
        pairs: list[tuple[str, Any]] = []
        if self.taken("}"):
            if depth == 0:
                raise ValueError("too deep")
            return Map(())
        while True:
            self.take('"')
            key = self.string()
            self.take(":")
            if key == "$bytes" and not pairs:
                self.take('"')
                text = self.string()
                self.take("}")
                return strict_base64(text)
            if depth == 0:
                raise ValueError("too deep")
            if key.startswith("$"):
                key = key[1:]
                if not key.startswith("$"):
                    raise ValueError("a key that begins with $")
            pairs.append((key, self.value(depth - 1)))
            if self.taken("}"):
                return Map(tuple(pairs))
            self.take(",")


def strict_base64(text: str) -> bytes:
    value = base64.b64decode(text.encode("ascii"), validate=True)
    if base64.b64encode(value).decode() != text:
        raise ValueError("not base64")
    return value


class MsgpackReader:
    """The msgpack specification, with the rules of values."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pos = 0

    def whole(self) -> Any:
        tree = self.value(MAX_DEPTH)
        if self.pos != len(self.data):
            raise ValueError("data behind the value")
        return tree

    def take(self, size: int) -> bytes:
        taken = self.data[self.pos : self.pos + size]
        if len(taken) != size:
            raise ValueError("truncated")
        self.pos += size
        return taken

    def unpack(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(">" + form)))[0]

    def value(self, depth: int) -> Any:
        first = self.unpack("B")
        if first < 0x80:
            return first
        if first < 0x90:
            return self.map(first & 15, depth)
        if first < 0xA0:
            return self.array(first & 15, depth)
        if first < 0xC0:
            return self.take(first & 31).decode()
        if first >= 0xE0:
            return first - 256
        if first in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[first]
        if first in (0xCA, 0xCB):
            return checked_double(self.unpack("f" if first == 0xCA else "d"))
        if 0xCC <= first <= 0xD3:
            return self.unpack("BHIQbhiq"[first - 0xCC])
        if 0xC4 <= first <= 0xC6:
            return self.take(self.unpack("BHI"[first - 0xC4]))
        if 0xD9 <= first <= 0xDB:
            return self.take(self.unpack("BHI"[first - 0xD9])).decode()
        if first in (0xDC, 0xDD):
            return self.array(self.unpack("HI"[first - 0xDC]), depth)
        if first in (0xDE, 0xDF):
            return self.map(self.unpack("HI"[first - 0xDE]), depth)
        raise ValueError("an extension type, or 0xC1")

    def array(self, count: int, depth: int) -> list[Any]:
        if depth == 0:
            raise ValueError("too deep")
        return [self.value(depth - 1) for _ in range(count)]

    def map(self, count: int, depth: int) -> Map:
        if depth == 0:
            raise ValueError("too deep")
        pairs: list[tuple[str, Any]] = []
        for _ in range(count):
            key = self.value(0)
            if not isinstance(key, str):
                raise ValueError("a key is not a string")
            pairs.append((key, self.value(depth - 1)))
        return Map(tuple(pairs))


def write_json(tree: Any) -> str:
    if tree is None or isinstance(tree, bool):
        return {None: "null", True: "true", False: "false"}[tree]
    if isinstance(tree, int | float):
        return repr(tree)
    if isinstance(tree, str):
        return write_json_string(tree)
    if isinstance(tree, bytes):
        return '{"$bytes":"' + base64.b64encode(tree).decode() + '"}'
    if isinstance(tree, list):
        return "[" + ",".join(map(write_json, tree)) + "]"
    escaped = ((("$" + key if key.startswith("$") else key), item) for key, item in tree.pairs)
    return "{" + ",".join(write_json_string(key) + ":" + write_json(item) for key, item in escaped) + "}"


def write_json_string(text: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(short.get(c) or (c if c >= " " else f"\\u{ord(c):04x}") for c in text) + '"'


def write_msgpack(tree: Any) -> bytes:
    if tree is None or isinstance(tree, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[tree]
    if isinstance(tree, int):
        return write_msgpack_integer(tree)
    if isinstance(tree, float):
        return struct.pack(">Bd", 0xCB, tree)
    if isinstance(tree, str):
        data = tree.encode()
        return write_head(len(data), (0xA0, 32), 0xD9, "BHI") + data
    if isinstance(tree, bytes):
        return write_head(len(tree), (0, 0), 0xC4, "BHI") + tree
    if isinstance(tree, list):
        return write_head(len(tree), (0x90, 16), 0xDC, "HI") + b"".join(map(write_msgpack, tree))
    body = b"".join(write_msgpack(key) + write_msgpack(item) for key, item in tree.pairs)
    return write_head(len(tree.pairs), (0x80, 16), 0xDE, "HI") + body


def write_head(count: int, fixed: tuple[int, int], first: int, forms: str) -> bytes:
    if count < fixed[1]:
        return bytes([fixed[0] | count])
    for offset, form in enumerate(forms):
        if count < 256 ** struct.calcsize(">" + form):
            return struct.pack(">B" + form, first + offset, count)
    raise ValueError("too long")


def write_msgpack_integer(value: int) -> bytes:
    if -32 <= value < 128:
        return struct.pack(">b" if value < 0 else ">B", value)
    for offset, form in enumerate("BHIQ" if value >= 0 else "bhiq"):
        try:
            return struct.pack(">B" + form, (0xCC if value >= 0 else 0xD0) + offset, value)
        except struct.error:
            continue
    raise ValueError("integer out of range")
