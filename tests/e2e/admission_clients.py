"""Clients that come from chosen addresses of this machine, and what they are answered."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
from collections.abc import Iterator

from tests.e2e.serving import WAIT_S, ServerProcess, read_all

__all__ = [
    "NOBODY_ALLOWED",
    "answer_from",
    "figures",
    "http_head",
    "masked_text",
    "open_from",
    "status_from",
    "upgrade_head",
]

# All tests come from loopback, which is on the allow list unless told otherwise.
NOBODY_ALLOWED = {"FASTIM_BANS__ALLOW": ""}


@contextlib.contextmanager
def open_from(server: ServerProcess, address: str) -> Iterator[socket.socket]:
    """Connect from an address of 127.0.0.0/8.

    Raises:
        ConnectionResetError: The server has closed at accept, before the connect returned; or later.
    """
    with socket.socket() as client:
        client.settimeout(WAIT_S)
        client.bind((address, 0))
        client.connect(("127.0.0.1", server.port))
        yield client


def upgrade_head(*lines: str, path: str = "/ws") -> bytes:
    """A WebSocket's request head, with more lines."""
    key = base64.b64encode(os.urandom(16)).decode()
    first = [
        f"GET {path} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
    ]  # fmt: skip
    return "\r\n".join([*first, *lines, "", ""]).encode()


def http_head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]).encode()


def answer_from(server: ServerProcess, address: str, head: bytes) -> bytes:
    """Send a head from an address and return all that is answered until the end; b"" for a reset."""
    with contextlib.suppress(ConnectionError), open_from(server, address) as client:
        client.sendall(head)
        return read_all(client)
    return b""


def status_from(server: ServerProcess, address: str, *lines: str) -> int:
    """Ask for an upgrade from an address; return the status, 0 for a close without any answer."""
    with contextlib.suppress(ConnectionError), open_from(server, address) as client:
        client.sendall(upgrade_head(*lines))
        answer = client.recv(4096)
        return int(answer.split()[1]) if answer else 0
    return 0


def figures(server: ServerProcess) -> dict[str, float]:
    """The metrics without labels."""
    head = http_head("/metrics", f"X-API-Key: {server.api_key}")
    body = answer_from(server, "127.0.0.1", head).partition(b"\r\n\r\n")[2].decode()
    rows = [line.split() for line in body.splitlines() if line and line[0] != "#" and "{" not in line]
    return {row[0]: float(row[1]) for row in rows if len(row) == 2}


def masked_text(*packet: object) -> bytes:
    """A packet as one text frame of a client, masked with zeros."""
    data = json.dumps(list(packet)).encode()
    size = len(data)
    head = bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
    return head + bytes(4) + data
