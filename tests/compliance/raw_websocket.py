"""A WebSocket client for tests that builds each frame byte by byte and looks at each that comes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, Self

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0


class Opcode(IntEnum):
    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Frame(NamedTuple):
    fin: bool
    rsv: int
    opcode: int
    payload: bytes


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x12\x34\x56\x78",
    length_bytes: int | None = None,
) -> bytes:
    """Build a frame (RFC 6455, section 5.2).

    Args:
        rsv: The three reserved bits, RSV1 the highest.
        mask: The masking key; None: not masked.
        length_bytes: Of the extended length, 0, 2 or 8; None: the shortest that will do.
    """
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    first = fin << 7 | rsv << 4 | opcode
    marker = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes((first, marker | (0x80 if mask is not None else 0)))
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    if mask is None:
        return head + payload
    key = (mask * (size // 4 + 1))[:size]
    masked = (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
    return head + mask + masked


def fragments(opcode: int, payload: bytes, size: int, *, rsv: int = 0) -> list[bytes]:
    """Build a message in fragments of ``size`` bytes; an empty payload makes two empty ones."""
    pieces = [payload[at : at + size] for at in range(0, len(payload), size)] or [b"", b""]
    last = len(pieces) - 1
    return [
        frame(0 if at else opcode, piece, fin=at == last, rsv=0 if at else rsv)
        for at, piece in enumerate(pieces)
    ]


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    return frame(Opcode.CLOSE, (struct.pack("!H", code) if code is not None else b"") + reason)


def deflate(data: bytes, window_bits: int = 12, level: int = 6) -> bytes:
    """Compress a message as RFC 7692, section 7.2.1, says."""
    squeezer = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (squeezer.compress(data) + squeezer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflate(data: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


class RawWebSocket:
    """One connection; the handshake is done by the constructor.

    Args:
        port: Of the server, on this machine.
        extensions: The value of Sec-WebSocket-Extensions to offer.
        path: What is asked for.
    """

    def __init__(self, port: int, extensions: str = "", path: str = "/") -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), DEADLINE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        try:
            self._shake_hands(port, extensions, path)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, port: int, extensions: str, path: str) -> None:
        offer = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
        self.send(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Sec-WebSocket-Version: 13\r\n{offer}\r\n".encode()
        )
        head = self._take_until(b"\r\n\r\n").decode()
        assert head.startswith("HTTP/1.1 101 "), head
        assert "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        found = [line for line in head.splitlines() if line.lower().startswith("sec-websocket-extensions:")]
        self.extensions = found[0].partition(":")[2].strip() if found else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    # -- out

    def send(self, *parts: bytes, chop: int = 0) -> None:
        """Send bytes, ``chop`` of them at a time (0: all at once)."""
        data = b"".join(parts)
        step = chop or max(len(data), 1)
        for at in range(0, len(data), step):
            self._socket.sendall(data[at : at + step])

    def send_until_refused(self, *parts: bytes) -> None:
        """Send to a server that may have closed already."""
        with contextlib.suppress(ConnectionError):
            self.send(*parts)

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    # -- in

    def _more(self) -> None:
        data = self._socket.recv(1 << 16)
        if not data:
            raise EOFError("the server closed the connection")
        self._buffer += data

    def _take_until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        return self._take(self._buffer.index(mark) + len(mark))

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def read_frame(self) -> Frame:
        first, second = self._take(2)
        assert not second & 0x80, "a server must not mask"
        size = second & 0x7F
        if size == 126:
            size = int.from_bytes(self._take(2), "big")
            assert size >= 126, "not the shortest length"
        elif size == 127:
            size = int.from_bytes(self._take(8), "big")
            assert size >= 65536, "not the shortest length"
        return Frame(bool(first & 0x80), first >> 4 & 7, first & 15, self._take(size))

    def read_message(self) -> tuple[int, bytes]:
        """Return the next message's opcode and payload, inflated if it was compressed."""
        head = piece = self.read_frame()
        assert head.opcode in (Opcode.TEXT, Opcode.BINARY), head
        payload = [head.payload]
        while not piece.fin:
            piece = self.read_frame()
            assert (piece.opcode, piece.rsv) == (0, 0), piece
            payload.append(piece.payload)
        assert head.rsv in (0, 4)
        assert not head.rsv or self.extensions, "compressed without having been asked for it"
        data = b"".join(payload)
        return head.opcode, inflate(data) if head.rsv else data

    def expect(self, opcode: int, payload: bytes) -> None:
        """Check the next message, or the next control frame."""
        if opcode >= 8:
            assert self.read_frame() == Frame(True, 0, opcode, payload)
        else:
            got_opcode, got = self.read_message()
            assert got_opcode == opcode
            assert len(got) == len(payload)
            assert got == payload

    def expect_close(self, *codes: int | None) -> bytes:
        """Check that a close frame with one of these codes comes (None: without a code), then the end.

        Returns:
            The reason.
        """
        closing = self.read_frame()
        assert closing.opcode == Opcode.CLOSE, closing
        code = int.from_bytes(closing.payload[:2], "big") if closing.payload else None
        assert code in codes, f"closed with {code}: {closing.payload[2:]!r}"
        self.expect_end()
        return closing.payload[2:]

    def expect_end(self) -> None:
        """Check that nothing comes any more but the end of the connection."""
        assert not self._buffer
        # A reset: it had more from us to read when it closed.
        with contextlib.suppress(ConnectionResetError):
            assert self._socket.recv(1) == b""

    def expect_alive(self) -> None:
        """Check that the connection works, and that nothing else is on its way."""
        self.send(frame(Opcode.PING, b"alive?"))
        self.expect(Opcode.PONG, b"alive?")


@contextlib.contextmanager
def echo_server(*arguments: str) -> Iterator[int]:
    """Run ws_echo as a process; yield its port."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, str(ROOT / "tests/compliance/ws_echo.py"), "0", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1])
        finally:
            process.terminate()
            assert process.wait(DEADLINE_S) == 0
