"""A hub and the peers of its connections, over either driver, for tests that look at every byte."""

import contextlib
import json
import select
import socket
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import msgpack

from fastim._core.hub import EventKind, Hub
from tests.reference import frames as reference

HEAD = b"GET /ws HTTP/1.1\r\nHost: example\r\n\r\n"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
SECOND_NS = 1_000_000_000
KEY = b"\x0a\xb1\x0c\xd3"


class Frame(NamedTuple):
    fin: bool
    rsv: int
    opcode: int
    payload: bytes


class Owner:
    """What stands for a session: the subject of a connection's events."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.handle = 0

    def __repr__(self) -> str:
        return f"Owner({self.name})"


def client_frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    return reference.encode_frame(opcode, payload, fin, rsv, KEY)


def parse_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """Return the whole frames of a server and what is left."""
    found = []
    while (header := reference.decode_header(data)) is not None and len(data) >= header.size + header.length:
        assert header.key is None
        end = header.size + header.length
        found.append(Frame(header.fin, header.rsv, header.opcode, data[header.size : end]))
        data = data[end:]
    return found, data


def inflate(data: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


def deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def packets_of(frame: Frame) -> list[Any]:
    """Return a frame's packets, of a batch or single."""
    data = inflate(frame.payload) if frame.rsv else frame.payload
    value = json.loads(data) if frame.opcode == reference.TEXT else msgpack.unpackb(data)
    return value if isinstance(value[0], list) else [value]


class Peer:
    """The client's end of a connection."""

    def __init__(self, rig: "Rig") -> None:
        self.rig = rig
        self.handle = 0
        self.owner: Owner | None = None
        self.ended = False  # the server has ended the stream
        self.data = b""  # received and not looked at

    def send(self, data: bytes) -> None:
        raise NotImplementedError

    def read(self, max_bytes: int = 1 << 30) -> int:
        """Receive what is there into ``data``; returns how much."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def frames(self) -> list[Frame]:
        """Run the hub until it rests and return the frames received."""
        self.rig.rest(self)
        found, self.data = parse_frames(self.data)
        return found

    def packets(self) -> list[Any]:
        return [packet for frame in self.frames() for packet in packets_of(frame)]


class SocketPeer(Peer):
    def __init__(self, rig: "Rig", buffer_bytes: int) -> None:
        super().__init__(rig)
        ours, self.socket = socket.socketpair()
        if buffer_bytes:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self.socket.setblocking(False)
        self.handle = rig.hub.adopt(ours.detach(), "192.0.2.7", rig.now_ns)

    def send(self, data: bytes) -> None:
        """Send all of it, letting the hub read meanwhile.

        Raises:
            TimeoutError: The hub does not read, because the connection is paused.
        """
        refused = 0
        while data:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                refused += 1
                if refused > 500:
                    raise TimeoutError from None
                self.rig.tick()
            except (BrokenPipeError, ConnectionResetError):
                return

    def read(self, max_bytes: int = 1 << 30) -> int:
        before = len(self.data)
        with contextlib.suppress(BlockingIOError):
            while max_bytes > 0:
                try:
                    part = self.socket.recv(min(max_bytes, 1 << 16))
                except ConnectionResetError:
                    part = b""
                if not part:
                    self.ended = True
                    break
                self.data += part
                max_bytes -= len(part)
        return len(self.data) - before

    def close(self) -> None:
        self.socket.close()


class FedPeer(Peer):
    def __init__(self, rig: "Rig") -> None:
        super().__init__(rig)
        self.handle = rig.hub.open_fed("192.0.2.7", rig.now_ns)

    def send(self, data: bytes) -> None:
        self.rig.hub.feed(self.handle, data, self.rig.now_ns)

    def read(self, max_bytes: int = 1 << 30) -> int:
        part = self.rig.hub.take(self.handle, max_bytes)
        self.data += part
        if self.rig.hub.take_finished(self.handle):
            self.ended = True
        return len(part)

    def close(self) -> None:
        self.rig.hub.feed_eof(self.handle, self.rig.now_ns)


class Rig:
    """A hub with a clock of its own."""

    def __init__(self, driver: str, **options: Any) -> None:
        self.driver = driver
        self.now_ns = 7 * SECOND_NS
        self.dirty_calls = 0
        self.on_dirty: Callable[[], None] = lambda: None
        self.hub = Hub(on_dirty=self._on_dirty, **options)
        self.events: list[tuple[int, Any, Any]] = []
        self.peers: list[Peer] = []

    def _on_dirty(self) -> None:
        self.dirty_calls += 1
        self.on_dirty()

    def poll(self) -> list[tuple[int, Any, Any]]:
        events = self.hub.poll(self.now_ns)
        self.events += events
        return events

    def flush(self) -> None:
        self.hub.flush(self.now_ns)
        ready = self.hub.fed_ready()
        assert len(ready) == len(set(ready))

    def tick(self, after_ns: int = 1_000_000) -> list[tuple[int, Any, Any]]:
        self.now_ns += after_ns
        events = self.poll()
        self.flush()
        return events

    def rest(self, *reading: Peer) -> None:
        """Run until nothing happens any more, with these peers reading."""
        quiet = 0
        while quiet < 3:
            moved = bool(self.tick(0)) + sum(peer.read() for peer in reading)
            quiet = 0 if moved or self.hub.pending else quiet + 1

    def take_events(self, kind: EventKind | None = None) -> list[tuple[Any, Any]]:
        """Return (subject, data) of the events so far and forget all of them."""
        found = [(subject, data) for k, subject, data in self.events if kind is None or k == kind]
        self.events.clear()
        return found

    def connect(self, buffer_bytes: int = 0) -> Peer:
        """A connection whose request head is awaited."""
        peer = SocketPeer(self, buffer_bytes) if self.driver == "epoll" else FedPeer(self)
        self.peers.append(peer)
        return peer

    def decide(self, behind: bytes = b"", buffer_bytes: int = 0) -> Peer:
        """A connection whose head has come."""
        peer = self.connect(buffer_bytes)
        peer.send(HEAD + behind)
        self.tick()
        assert self.events.pop() == (EventKind.HEAD, peer.handle, (HEAD, "192.0.2.7"))
        return peer

    def open(self, name: str = "", buffer_bytes: int = 0, behind: bytes = b"", **upgrade: Any) -> Peer:
        """An open connection; the response is already read."""
        peer = self.decide(behind, buffer_bytes)
        batch = upgrade.pop("batch", False)
        peer.owner = Owner(name)
        peer.owner.handle = peer.handle
        assert self.hub.upgrade(peer.handle, RESPONSE, peer.owner, **upgrade)
        if batch:
            assert self.hub.configure(peer.handle, batch=True)
        self.flush()
        peer.read()
        assert peer.data == RESPONSE
        peer.data = b""
        return peer

    def wait(self, condition: Callable[[], bool], polls: int = 2_000) -> None:
        """For what the kernel does in its own time: poll whenever epoll has something."""
        for _ in range(polls):
            if condition():
                return
            select.select([self.hub.fileno()], [], [], 0.01)
            self.tick()
        raise AssertionError("it did not come")

    def end(self) -> None:
        assert self.hub.pools_clean()
        self.hub.shutdown()
        for peer in self.peers:
            if isinstance(peer, SocketPeer):
                peer.socket.close()
