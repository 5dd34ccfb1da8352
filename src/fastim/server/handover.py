"""HTTP: connections that are no WebSocket, given to uvicorn's protocol with the bytes already read.

uvicorn's ``Server`` is not used: it takes the signals, and its access log prints queries.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Coroutine
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

if TYPE_CHECKING:
    from fastim.server.tls import FedBridge

__all__ = ["MAX_HTTP_CONNECTIONS", "HandOver", "HttpProtocol"]

log = logging.getLogger("fastim.http")

KEEP_ALIVE_S: Final = 15
BODY_TIMEOUT_S: Final = 30.0
MAX_HTTP_CONNECTIONS: Final = 256  # their descriptors come out of a reserve


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


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a first read of our own, bounds on slow requests and a way back to the hub.

    Args:
        door: The hand-over it belongs to.
        first: What was read from the connection before.
    """

    def __init__(self, door: HandOver, first: bytes) -> None:
        super().__init__(door.config, door.state, {}, door.loop)
        self._door = door
        self._first = first
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Here, before the transport begins to read: later bytes must not overtake the first.
        first, self._first = self._first, b""
        if first:
            self.data_received(first)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything: what refers to itself would wait for the collector, which rarely comes."""
        self._set_deadline(0)
        super().connection_lost(exc)
        # uvicorn leaves the timer to a connection that was reset, which keeps it all for its time.
        self._unset_keepalive_if_required()
        self.pipeline.clear()
        if self.cycle is not None and self.cycle.response_complete:
            self._drop_cycle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.parser is None:  # the connection was lost meanwhile
            self._drop_cycle()

    def _drop_cycle(self) -> None:
        self.cycle = None  # type: ignore[assignment]  # it refers to us

    def data_received(self, data: bytes) -> None:
        """Parse what came; a WebSocket upgrade on a reused connection goes back to the front."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._should_upgrade():
                self._return_to_front(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._set_deadline(0)
            self.send_400_response("Invalid HTTP request received.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._set_deadline(self._door.head_timeout_s)

    def on_headers_complete(self) -> None:
        self._set_deadline(BODY_TIMEOUT_S)
        super().on_headers_complete()
        if self._door.stopping and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._set_deadline(0)
        super().on_message_complete()

    def _set_deadline(self, after_s: float) -> None:
        """Bound the time until the head, or the body, is complete; 0: no bound."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if after_s:
            self._deadline = self.loop.call_later(after_s, self._too_slow)

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()

    def _should_upgrade_to_ws(self) -> bool:
        return True

    def _return_to_front(self, rest: bytes) -> None:
        self._set_deadline(0)
        self.connections.discard(self)
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # the answer before is not out yet: a client that pipelines an upgrade
            return
        version = self.parser.get_http_version().encode()
        lines = [self.parser.get_method() + b" " + self.url + b" HTTP/" + version]
        lines += (name + b": " + value for name, value in self.headers)
        bridge = self._door.make_bridge()
        self.transport.set_protocol(bridge)
        self.parser = None  # type: ignore[assignment]  # it refers to us
        self._drop_cycle()
        bridge.connection_made(self.transport)
        bridge.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)


class HandOver:
    """Gives connections to uvicorn's protocol.

    Args:
        loop: The running loop.
        app: The ASGI application.
        make_bridge: Makes the way back to the hub.
        spawn: Runs a coroutine in a task.
        head_timeout_s: For the head of each further request of a connection.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        app: Callable[..., Any],
        make_bridge: Callable[[], FedBridge],
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        head_timeout_s: float = 5.0,
    ) -> None:
        self.loop = loop
        self.make_bridge = make_bridge
        self.head_timeout_s = head_timeout_s
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
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self.config.load()
        self.state = _State()
        self.stopping = False
        self._spawn = spawn

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self.state.connections) >= MAX_HTTP_CONNECTIONS

    def protocol(self, first: bytes) -> HttpProtocol:
        """Make the protocol of a connection of which ``first`` was read already."""
        return HttpProtocol(self, first)

    def accept(self, fd: int, first: bytes) -> None:
        """Take a socket over, with what was read from it."""
        self._spawn(self._accept(socket.socket(fileno=fd), first))

    async def _accept(self, connection: socket.socket, first: bytes) -> None:
        try:
            connection.setblocking(False)
            await self.loop.connect_accepted_socket(lambda: self.protocol(first), connection)
        except OSError as error:
            connection.close()
            log.debug("a connection was lost before its request was read: %s", error)

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
