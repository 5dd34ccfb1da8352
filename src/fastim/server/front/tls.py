"""TLS: asyncio's transport does the cryptography, the hub's fed driver the rest."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from fastim.errors import ConfigError

if TYPE_CHECKING:
    from fastim.server.service import Service

__all__ = ["FedBridge", "TlsDoor", "make_context"]

log = logging.getLogger("fastim.tls")

TAKE_BYTES: Final = 65_536
MAX_WAITING_BYTES: Final = 262_144  # fed and not parsed: beyond it the transport is not read


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """Make the server's TLS context: TLS 1.2 and later, HTTP/1.1.

    Raises:
        ConfigError: A file cannot be read or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("server.tls_cert", certificate), ("server.tls_key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise ConfigError(name, f"cannot read {path}: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(
            "server.tls_cert", f"{certificate} and {key} are no certificate and its key: {error}"
        ) from None
    return context


class TlsDoor:
    """Shakes hands with the connections that the hub has accepted.

    The hub counts them among those whose user is not known, and keeps out whom it would not let in without
    TLS either.

    Args:
        service: Whose connections they become.
        context: The server's.
        handshake_timeout_s: For the handshake.
        shutdown_timeout_s: For the closing alerts.
    """

    def __init__(
        self, service: Service, context: ssl.SSLContext, handshake_timeout_s: float, shutdown_timeout_s: float
    ) -> None:
        self._service = service
        self._context = context
        self._handshake_timeout_s = handshake_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._failed_count = 0

    def shake_hands(self, fd: int, peer: str) -> None:
        """Take a socket over; it becomes a row of the hub behind a ``FedBridge``."""
        self._service.spawn(self._shake_hands(socket.socket(fileno=fd), peer))

    async def _shake_hands(self, connection: socket.socket, peer: str) -> None:
        service = self._service
        try:
            connection.setblocking(False)
            await service.loop.connect_accepted_socket(
                lambda: FedBridge(service),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._handshake_timeout_s,
                ssl_shutdown_timeout=self._shutdown_timeout_s,
            )
        except OSError as error:  # SSLError, TimeoutError and ConnectionError are
            self._failed_count += 1
            connection.close()
            log.debug("a TLS handshake with %s failed: %s", peer, error)
        finally:
            service.hub.release(peer)

    def stats(self) -> dict[str, int]:
        """Return the counter."""
        return {"handshakes_failed_total": self._failed_count}


class FedBridge(asyncio.Protocol):
    """Carries bytes between an asyncio transport and a row of the hub that has no socket."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._hub = service.hub
        self._transport: asyncio.Transport | None = None
        self._handle = 0
        self._paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses
        self._transport = transport
        name = transport.get_extra_info("peername")
        peer = name[0].partition("%")[0] if isinstance(name, tuple) else ""
        now_ns = self._service.clock_ns()
        crowded = self._service.full and not self._hub.make_room()
        if crowded or self._is_blocked(peer, now_ns):
            transport.abort()
            return
        self._handle = self._hub.open_fed(peer, now_ns)
        self._service.bridges[self._handle] = self
        self._service.poll_soon()

    def _is_blocked(self, peer: str, now_ns: int) -> bool:
        """Look again: one who was banned during the handshake has passed the hub's check at accept.

        As there, a proxy is never blocked; who is behind it will be told by the head.
        """
        if self._service.front is None:
            return False
        admission = self._service.front.admission
        return not admission.proxies.trusts(peer) and admission.is_blocked(peer, now_ns)

    def data_received(self, data: bytes) -> None:
        waiting_bytes = self._hub.feed(self._handle, data, self._service.clock_ns())
        if waiting_bytes > MAX_WAITING_BYTES and self._transport is not None:
            self._transport.pause_reading()
            self._service.held.add(self)
        self._service.poll_soon()

    def read_again(self) -> bool:
        """Read on if the hub has worked off enough of what was fed; False if not yet."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return True
        # Whatever its state: one that is still to be decided about has much to say, one that closes a word.
        if self._hub.feed(self._handle, b"", self._service.clock_ns()) > MAX_WAITING_BYTES:
            return False
        transport.resume_reading()
        return True

    def eof_received(self) -> None:
        """Tell the hub; the transport closes itself after what it still has to write."""
        self._hub.feed_eof(self._handle, self._service.clock_ns())
        self._service.poll_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._hub.feed_eof(self._handle, self._service.clock_ns())  # frees the row, whatever its state
        self._transport = None
        self._service.poll_soon()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.pump()

    def pump(self) -> None:
        """Write what the hub has for this connection, as long as the transport takes it."""
        transport, hub, handle = self._transport, self._hub, self._handle
        if transport is None:
            return
        while not self._paused:
            data = hub.take(handle, TAKE_BYTES)
            if not data:
                break
            transport.write(data)
        if hub.take_finished(handle):
            self._forget()
            self._end(transport)

    def _end(self, transport: asyncio.Transport) -> None:
        """Close after what is still to be written, but do not wait for ever for the peer to take it."""
        transport.close()
        if transport.get_write_buffer_size():
            service = self._service
            service.loop.call_later(service.options.close_timeout_s, transport.abort)

    def hand_over(self, data: bytes) -> None:
        """Give the transport to HTTP; the hub has let the row go."""
        transport, self._transport = self._transport, None
        self._forget()
        if transport is None or self._service.http is None:
            return
        protocol = self._service.http.protocol(data)
        transport.set_protocol(protocol)
        if self in self._service.held:
            self._service.held.discard(self)
            transport.resume_reading()
        protocol.connection_made(transport)

    def _forget(self) -> None:
        self._service.bridges.pop(self._handle, None)
