"""An echo server for conformance suites: the hub and the handshake of fastim, and nothing else.

    python tests/compliance/ws_echo.py PORT [--window-bits 12]

It sends each WebSocket message back as it came: up to 16 MiB, in any number of fragments, compressed if the
client asked for it. Port 0 picks one; the first line of standard output says which.
"""

from __future__ import annotations

import argparse
import select
import signal
import time

from fastim._core.hub import EventKind, Hub
from fastim.server.front import handshake
from fastim.server.front.listener import open_listener

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
OUTBOX_BYTES = 4 * MAX_MESSAGE_BYTES  # suites send on without reading first
IDLE_MS = 20  # between polls when nothing is readable: deadlines are looked at this often


class Peer:
    """One connection: what the hub calls its owner."""

    __slots__ = ("handle",)

    def __init__(self, handle: int) -> None:
        self.handle = handle


class EchoServer:
    """A hub whose service is to say what it heard."""

    def __init__(self, port: int, window_bits: int) -> None:
        self._hub = Hub(
            max_message_bytes=MAX_MESSAGE_BYTES,
            outbox_bytes=OUTBOX_BYTES,
            deflate_window_bits=window_bits,
            close_timeout_ns=1_000_000_000,
        )
        self._window_bits = window_bits
        self._listener = open_listener("127.0.0.1", port)
        self._hub.listen(self._listener.fileno())
        self._running = True

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def stop(self, *_: object) -> None:
        self._running = False

    def serve(self) -> None:
        """Serve until ``stop``."""
        poller = select.poll()
        poller.register(self._hub.fileno(), select.POLLIN)
        while self._running:
            poller.poll(0 if self._hub.pending else IDLE_MS)
            for kind, subject, data in self._hub.poll(time.monotonic_ns()):
                self._take(kind, subject, data)
            self._hub.flush(time.monotonic_ns())
        self._hub.shutdown()
        self._listener.close()

    def _take(self, kind: int, subject: object, data: object) -> None:
        if kind == EventKind.HEAD:
            self._upgrade(subject, data[0])
        elif kind in (EventKind.TEXT, EventKind.BINARY):
            self._hub.send_message(subject.handle, data, kind == EventKind.BINARY)

    def _upgrade(self, handle: int, data: bytes) -> None:
        try:
            head = handshake.parse_head(data)
            key = handshake.check_upgrade(head)
            offered = head.fields.get(b"sec-websocket-extensions")
            deflate = handshake.negotiate_deflate(offered, self._window_bits)
        except handshake.Refusal as refusal:
            self._hub.respond(handle, handshake.problem_response(refusal), time.monotonic_ns())
            return
        response = handshake.accept_response(key, None, deflate)
        self._hub.upgrade(handle, response, Peer(handle), deflate=deflate is not None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("port", type=int)
    parser.add_argument("--window-bits", type=int, default=12, help="of permessage-deflate; default 12")
    arguments = parser.parse_args()
    server = EchoServer(arguments.port, arguments.window_bits)
    signal.signal(signal.SIGTERM, server.stop)
    signal.signal(signal.SIGINT, server.stop)
    print(f"ws_echo listening on ws://127.0.0.1:{server.port}", flush=True)
    server.serve()


if __name__ == "__main__":
    main()
