"""Very many clients of the native protocol in one process: raw sockets and one epoll, no library.

    python -m tests.support.swarm

reads commands from standard input, a JSON object a line with the command's name as ``do``, and answers each
with a line once it is done: ``Swarm`` has a method for each. ``Herd`` in ``tests/support/herd.py`` is the
other end of the pipe. Times are seconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import json
import os
import random
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

ADDRESSES = 8  # loopback addresses to come from: each has its own ports
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time
READ_BYTES = 262_144
STAY_AWAY = frozenset({4001, 4003, 4004, 4005})
HEAD = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: fastim.v1.json\r\n{more}\r\n"
)
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A


class Phase(IntEnum):
    """How far a client has come."""

    AWAY = 0
    CONNECTING = 1
    ENTERING = 2  # head and hello are sent
    READY = 3
    CLOSING = 4  # the server has said close


class Peer:
    """A client.

    Attributes:
        deaf: It reads nothing once it is in.
        seen: The last ``seq`` of each conversation.
        told_ms, told_s: The ``retry_after_ms`` it was told last, and when; 0: none.
        close_code, closed_s: How and when its last connection ended.
    """

    __slots__ = (
        "buffer",
        "close_code",
        "closed_s",
        "deaf",
        "index",
        "out",
        "phase",
        "received",
        "resumed",
        "seen",
        "session",
        "socket",
        "token",
        "told_ms",
        "told_s",
    )

    def __init__(self, index: int, token: str) -> None:
        self.index = index
        self.token = token
        self.socket: socket.socket | None = None
        self.phase = Phase.AWAY
        self.buffer = b""
        self.out = b""
        self.session = ""
        self.seen: dict[str, int] = {}
        self.received = 0
        self.deaf = False
        self.resumed = False
        self.told_ms = 0
        self.told_s = 0.0
        self.close_code = 0
        self.closed_s = 0.0


def frame(first: int, payload: bytes) -> bytes:
    """Build a client's frame under a mask of zeros, which costs nothing."""
    size = len(payload)
    if size < 126:
        return bytes((first, 0x80 | size)) + b"\0\0\0\0" + payload
    if size < 65_536:
        return bytes((first, 0xFE)) + struct.pack(">H", size) + b"\0\0\0\0" + payload
    return bytes((first, 0xFF)) + struct.pack(">Q", size) + b"\0\0\0\0" + payload


class Swarm:
    """The clients and the epoll they share.

    Attributes:
        counts: ``messages`` (new ones), ``repeated`` (seqs that came twice), ``holes`` (seqs that were
            skipped without a ``gap``), ``oks``, ``pings``, ``failed``, ``refused.503`` (upgrades by HTTP
            status), ``error.code`` and ``event.name``.
        log: Events that were asked for by ``keep``: ``(seconds, index, event, body)``.
        closes: ``(seconds, index, code)`` of all connections that ended but by ``drop``.
    """

    def __init__(self) -> None:
        self.poller = select.epoll()
        self.peers: list[Peer] = []
        self.counts: Counter[str] = Counter()
        self.log: list[tuple[float, int, str, Any]] = []
        self.closes: list[tuple[float, int, int]] = []
        self.on_packet: Callable[[Peer, list[Any], float], None] | None = None
        self._by_descriptor: dict[int, Peer] = {}
        self._ready = 0
        self._opening = 0
        self._waiting: list[Peer] = []  # to be connected
        self._failed = 0
        self._returns: list[tuple[float, int]] = []
        self._port = 0
        self._at_a_time = 256
        self._hello: dict[str, Any] = {}
        self._in_head = False
        self._keep: frozenset[str] = frozenset()
        self._ack = False
        self._return = False
        self._backoff_s = 0.5
        self._path = "/ws"
        self._ref = 1
        self._dice = random.Random(1)

    # -- commands

    def connect(
        self,
        port: int,
        tokens: str,
        at_a_time: int = 256,
        hello: dict[str, Any] | None = None,
        in_head: bool = False,
        seen: dict[str, int] | None = None,
        ack: bool = False,
        deaf: bool = False,
        path: str = "/ws",
        timeout_s: float = 120.0,
    ) -> dict[str, Any]:
        """Connect a client for each line of a file of tokens, beside those there are; wait for their ``ok``.

        Args:
            port: Of the server.
            tokens: The file.
            at_a_time: Connections that are being opened at once.
            hello: More fields of ``hello``, like ``{"batch": true, "acks": true}``.
            in_head: Show the token in the request's head instead of in ``hello``.
            seen: What all are taken to have seen; with it their first message is checked for holes, too.
            ack: Acknowledge what arrives, once a read.
            deaf: Read nothing after the ``ok``, through a small window.
        """
        self._port, self._at_a_time, self._in_head, self._ack = port, at_a_time, in_head, ack
        self._hello = hello or {}
        self._path = path
        first = len(self.peers)
        for number, token in enumerate(Path(tokens).read_text().split(), first):
            peer = Peer(number, token)
            peer.seen = dict(seen or {})
            peer.deaf = deaf
            self.peers.append(peer)
        return self._connect(self.peers[first:], timeout_s)

    def resume(
        self, port: int = 0, at_a_time: int = 0, timeout_s: float = 120.0, session: bool = True
    ) -> dict[str, Any]:
        """Connect all who are away again, with session and ``seen``; wait for their ``ok``.

        Args:
            port: Of the server; 0: as before.
            at_a_time: 0: as before.
            session: False: begin anew, as a client that lost its state.
        """
        self._port = port or self._port
        self._at_a_time = at_a_time or self._at_a_time
        away = [peer for peer in self.peers if peer.phase == Phase.AWAY]
        for peer in away:
            peer.session = peer.session if session else ""
        return self._connect(away, timeout_s)

    def drop(self, how: str = "rst", only: list[int] | None = None) -> dict[str, Any]:
        """End all connections at once, without a closing handshake.

        Args:
            how: ``rst`` or ``fin``.
            only: Indices of the clients; None: all.
        """
        count = 0
        for peer in self.peers if only is None else [self.peers[index] for index in only]:
            if peer.socket is None:
                continue
            if how == "rst":
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.leave(peer)
            count += 1
        return {"dropped": count}

    def send(self, packets: list[list[Any]]) -> dict[str, Any]:
        """Send packets: ``[index, packet]`` each; a packet may be a batch."""
        for index, packet in packets:
            self.write(self.peers[index], frame(TEXT, json.dumps(packet).encode()))
        return {"sent": len(packets)}

    def post(self, posts: list[list[Any]], batch: int = 50) -> dict[str, Any]:
        """Send messages in batches: ``[index, conversation, count]`` each; ``wait`` for ``oks`` behind it."""
        total = 0
        for index, conversation, count in posts:
            for first in range(0, count, batch):
                packets = []
                for number in range(first, min(first + batch, count)):
                    self._ref += 1
                    body = {"conversation": conversation, "content": f"{index} says {number}"}
                    packets.append(["message", body, self._ref])
                self.write(self.peers[index], frame(TEXT, json.dumps(packets).encode()))
            total += count
        return {"posted": total}

    def wait(
        self,
        timeout_s: float = 60.0,
        each: int | None = None,
        ready: int | None = None,
        away: int | None = None,
        **at_least: int,
    ) -> dict[str, Any]:
        """Wait for what is named, all of it; the answer is ``report`` with ``in_time``.

        Args:
            each: Messages that every client has received since the last ``clear``.
            ready, away: Clients that are connected, or not, exactly.
            at_least: Figures of ``counts``: ``messages=1000``.
        """

        def reached() -> bool:
            return (
                all(self.counts[name] >= value for name, value in at_least.items())
                and (ready is None or self._ready == ready)
                and (away is None or self._away() == away)
                and (each is None or all(peer.received >= each for peer in self.peers))
            )

        in_time = self.run_until(reached, timeout_s)
        return self.report() | {"in_time": in_time}

    def report(self) -> dict[str, Any]:
        """Tell how it stands."""
        return {
            "ready": self._ready,
            "away": self._away(),
            "resumed": sum(peer.resumed for peer in self.peers),
            "least": min((peer.received for peer in self.peers), default=0),
            "most": max((peer.received for peer in self.peers), default=0),
            "counts": dict(self.counts),
            "codes": dict(Counter(code for _, _, code in self.closes)),
            "cpu_s": time.process_time(),
        }

    def clear(self) -> dict[str, Any]:
        """Begin to count anew: ``counts``, ``received`` of each, ``log`` and ``closes``."""
        self.counts.clear()
        self.log.clear()
        self.closes.clear()
        for peer in self.peers:
            peer.received = 0
        return {}

    def keep(self, events: list[str]) -> dict[str, Any]:
        """Keep these events in the log from now on."""
        self._keep = frozenset(events)
        return {}

    def events(self) -> dict[str, Any]:
        """Return the log and the ends of connections."""
        return {"events": self.log, "closes": self.closes}

    def seen(self) -> dict[str, Any]:
        """Return what each client has seen."""
        return {"seen": [peer.seen for peer in self.peers]}

    def returning(self, on: bool = True, port: int = 0, backoff_s: float = 0.5) -> dict[str, Any]:
        """Let clients come back by themselves as the protocol asks, or no longer.

        Args:
            port: Where to; 0: as before.
            backoff_s: Ceiling of the pause, on top of what the server asked for; no backoff after it.
        """
        self._return, self._port, self._backoff_s = on, port or self._port, backoff_s
        if on:
            for peer in self.peers:
                if peer.phase == Phase.AWAY:
                    self._come_back(peer, time.monotonic())
        else:
            self._returns.clear()
        return {}

    def run(self, seconds: float) -> dict[str, Any]:
        """Read for so long; the answer is ``report``."""
        self.run_until(lambda: False, seconds)
        return self.report()

    # -- the loop

    def run_until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Serve the sockets until something is so; False if the time is over."""
        end_s = time.monotonic() + timeout_s
        while not done():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self.turn(min(left_s, 0.05))
        return True

    def turn(self, timeout_s: float) -> None:
        """Serve what the sockets have, or wait for so long."""
        now_s = time.monotonic()
        while self._returns and self._returns[0][0] <= now_s:
            peer = self.peers[heapq.heappop(self._returns)[1]]
            if peer.phase == Phase.AWAY:
                self._waiting.append(peer)
        while self._waiting and self._opening < self._at_a_time:
            self.open(self._waiting.pop())
        for descriptor, flags in self.poller.poll(timeout_s, 1024):
            peer_of = self._by_descriptor.get(descriptor)
            if peer_of is None:
                continue  # the control pipe, or one whose end came in the same turn
            if flags & select.EPOLLOUT:
                self._writable(peer_of)
            if flags & ~select.EPOLLOUT and peer_of.socket is not None:
                if peer_of.deaf and peer_of.phase == Phase.READY:
                    self._ended(peer_of)  # not read, so it is the end that epoll tells of
                else:
                    self._readable(peer_of)

    def _away(self) -> int:
        return sum(peer.phase == Phase.AWAY for peer in self.peers)

    def _connect(self, peers: list[Peer], timeout_s: float) -> dict[str, Any]:
        begin_s = time.monotonic()
        self._failed = 0
        self._waiting.extend(reversed(peers))
        wanted = self._ready + len(peers)
        in_time = self.run_until(lambda: self._ready + self._failed >= wanted, timeout_s)
        return self.report() | {"in_time": in_time, "seconds": time.monotonic() - begin_s}

    def open(self, peer: Peer) -> None:
        """Begin to connect a client; whoever waits for it looks at its phase."""
        peer.socket = connection = socket.socket()
        if peer.deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, for the pair of addresses.
        connection.setsockopt(socket.IPPROTO_IP, 24, 1)
        connection.bind((f"127.0.0.{2 + peer.index % ADDRESSES}", 0))
        peer.phase = Phase.CONNECTING
        peer.buffer = peer.out = b""
        peer.close_code = 0
        self._opening += 1
        self._by_descriptor[connection.fileno()] = peer
        self.poller.register(connection, select.EPOLLIN | select.EPOLLOUT)
        code = connection.connect_ex(("127.0.0.1", self._port))
        if code not in (0, errno.EINPROGRESS):
            self._ended(peer)

    def _writable(self, peer: Peer) -> None:
        assert peer.socket is not None
        if peer.phase == Phase.CONNECTING:
            if peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._ended(peer)
                return
            peer.phase = Phase.ENTERING
            self.poller.modify(peer.socket, select.EPOLLIN)
            self.write(peer, self._beginning(peer))
        elif peer.out:
            out, peer.out = peer.out, b""
            self.poller.modify(peer.socket, select.EPOLLIN)
            self.write(peer, out)

    def _beginning(self, peer: Peer) -> bytes:
        """The request's head and the hello right behind it."""
        body: dict[str, Any] = dict(self._hello)
        more = ""
        if self._in_head:
            more = f"Authorization: Bearer {peer.token}\r\n"
        else:
            body["token"] = peer.token
        if peer.session or peer.seen:
            body["resume"] = {"session": peer.session, "seen": peer.seen}
        head = HEAD.format(path=self._path, more=more).encode()
        return head + frame(TEXT, json.dumps(["hello", body, 1]).encode())

    def write(self, peer: Peer, data: bytes) -> None:
        """Send, now or when there is room; nothing to one who is away."""
        if peer.socket is None:
            return
        if peer.out:
            peer.out += data
            return
        try:
            sent = peer.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._ended(peer)
            return
        if sent < len(data):
            peer.out = data[sent:]
            self.poller.modify(peer.socket, select.EPOLLIN | select.EPOLLOUT)

    def _readable(self, peer: Peer) -> None:
        assert peer.socket is not None
        try:
            data = peer.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(peer)
            return
        now_s = time.monotonic()
        data = peer.buffer + data if peer.buffer else data
        at = 0
        if data[0] == ord("H"):  # no frame begins so: the answer to the upgrade
            at = data.find(b"\r\n\r\n") + 4
            if at < 4:
                peer.buffer = data
                return
            if not data.startswith(b"HTTP/1.1 101"):
                self._turned_away(peer, data, now_s)
                return
        peer.buffer = data[self._frames(peer, data, at, now_s) :]

    def _frames(self, peer: Peer, data: bytes, at: int, now_s: float) -> int:
        """Take whole frames from a place on; returns where the first unfinished one begins."""
        size = len(data)
        touched: dict[str, int] = {}
        while size - at >= 2:
            length = data[at + 1]
            begin = at + 2
            if length == 126:
                length, begin = int.from_bytes(data[begin : begin + 2]), begin + 2
            elif length == 127:
                length, begin = int.from_bytes(data[begin : begin + 8]), begin + 8
            if begin + length > size or begin > size:
                break
            first, payload = data[at], data[begin : begin + length]
            at = begin + length
            if first == TEXT:
                packets = json.loads(payload)
                for packet in packets if packets[0].__class__ is list else (packets,):
                    self._take(peer, packet, now_s, touched)
            elif first == PING:
                self.counts["pings"] += 1
                self.write(peer, frame(PONG, payload))
            elif first == CLOSE:
                peer.close_code = int.from_bytes(payload[:2]) or 1005
                peer.closed_s = now_s
                self._set_phase(peer, Phase.CLOSING)
                self.write(peer, frame(CLOSE, payload[:2]))
            elif first != PONG:
                raise AssertionError(f"a frame that no server sends: {first:#x}")
        if self._ack and touched:
            for conversation, seq in touched.items():
                body = {"conversation": conversation, "seq": seq}
                self.write(peer, frame(TEXT, json.dumps(["ack", body]).encode()))
        return at

    def _take(self, peer: Peer, packet: list[Any], now_s: float, touched: dict[str, int]) -> None:
        event, body = packet[0], packet[1]
        if event == "new_message":
            conversation, seq = body["conversation"], body["seq"]
            if self._see(peer, conversation, seq):
                self.counts["messages"] += 1
                peer.received += 1
                touched[conversation] = seq
        elif event == "ok":
            if packet[2] == 1 and peer.phase == Phase.ENTERING:
                peer.session, peer.resumed = body["session"], body["resumed"]
                peer.told_ms = 0
                self._set_phase(peer, Phase.READY)
                if peer.deaf and peer.socket is not None:
                    self.poller.modify(peer.socket, select.EPOLLRDHUP)
            else:
                self.counts["oks"] += 1
                if "seq" in body and not body.get("duplicate"):
                    self._see(peer, body["conversation"], body["seq"])
        elif event == "error":
            self.counts[f"error.{body['code']}"] += 1
            if peer.phase == Phase.ENTERING and packet[2:] == [1]:
                peer.told_ms, peer.told_s = body.get("retry_after_ms", 0), now_s
                self._ended(peer)
        else:
            self.counts[f"event.{event}"] += 1
            if event == "gap":
                peer.seen[body["conversation"]] = body["last"]
            elif event in ("server_shutdown", "migrate"):
                peer.told_ms, peer.told_s = body["retry_after_ms"], now_s
        if event in self._keep:
            self.log.append((now_s, peer.index, event, body))
        if self.on_packet is not None:
            self.on_packet(peer, packet, now_s)

    def _see(self, peer: Peer, conversation: str, seq: int) -> bool:
        """Note a seq; False if it came before."""
        last = peer.seen.get(conversation)
        if last is not None:
            if seq <= last:
                self.counts["repeated"] += 1
                return False
            self.counts["holes"] += seq - last - 1
        peer.seen[conversation] = seq
        return True

    # -- ends

    def _turned_away(self, peer: Peer, data: bytes, now_s: float) -> None:
        self.counts[f"refused.{data[9:12].decode()}"] += 1
        _, found, rest = data.lower().partition(b"retry-after: ")
        if found:
            peer.told_ms, peer.told_s = int(rest.split(b"\r\n", 1)[0]) * 1000, now_s
        self._ended(peer, http=True)

    def _ended(self, peer: Peer, http: bool = False) -> None:
        """A connection is over, or did not come to be."""
        now_s = time.monotonic()
        before = peer.phase
        if before in (Phase.CONNECTING, Phase.ENTERING):
            self._failed += 1
            self.counts["failed"] += 1
        if not http and before != Phase.CONNECTING:
            if not peer.close_code:
                peer.close_code, peer.closed_s = 1006, now_s
            self.closes.append((peer.closed_s, peer.index, peer.close_code))
        self.leave(peer)
        if self._return and peer.close_code not in STAY_AWAY:
            self._come_back(peer, now_s)

    def _come_back(self, peer: Peer, now_s: float) -> None:
        due_s = max(now_s, peer.told_s + peer.told_ms / 1000) + self._dice.uniform(0, self._backoff_s)
        peer.told_ms = 0
        heapq.heappush(self._returns, (due_s, peer.index))

    def leave(self, peer: Peer) -> None:
        """Close a client's socket; it stays away."""
        assert peer.socket is not None
        del self._by_descriptor[peer.socket.fileno()]
        peer.socket.close()
        peer.socket = None
        peer.buffer = peer.out = b""
        self._set_phase(peer, Phase.AWAY)

    def _set_phase(self, peer: Peer, phase: Phase) -> None:
        if peer.phase in (Phase.CONNECTING, Phase.ENTERING):
            self._opening -= 1
        self._ready += (phase == Phase.READY) - (peer.phase == Phase.READY)
        peer.phase = phase

    def close(self) -> None:
        """Reset all connections and let the epoll go."""
        self.drop()
        self.poller.close()


COMMANDS = frozenset(
    {
        "clear",
        "connect",
        "drop",
        "events",
        "keep",
        "post",
        "report",
        "resume",
        "returning",
        "run",
        "seen",
        "send",
        "wait",
    }
)


def serve(swarm: Swarm) -> None:
    """Carry out the commands on standard input until it ends; the clients are served in between."""
    descriptor = sys.stdin.fileno()
    os.set_blocking(descriptor, False)
    control = select.poll()
    control.register(descriptor, select.POLLIN)
    swarm.poller.register(descriptor, select.EPOLLIN)
    waiting = b""
    while True:
        swarm.turn(1.0)
        if not control.poll(0):
            continue
        data = os.read(descriptor, READ_BYTES)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        for line in lines:
            command = json.loads(line)
            name = command.pop("do")
            try:
                answer = getattr(swarm, name)(**command) if name in COMMANDS else {"error": "no such command"}
            except Exception as error:
                answer = {"error": f"{name}: {error!r}"}
            print(json.dumps(answer), flush=True)


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    swarm = Swarm()
    with contextlib.suppress(KeyboardInterrupt):
        serve(swarm)
    swarm.close()


if __name__ == "__main__":
    main()
