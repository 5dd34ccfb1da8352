"""A request's head, taken apart by the grammar's own words: the oracle of the core's."""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/(1\.[01])\r\n")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):([\t\x20-\x7e\x80-\xff]*)\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*+\r\n")


def split_head(data: bytes, single: frozenset[bytes]) -> tuple[bytes, bytes, bytes, dict[bytes, bytes]]:
    """See the core's."""
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise ValueError("The request line is malformed.")
    if _FIELDS.fullmatch(data, line.end()) is None:
        raise ValueError("A header field is malformed.")
    fields: dict[bytes, bytes] = {}
    for name, value in _FIELD.findall(data, line.end()):
        key = name.lower()
        stripped = value.strip(b" \t")
        if key in fields:
            if key in single:
                raise ValueError(f"The header field {key.decode()} stands twice.")
            stripped = fields[key] + b", " + stripped
        fields[key] = stripped
    method, target, version = line.groups()
    return method, target, version, fields
