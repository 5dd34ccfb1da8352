"""A connection that speaks HTTP/1.1 byte by byte, so that a test says what is sent and sees what comes."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple

from tests.e2e.serving import WAIT_S, ServerProcess, read_all


class Answer(NamedTuple):
    """An HTTP answer; field names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def data(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A connection, and the answers on it."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def get(self, path: str, *lines: str) -> Answer:
        """Ask, and return the answer."""
        self.send(request(path, *lines))
        return self.answer()

    def post(self, path: str, body: bytes, *lines: str) -> Answer:
        self.send(post(path, body, *lines))
        return self.answer()

    def answer(self, has_body: bool = True) -> Answer:
        """Return the next answer."""
        head = self._until(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        pairs = [each.split(": ", 1) for each in lines]
        fields = {name.lower(): value for name, value in pairs}
        assert len(fields) == len(lines), head
        body = self._take(int(fields.get("content-length", 0)) if has_body else 0)
        return Answer(int(line.split(" ")[1]), fields, body)

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._receive()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._receive()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return found

    def _receive(self) -> None:
        data = self.socket.recv(65_536)
        assert data, f"ended behind {self._buffer!r}"
        self._buffer += data

    def ended(self) -> bool:
        """Wait until the server ends the connection; tell whether nothing came before."""
        return self._buffer + read_all(self.socket) == b""


def request(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *lines, "", ""]).encode()


def post(path: str, body: bytes, *lines: str) -> bytes:
    return request(path, f"Content-Length: {len(body)}", *lines, method="POST") + body


@contextlib.contextmanager
def dial(server: ServerProcess, source: str = "127.0.0.1") -> Iterator[Wire]:
    """Connect, with TLS to a server that has it."""
    address = ("127.0.0.1", server.port)
    with socket.create_connection(address, WAIT_S, source_address=(source, 0)) as connection:
        if server.scheme == "http":
            yield Wire(connection)
            return
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(connection) as wrapped:
            yield Wire(wrapped)
