"""Durable messages over many conversations: each sender goes round all of its own.

    python -m benchmarks.system.spread_load --port P --pid SERVER --tokens FILE --conversations N
        [--depth 16] [--secs 4] [--rate 0]

A connection for each token of the file; connection i is user i, and conversation n has the users n·4 to
n·4+3, counted round the number of connections. Each connection keeps ``depth`` messages unacknowledged, the
next one always to the next of its conversations; with a rate no more than so many a second, of all
together. Prints what ``wsload durable`` prints.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import struct
import time
from itertools import cycle
from pathlib import Path

MEMBERS = 4
DRAIN_S = 3.0
PACED_AT_ONCE = 4
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ACK = b'"duplicate":false'
MESSAGE = (
    b'["message",{"conversation":"c%d","client_id":"T=%016x",'
    b'"content":"a message of some sixty-four bytes, as people write them all."},1]'
)


def frame(payload: bytes) -> bytes:
    """Build a text frame under a mask of zeros, which costs a Python sender nothing."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack(">H", size)
    return b"\x81" + length + b"\0\0\0\0" + payload


class Sender:
    """A user's connection and the conversations it goes round."""

    def __init__(self, port: int, token: str, conversations: list[int]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.sendall(UPGRADE)
        self._read_until(b"\r\n\r\n")
        self.socket.sendall(frame(json.dumps(["hello", {"token": token}, 1]).encode()))
        self._read_until(b'["ok",')
        self.socket.setblocking(False)
        self._next = cycle(conversations).__next__

    def _read_until(self, mark: bytes) -> None:
        data = b""
        while mark not in data:
            part = self.socket.recv(65_536)
            if not part:
                raise SystemExit(f"the server closed the connection: {data[:200]!r}")
            data += part

    def post(self, first: int, count: int) -> None:
        """Send messages with time-ordered client ids from ``first`` on."""
        self.socket.sendall(
            b"".join(frame(MESSAGE % (self._next(), first + number)) for number in range(count))
        )

    def acknowledged(self) -> int:
        """Read what is there and count the acknowledgements in it; one cut in two stays unread."""
        data = self.socket.recv(262_144, socket.MSG_PEEK)
        if not data:
            raise SystemExit("the server closed a connection under load")
        whole = data.rfind(b"]") + 1 or len(data)
        self.socket.recv(whole)
        return data.count(ACK, 0, whole)


def server_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drive_paced(senders: list[Sender], rate: float, seconds: float) -> tuple[int, int, float]:
    """Send at a rate, whatever is answered when; returns what ``drive`` does."""
    poll = select.epoll()
    by_descriptor = {sender.socket.fileno(): sender for sender in senders}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    first_id = time.time_ns()
    turn = cycle(senders).__next__
    sent = acknowledged = 0
    begin = time.monotonic()
    while (now := time.monotonic()) < begin + seconds + DRAIN_S:
        due = int(min(now - begin, seconds) * rate)
        while sent < due:
            count = min(PACED_AT_ONCE, due - sent)
            turn().post(first_id + sent, count)
            sent += count
        for descriptor, _ in poll.poll(0.001):
            acknowledged += by_descriptor[descriptor].acknowledged()
        if now > begin + seconds and acknowledged >= sent:
            break
    return acknowledged, sent, time.monotonic() - begin


def drive(senders: list[Sender], depth: int, seconds: float) -> tuple[int, int, float]:
    """Keep every sender's window full; returns acknowledged, sent and the seconds until the last answer."""
    poll = select.epoll()
    by_descriptor = {sender.socket.fileno(): sender for sender in senders}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.EPOLLIN)
    first_id = time.time_ns()
    sent = acknowledged = 0
    begin = time.monotonic()
    for sender in senders:
        sender.post(first_id + sent, depth)
        sent += depth
    while acknowledged < sent and (now := time.monotonic()) < begin + seconds + DRAIN_S:
        for descriptor, _ in poll.poll(0.1):
            sender = by_descriptor[descriptor]
            count = sender.acknowledged()
            acknowledged += count
            if count and now < begin + seconds:
                sender.post(first_id + sent, count)
                sent += count
    return acknowledged, sent, time.monotonic() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("port", "pid", "conversations"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--secs", type=float, default=4.0)
    parser.add_argument("--rate", type=float, default=0.0, help="messages a second; 0: as many as it takes")
    arguments = parser.parse_args()
    tokens = arguments.tokens.read_text().split()
    own: list[list[int]] = [[] for _ in tokens]
    for conversation in range(arguments.conversations):
        for at in range(MEMBERS):
            own[(conversation * MEMBERS + at) % len(tokens)].append(conversation)
    senders = [Sender(arguments.port, token, mine) for token, mine in zip(tokens, own, strict=True)]
    print(f"connect: {len(senders)} ready of {len(tokens)}")
    before_s, own_before_s = server_cpu_s(arguments.pid), time.process_time()
    if arguments.rate:
        acknowledged, sent, seconds = drive_paced(senders, arguments.rate, arguments.secs)
    else:
        acknowledged, sent, seconds = drive(senders, arguments.depth, arguments.secs)
    cpu_us = (server_cpu_s(arguments.pid) - before_s) * 1e6
    busy = (time.process_time() - own_before_s) / seconds * 100
    print(
        f"acks: {acknowledged} of {sent} sent = {acknowledged / seconds:.0f}/s; "
        f"server cpu {cpu_us / acknowledged:.2f} us/ack; client busy {busy:.0f}%"
    )


if __name__ == "__main__":
    main()
