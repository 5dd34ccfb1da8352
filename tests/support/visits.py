"""Very many short visits to a server, some hundred at a time: raw sockets, one epoll, no library."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator

import msgpack

Script = Generator[bytes | None, None, None]
"""What a visitor does: it yields the bytes that it waits to see in the answer; None: it waits for the end."""

HEAD = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: fastim.v1.{encoding}\r\n{more}\r\n"
)
GOING_AWAY = b"\x88\x82\x00\x00\x00\x00\x03\xe9"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time
ADDRESSES = 8  # loopback addresses to come from: each has its own ports


def frame(first: int, payload: bytes) -> bytes:
    """Make a client's frame; masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([first]) + length + bytes(4) + payload


def hello(token: str, binary: bool = False, **body: object) -> bytes:
    """Make a whole beginning: the request's head and a hello right behind it."""
    packet = ["hello", {"token": token} | body, 1]
    head = HEAD.format(encoding="msgpack" if binary else "json", more="").encode()
    return head + (frame(0x82, msgpack.packb(packet)) if binary else frame(0x81, json.dumps(packet).encode()))


class Visitor:
    """One connection of a script."""

    def __init__(self, port: int, number: int) -> None:
        self.socket = socket.socket()
        self.socket.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.received = b""
        self.over = False
        self.wanted: bytes | None = None
        self.name = ""
        self.script: Script

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self.socket.send(data)

    def reset(self) -> None:
        """Let closing be a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def read(self) -> None:
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.received += data
        self.over = not data

    def go_on(self) -> bool:
        """Run the script as far as it gets; return False at its end."""
        while self.over if self.wanted is None else self.wanted in self.received:
            try:
                self.wanted = next(self.script)
            except StopIteration:
                return False
        assert not self.over, f"{self.name}: ended before {self.wanted!r}, after {self.received!r}"
        return True


def visit(
    port: int,
    scripts: Iterator[tuple[str, Callable[[Visitor], Script]]],
    at_a_time: int,
    deadline_s: float,
) -> Counter[str]:
    """Play scripts to their end; return how many of each name."""
    played: Counter[str] = Counter()
    open_visitors: dict[int, Visitor] = {}
    poller = select.epoll()
    end_s = time.monotonic() + deadline_s
    try:
        number = 0
        more = True
        while more or open_visitors:
            while more and len(open_visitors) < at_a_time:
                entry = next(scripts, None)
                if entry is None:
                    more = False
                    break
                number += 1
                visitor = Visitor(port, number)
                visitor.name, script = entry
                visitor.script = script(visitor)
                visitor.wanted = next(visitor.script, b"")
                played[visitor.name] += 1
                open_visitors[visitor.socket.fileno()] = visitor
                if visitor.go_on():
                    poller.register(visitor.socket, select.EPOLLIN)
                else:
                    del open_visitors[visitor.socket.fileno()]
                    visitor.socket.close()
            for descriptor, _ in poller.poll(1.0):
                visitor = open_visitors[descriptor]
                visitor.read()
                if not visitor.go_on():
                    del open_visitors[descriptor]
                    visitor.socket.close()
            assert time.monotonic() < end_s, f"not in time: {Counter(v.name for v in open_visitors.values())}"
    finally:
        for visitor in open_visitors.values():
            visitor.socket.close()
        poller.close()
    return played
