"""The query of an Engine.IO request."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_to_bytes

__all__ = ["Query", "parse_query"]


class Query(NamedTuple):
    """What of a query is the protocol's; empty where it is not said."""

    version: bytes = b""
    transport: bytes = b""
    sid: bytes = b""
    is_jsonp: bool = False


def parse_query(query: bytes) -> Query:
    """Read a query; of a name that comes twice the last counts, as for the reference implementation.

    **Cost**: O(its size); every poll has one, so what is not ours is passed over as it is.
    """
    version = transport = sid = b""
    is_jsonp = False
    for field in query.split(b"&"):
        name, _, value = field.partition(b"=")
        if b"%" in value:
            value = unquote_to_bytes(value)
        if name == b"sid":
            sid = value
        elif name == b"transport":
            transport = value
        elif name == b"EIO":
            version = value
        elif name == b"j":
            is_jsonp = True
    return Query(version, transport, sid, is_jsonp)
