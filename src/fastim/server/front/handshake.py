"""A WebSocket's opening handshake (RFC 6455, section 4; RFC 7692), from the request's bytes to the 101's.

Plain functions over bytes: no socket, no setting, no clock. What cannot be served raises ``Refusal``, which
knows its HTTP answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote_to_bytes

from fastim._core.hub import Encoding
from fastim._core.requesthead import split_head

__all__ = [
    "SUBPROTOCOLS",
    "Head",
    "Refusal",
    "accept_key",
    "accept_response",
    "asked_path",
    "check_upgrade",
    "choose_subprotocol",
    "content_length",
    "first_subprotocol",
    "negotiate_deflate",
    "origin_allowed",
    "parse_head",
    "problem_response",
    "query_value",
    "reason_of",
    "split_target",
    "wants_close",
    "wants_upgrade",
]

SUBPROTOCOLS: Final[Mapping[str, Encoding]] = {
    "fastim.v1.json": Encoding.JSON,
    "fastim.v1.msgpack": Encoding.MSGPACK,
}

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One element of Sec-WebSocket-Extensions: a name and parameters, a value is a token or a quoted token.
_EXTENSION: Final = re.compile(
    rb"(" + _TOKEN + rb")((?:[ \t]*;[ \t]*" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb'|"' + _TOKEN + rb'"))?)*+)'
)
_PARAMETER: Final = re.compile(rb";[ \t]*(" + _TOKEN + rb')(?:="?(' + _TOKEN + rb')"?)?')
_SINGLE: Final = frozenset(
    {b"host", b"origin", b"authorization", b"sec-websocket-key", b"sec-websocket-version"}
)
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443", b"ws": b"80", b"wss": b"443"}
MAX_LENGTH_DIGITS: Final = 15
_REASONS: Final = {
    101: "Switching Protocols",
    200: "OK",
    204: "No Content",
    304: "Not Modified",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    426: "Upgrade Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Refusal(Exception):
    """A request that gets an HTTP answer instead of an upgrade.

    Args:
        status: The HTTP status.
        detail: One sentence for the developer at the other end.
        headers: More header fields for the answer.
    """

    def __init__(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers

    def body(self) -> tuple[str, bytes]:
        """Return the answer's media type and body: a problem (RFC 9457)."""
        problem = {
            "type": "about:blank",
            "title": _REASONS.get(self.status, "Error"),
            "status": self.status,
            "detail": self.detail,
        }
        return "application/problem+json", json.dumps(problem).encode()


class Head(NamedTuple):
    """A request's head; field names in lower case, values of a repeated field joined by a comma."""

    method: bytes
    path: bytes
    query: bytes
    version: bytes
    fields: dict[bytes, bytes]


def parse_head(data: bytes) -> Head:
    """Parse a request's head strictly, up to and with its blank line.

    A bare CR or LF, a NUL, a folded line, a space before a colon and a repeated field that may stand once are
    refused: what two parsers read differently is how requests are smuggled.

    Raises:
        Refusal: 400.
    """
    try:
        method, target, version, fields = split_head(data, _SINGLE)
    except ValueError as error:
        raise Refusal(400, str(error)) from None
    path, query = split_target(target)
    return Head(method, path, query, version, fields)


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return the path and the query that a request's target names."""
    if target.startswith((b"http://", b"https://")):  # absolute form (RFC 9112, section 3.2.2)
        target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
    path, _, query = target.partition(b"?")
    return unquote_to_bytes(path) if b"%" in path else path, query


def asked_path(data: bytes) -> bytes | None:
    """Return the path that the beginning of a request asks for; None: more of it is needed.

    What is no request has the path of its first line's second word, or an empty one.
    """
    line, end, _ = data.partition(b"\n")
    words = line.split(b" ", 2)
    if len(words) > 2:
        return split_target(words[1])[0]
    return b"" if end else None


def _tokens(value: bytes) -> list[bytes]:
    return [item.strip(b" \t").lower() for item in value.split(b",")]


def content_length(head: Head) -> int:
    """Return the size of a request's body, bytes; -1 if it is sent in chunks.

    Raises:
        Refusal: 400: it is malformed, stands more than once, or stands beside a transfer coding. Two parsers
            would find the next request in two places.
    """
    value = head.fields.get(b"content-length")
    if b"transfer-encoding" in head.fields:
        if value is not None:
            raise Refusal(400, "Content-Length and Transfer-Encoding exclude each other.")
        return -1
    if value is None:
        return 0
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise Refusal(400, "Content-Length is malformed.")
    return int(value)


def wants_close(head: Head) -> bool:
    """Tell whether the client wants the connection to end with the answer."""
    connection = head.fields.get(b"connection")
    return connection is not None and b"close" in _tokens(connection)


def wants_upgrade(head: Head) -> bool:
    """Tell whether the request asks for a WebSocket."""
    upgrade = head.fields.get(b"upgrade")
    return upgrade is not None and b"websocket" in _tokens(upgrade)


def check_upgrade(head: Head) -> bytes:
    """Check what RFC 6455, section 4.2.1, asks of an opening handshake; return its key.

    Raises:
        Refusal: 400, 405 or 426.
    """
    fields = head.fields
    if head.method != b"GET":
        raise Refusal(405, "A WebSocket is opened by GET.", (("Allow", "GET"),))
    if head.version != b"1.1":
        raise Refusal(400, "A WebSocket is opened over HTTP/1.1.")
    if b"host" not in fields:
        raise Refusal(400, "The header field Host is missing.")
    if b"upgrade" not in _tokens(fields.get(b"connection", b"")):
        raise Refusal(400, "The header field Connection does not name Upgrade.")
    if fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields:
        raise Refusal(400, "An opening handshake has no body.")
    if fields.get(b"sec-websocket-version") != b"13":
        raise Refusal(426, "Only version 13 of the protocol is spoken.", (("Sec-WebSocket-Version", "13"),))
    key = fields.get(b"sec-websocket-key", b"")
    try:
        valid = len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid:
        raise Refusal(400, "Sec-WebSocket-Key is not the base64 of 16 bytes.")
    return key


def accept_key(key: bytes) -> bytes:
    """Answer a handshake's key (RFC 6455, section 4.2.2)."""
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def choose_subprotocol(offered: bytes | None) -> tuple[str | None, Encoding]:
    """Choose the client's first subprotocol that we know, and the encoding it stands for.

    Args:
        offered: The value of Sec-WebSocket-Protocol; None: none was offered, which means JSON.

    Raises:
        Refusal: 400 if only unknown ones were offered.
    """
    if offered is None:
        return None, Encoding.JSON
    for item in offered.split(b","):
        name = item.strip(b" \t").decode("latin-1")
        if name in SUBPROTOCOLS:
            return name, SUBPROTOCOLS[name]
    raise Refusal(
        400, f"None of the offered subprotocols is known; this server speaks {' and '.join(SUBPROTOCOLS)}."
    )


def first_subprotocol(offered: bytes | None) -> str | None:
    """Return the first of the offered subprotocols, for an endpoint to which they mean nothing.

    A browser that offers some breaks the connection off if none is chosen.
    """
    if offered is None:
        return None
    name = offered.partition(b",")[0].strip(b" \t")
    return name.decode() if re.fullmatch(_TOKEN, name) else None


def _window_bits(value: bytes) -> int:
    """Read a window size; 0 if it is none (RFC 7692, section 7.1.2: 8 to 15, no leading zero)."""
    bits = int(value) if value.isdigit() and len(value) <= 2 and not value.startswith(b"0") else 0
    return bits if 8 <= bits <= 15 else 0


def _accept_offer(parameters: list[tuple[bytes, bytes]], window_bits: int) -> bytes | None:
    """Answer one offer of permessage-deflate, or decline it with None (RFC 7692, section 7.1)."""
    response = [b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"]
    seen: set[bytes] = set()
    for name, value in parameters:
        if name in seen:
            return None
        seen.add(name)
        if name in (b"server_no_context_takeover", b"client_no_context_takeover"):
            if value:
                return None
        elif name == b"server_max_window_bits":
            # All recipients share one compressed frame, so we never go below our own window.
            if _window_bits(value) < window_bits:
                return None
            response.append(b"server_max_window_bits=%d" % window_bits)
        elif name == b"client_max_window_bits":
            bits = _window_bits(value) if value else 15
            if not bits:
                return None
            response.append(b"client_max_window_bits=%d" % min(bits, window_bits))
        else:
            return None
    return b"; ".join(response)


def negotiate_deflate(offered: bytes | None, window_bits: int) -> bytes | None:
    """Take the first offer of permessage-deflate that goes without context takeover and with our window.

    Args:
        offered: The value of Sec-WebSocket-Extensions; None: there is none.
        window_bits: Our LZ77 window, 9 to 15; 0: all offers are declined, unread.

    Returns:
        The answer's Sec-WebSocket-Extensions, or None to go without compression.

    Raises:
        Refusal: 400 if the value does not follow the grammar (RFC 6455, section 9.1).
    """
    if not offered or not window_bits:
        return None
    accepted: bytes | None = None
    position, end = 0, len(offered)
    while position < end:
        if offered[position] in b" \t,":  # empty list elements are allowed (RFC 9110, section 5.6.1.2)
            position += 1
            continue
        element = _EXTENSION.match(offered, position)
        if element is None:
            raise Refusal(400, "Sec-WebSocket-Extensions is malformed.")
        position = element.end()
        while position < end and offered[position] in b" \t":
            position += 1
        if position < end and offered[position] != 0x2C:
            raise Refusal(400, "Sec-WebSocket-Extensions is malformed.")
        if accepted is None and element[1] == b"permessage-deflate":
            accepted = _accept_offer(_PARAMETER.findall(element[2]), window_bits)
    return accepted


def _authority(value: bytes, scheme: bytes) -> bytes:
    """Normalize host and port: lower case, without the port that the scheme implies."""
    value = value.lower()
    host, colon, port = value.rpartition(b":")
    if colon and port == _DEFAULT_PORTS.get(scheme) and not host.endswith(b":"):
        return host
    return value


def origin_allowed(origin: bytes | None, host: bytes, allowed: Collection[str]) -> bool:
    """Tell whether a browser's page of this origin may connect.

    Args:
        origin: The header field; None (no browser): allowed.
        host: The request's Host; a page from the same host and port is allowed. The schemes are not compared:
            a proxy in front of us may have taken the TLS off.
        allowed: More origins, such as ``https://app.example.com``; ``*`` allows each.
    """
    if origin is None:
        return True
    scheme, separator, authority = origin.lower().partition(b"://")
    if scheme and authority and _authority(authority, scheme) == _authority(host, scheme):
        return True
    if "*" in allowed:
        return True
    given = scheme + separator + _authority(authority, scheme)
    for item in allowed:
        other, mark, rest = item.encode().lower().rstrip(b"/").partition(b"://")
        if other + mark + _authority(rest, other) == given:
            return True
    return False


def query_value(query: bytes, name: str) -> str | None:
    """Return a query's first value of that name, or None."""
    for key, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=None):
        if key == name:
            return value
    return None


def accept_response(
    key: bytes,
    subprotocol: str | None,
    deflate: bytes | None,
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """Build the 101 answer; ``headers`` are more of its fields."""
    lines = [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Sec-WebSocket-Accept: ",
        accept_key(key),
    ]
    if subprotocol is not None:
        lines += (b"\r\nSec-WebSocket-Protocol: ", subprotocol.encode())
    if deflate is not None:
        lines += (b"\r\nSec-WebSocket-Extensions: ", deflate)
    lines += (f"\r\n{name}: {value}".encode("latin-1") for name, value in headers)
    lines.append(b"\r\n\r\n")
    return b"".join(lines)


def reason_of(status: int) -> str:
    """Return what an HTTP status means, as its line says it."""
    return _REASONS.get(status, "Error" if status >= 400 else "OK")


def problem_response(refusal: Refusal, with_body: bool = True) -> bytes:
    """Build the HTTP answer of a refusal: after which the connection ends.

    Args:
        refusal: What is answered.
        with_body: False where the request was a HEAD.
    """
    reason = reason_of(refusal.status)
    media_type, body = refusal.body()
    more = "".join(f"{name}: {value}\r\n" for name, value in refusal.headers)
    head = (
        f"HTTP/1.1 {refusal.status} {reason}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (body if with_body else b"")
