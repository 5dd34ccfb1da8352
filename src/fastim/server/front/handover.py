"""HTTP: connections that are no WebSocket, given to uvicorn's protocol with the bytes already read.

uvicorn's ``Server`` is not used: it takes the signals, and its access log prints queries.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from fastim.server.front.handshake import asked_path, split_target

if TYPE_CHECKING:
    from fastim.server.front.tls import FedBridge

__all__ = ["MAX_HTTP_CONNECTIONS", "HandOver", "HandOverOptions", "HttpProtocol"]

log = logging.getLogger("fastim.http")

WRITE_TIMEOUT_S: Final = 30.0  # without the client taking anything of an answer
MAX_HTTP_CONNECTIONS: Final = 256  # their descriptors come out of a reserve
MAX_PIPELINED: Final = 64  # requests that the parser found behind a chunked body in the same read
MAX_REQUEST_BYTES: Final = 4_194_304  # with what stands around the pieces of a chunked body


@dataclass(frozen=True, slots=True)
class HandOverOptions:
    """Plain options of HTTP, filled from the settings.

    Attributes:
        head_timeout_s: For the head of each further request of a connection.
        head_bytes: Of such a head, give or take one read.
        body_timeout_s: For the body of a request; 0: no bound.
        keep_alive_s: For a connection to ask for more after an answer; 0: it is closed with the answer.
    """

    head_timeout_s: float = 5.0
    head_bytes: int = 16_384
    body_timeout_s: float = 30.0
    keep_alive_s: float = 30.0


class _State(ServerState):
    """uvicorn's shared state, with a Date that needs no tick of its own."""

    def __init__(self) -> None:
        self._date_s = 0
        self._headers: list[tuple[bytes, bytes]] = []
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        now_s = int(time.time())
        if now_s != self._date_s:
            self._date_s = now_s
            self._headers = [(b"date", formatdate(now_s, usegmt=True).encode())]
        return self._headers

    @default_headers.setter
    def default_headers(self, value: list[tuple[bytes, bytes]]) -> None:
        """Ignore what the base class sets."""


class _NotNow(Exception):
    """A request that is not served on this connection: it ends behind the answers before it."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a first read of our own, bounds on slow requests and a way back to the hub.

    It parses one request at a time. Behind it the next one is looked at before it is begun: it may be the
    front's to answer.

    Args:
        door: The hand-over it belongs to.
        first: What was read from the connection before.
    """

    def __init__(self, door: HandOver, first: bytes) -> None:
        super().__init__(door.config, door.state, {}, door.loop)
        self._door = door
        self._first = first
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None  # the one before ``cycle`` where requests queue
        self._in_request = False  # begun and not read to its end
        self._in_head = False
        self._head_end = b""  # the last bytes of the head so far
        self._body_left = 0  # bytes to come, as the head says
        self._behind = b""  # read, and not begun
        self._read_bytes = 0  # since the read that the request began in

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            # As the hub has it: a zone (fe80::1%eth0) names an interface of ours, and is no part of it.
            self.client = self.client[0].partition("%")[0], self.client[1]
        # Here, before the transport begins to read: later bytes must not overtake the first.
        first, self._first = self._first, b""
        if first:
            self.data_received(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything: what refers to itself would wait for the collector, which rarely comes."""
        self._set_deadline(0)
        self._set_write_deadline(False)
        super().connection_lost(exc)
        # uvicorn leaves the timer to a connection that was reset, which keeps it all for its time.
        self._unset_keepalive_if_required()
        self._abandon()
        if not self.busy:
            self._drop_cycle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.parser is None:  # the connection was lost meanwhile
            self._drop_cycle()
        elif self._behind and self.busy:
            self.flow.pause_reading()
        elif self._behind:
            self.loop.call_soon(self._go_on)

    def _drop_cycle(self) -> None:
        self.cycle = None  # type: ignore[assignment]  # it refers to us
        self._running = None

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it belongs to the request that is its turn."""
        while data:
            if not self._in_request:
                data = self._look(self._behind + data)
                if not data:
                    return
            end = self._end_of_part(data)
            data = self._parse(data[:end], data[end:])

    def _look(self, data: bytes) -> bytes:
        """Look at the beginning of a request; return what is to be parsed, if any of it is."""
        self._behind = b""
        if self.busy:
            self._behind = data
            self.flow.pause_reading()
            return b""
        data = data.lstrip(b"\r\n")  # RFC 9112, section 2.2
        path = asked_path(data)
        if path is None and len(data) < self._door.options.head_bytes:
            self._behind = data
            if data and self._deadline is None:
                self._unset_keepalive_if_required()
                self._set_deadline(self._door.options.head_timeout_s)
            return b""
        if path is not None and self._door.routed(path):
            self._return_to_front(data)
            return b""
        return data

    def _end_of_part(self, data: bytes) -> int:
        """Return how much of it belongs to the head that is read, or to the body; of a chunked one, all."""
        if self._in_request and not self._in_head:
            end = min(len(data), self._body_left)
            self._body_left -= end
            return end
        before = self._head_end if self._in_request else b""
        at = (before + data).find(b"\r\n\r\n")
        if at >= 0:
            self._head_end = b""
            return at + 4 - len(before)
        self._head_end = (before + data)[-3:]
        return len(data)

    def _parse(self, data: bytes, rest: bytes) -> bytes:
        """Parse a part of a request; returns what is left to do. An upgrade goes back to the front."""
        self._read_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._return_to_front(self._head() + data[upgrade.args[0] :] + rest)
            else:
                self._end_after_answer()
        except httptools.HttpParserError as error:
            if isinstance(error.__context__, _NotNow):
                self._end_after_answer()
            else:
                self._refuse()
        else:
            if self._read_bytes <= (self._door.options.head_bytes if self._in_head else MAX_REQUEST_BYTES):
                return rest
            self._refuse()
        return b""

    def _head(self) -> bytes:
        """Write the head that was parsed again."""
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += (name + b": " + value for name, value in self.headers)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _go_on(self) -> None:
        """What was read behind a request gets its turn."""
        if self._behind and not (self._in_request or self.transport.is_closing()):
            behind, self._behind = self._behind, b""
            self.data_received(behind)

    def _refuse(self) -> None:
        """Close, after the answers to the requests before or with 400."""
        self._set_deadline(0)
        if self.busy and self._in_head:
            self._end_after_answer()
            return
        begun = bool(self.pipeline) or (self.busy and self.cycle.response_started)
        self._abandon()
        if begun:
            self.transport.close()
        else:
            self.send_400_response("Invalid HTTP request received.")

    def _abandon(self) -> None:
        """What is still answered goes nowhere: the transport is about to be closed."""
        self._set_deadline(0)
        self._behind = b""
        self.pipeline.clear()
        for cycle in (self._running, self.cycle):
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    def _end_after_answer(self) -> None:
        """Read no more: what follows is another protocol's, or not to be understood."""
        self._set_deadline(0)
        if self.busy:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        else:
            self.transport.close()

    @property
    def busy(self) -> bool:
        """Whether an answer is owed."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def ends_at_s(self) -> float:
        """When it is ended if its client does nothing, by the loop's clock; infinity: it is being served."""
        if self.transport.is_closing():
            return 0.0  # what is left of its answer is not taken
        timer = (
            self._deadline or self._write_deadline or (None if self.busy else self.timeout_keep_alive_task)
        )
        return timer.when() if timer is not None else math.inf

    def end(self) -> None:
        """Close at once, whatever it was about."""
        self._abandon()
        self.connections.discard(self)
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_begin(self) -> None:
        self._in_request = self._in_head = True
        self._body_left = sys.maxsize
        if len(self.pipeline) >= MAX_PIPELINED:
            raise _NotNow  # becomes the parser's error
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._read_bytes = 0
        if self._deadline is None:  # the look at its beginning may have set it
            self._set_deadline(self._door.options.head_timeout_s)

    def on_headers_complete(self) -> None:
        if self._door.routed(split_target(self.url)[0]):
            raise _NotNow  # not looked at before, as it came in one read with a chunked body
        self._in_head = False
        self._set_deadline(self._door.options.body_timeout_s)
        for name, value in self.headers:
            if name == b"content-length":
                self._body_left = int(value)
        super().on_headers_complete()
        if self.cycle is not None and (self._door.stopping or not self._door.options.keep_alive_s):
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._in_request = False
        self._set_deadline(0)
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._set_write_deadline(True)

    def resume_writing(self) -> None:
        self._set_write_deadline(False)
        super().resume_writing()

    def _set_write_deadline(self, wanted: bool) -> None:
        if self._write_deadline is not None:
            self._write_deadline.cancel()
        self._write_deadline = self.loop.call_later(WRITE_TIMEOUT_S, self._too_slow) if wanted else None

    def _set_deadline(self, after_s: float) -> None:
        """Bound the time until the head, or the body, is complete; 0: no bound."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if after_s:
            self._deadline = self.loop.call_later(after_s, self._too_slow)

    def _too_slow(self) -> None:
        self._abandon()
        self.transport.abort()

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _return_to_front(self, data: bytes) -> None:
        """Give the connection back to the hub, with what was read of its request and behind it."""
        if self.busy:
            self._end_after_answer()  # an upgrade behind a chunked body: what came before is answered
            return
        self._set_deadline(0)
        self._set_write_deadline(False)
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self.connections.discard(self)
        bridge = self._door.make_bridge()
        self.transport.set_protocol(bridge)
        self.parser = None  # type: ignore[assignment]  # it refers to us
        self._drop_cycle()
        bridge.connection_made(self.transport)
        bridge.data_received(data)


def _ends_at_s(protocol: object) -> float:
    return cast(HttpProtocol, protocol).ends_at_s


class HandOver:
    """Gives connections to uvicorn's protocol.

    Args:
        loop: The running loop.
        app: The ASGI application.
        make_bridge: Makes the way back to the hub.
        spawn: Runs a coroutine in a task.
        routed: Tells whether the front answers the requests of a path.
        options: See ``HandOverOptions``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: Callable[..., Any],
        make_bridge: Callable[[], FedBridge],
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        routed: Callable[[bytes], bool],
        options: HandOverOptions,
    ) -> None:
        self.loop = loop
        self.make_bridge = make_bridge
        self.routed = routed
        self.options = options
        self.config = Config(
            app,
            loop="none",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=options.keep_alive_s,  # type: ignore[arg-type]  # passed to call_later
        )
        self.config.load()
        self.state = _State()
        self.stopping = False
        self._spawn = spawn
        self._accepting = 0

    def make_room(self) -> bool:
        """Make sure of room for one more connection; False if there is none.

        Where there are as many as there may be, one that waits for its client goes: idle, or slow to send.
        """
        open_count = len(self.state.connections)
        if open_count + self._accepting < MAX_HTTP_CONNECTIONS:
            return True
        first = min(self.state.connections, key=_ends_at_s, default=None)
        if first is None or _ends_at_s(first) == math.inf:
            return False
        cast(HttpProtocol, first).end()
        return True

    def protocol(self, first: bytes) -> HttpProtocol:
        """Make the protocol of a connection of which ``first`` was read already."""
        return HttpProtocol(self, first)

    def accept(self, fd: int, first: bytes) -> None:
        """Take a socket over, with what was read from it."""
        self._accepting += 1
        self._spawn(self._accept(socket.socket(fileno=fd), first))

    async def _accept(self, connection: socket.socket, first: bytes) -> None:
        try:
            connection.setblocking(False)
            await self.loop.connect_accepted_socket(lambda: self.protocol(first), connection)
        except OSError as error:
            connection.close()
            log.debug("a connection was lost before its request was read: %s", error)
        finally:
            self._accepting -= 1

    def end_where(self, matches: Callable[[str], bool]) -> int:
        """Close the connections whose peer's address matches at once; return how many."""
        ended = 0
        for protocol in list(self.state.connections):
            client = cast(HttpProtocol, protocol).client
            if client and matches(client[0]):
                cast(HttpProtocol, protocol).end()
                ended += 1
        return ended

    async def stop(self, deadline_s: float) -> None:
        """Let the requests that run finish, within the deadline, and close all connections."""
        self.stopping = True  # heads that are still on their way come later, and are answered
        for protocol in list(self.state.connections):
            protocol.shutdown()
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=deadline_s)
        for protocol in list(self.state.connections):
            transport = protocol.transport
            if transport is not None:
                transport.abort()
