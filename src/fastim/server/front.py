"""The front: what becomes of a connection whose request head has come in.

A WebSocket upgrade on our path is answered here and stays in the hub; anything else goes to uvicorn with the
bytes already read. All checks come before the upgrade: whoever is refused has cost a head and holds nothing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastim.errors import RequestError
from fastim.server import handshake
from fastim.server.connection import Connection
from fastim.server.handshake import Head, Refusal

if TYPE_CHECKING:
    from fastim.guard.bans import BlockList
    from fastim.guard.limits import ConnectLimiter
    from fastim.guard.tokens import Claims
    from fastim.server.service import Service

__all__ = ["Front", "FrontOptions"]

log = logging.getLogger("fastim.front")

RETRY_WHILE_DRAINING_S: Final = 5
RETRY_WHEN_FULL_S: Final = 1


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """Plain options of the front, filled from the settings.

    Attributes:
        path: Of the WebSocket endpoint.
        allowed_origins: Besides the server's own; ``*`` allows all.
        token_in_url: Whether ``?token=`` is looked at.
        deflate_window_bits: Window that permessage-deflate is negotiated with; 0: it is declined.
    """

    path: str = "/ws"
    allowed_origins: tuple[str, ...] = ()
    token_in_url: bool = False
    deflate_window_bits: int = 12


class Front:
    """Answers request heads.

    Args:
        service: Whose hub the connections are in.
        options: See ``FrontOptions``.
        connects: Says how many may come in how fast.
        blocked: Addresses that are shut out.
    """

    def __init__(
        self, service: Service, options: FrontOptions, connects: ConnectLimiter, blocked: BlockList
    ) -> None:
        self.refusals: dict[int, int] = {}
        self._service = service
        self._hub = service.hub
        self._options = options
        self._path = options.path.encode()
        self._connects = connects
        self._blocked = blocked

    def serve(self, handle: int, data: bytes, peer: str, now_ns: int) -> None:
        """Decide about a connection by the head of its first request."""
        try:
            head = handshake.parse_head(data)
            if handshake.wants_upgrade(head):
                self._upgrade(handle, head, peer, now_ns)
            elif head.path == self._path:
                raise Refusal(426, "This is a WebSocket endpoint.", (("Upgrade", "websocket"),))
            else:
                self._hand_over(handle)
        except Refusal as refusal:
            self.refusals[refusal.status] = self.refusals.get(refusal.status, 0) + 1
            self._hub.respond(handle, handshake.problem_response(refusal), now_ns)

    def refused(self, peer: str, now_ns: int) -> None:
        """Note that an address showed a bad token."""
        self._blocked.refused(peer, now_ns)

    def _hand_over(self, handle: int) -> None:
        service = self._service
        if service.http is None or not service.http.make_room():
            raise Refusal(503, "Too many HTTP connections are open.", _retry_after(RETRY_WHEN_FULL_S))
        bridge = service.bridges.get(handle)
        fd, data = self._hub.detach(handle)
        if bridge is not None:
            bridge.hand_over(data)
        else:
            service.http.accept(fd, data)

    def _upgrade(self, handle: int, head: Head, peer: str, now_ns: int) -> None:
        options = self._options
        service = self._service
        if head.path != self._path:
            raise Refusal(404, f"The WebSocket endpoint is {options.path}.")
        if service.draining:
            raise Refusal(503, "The server is shutting down.", _retry_after(RETRY_WHILE_DRAINING_S))
        self._admit(peer, now_ns)
        key = handshake.check_upgrade(head)
        fields = head.fields
        if not handshake.origin_allowed(fields.get(b"origin"), fields[b"host"], options.allowed_origins):
            raise Refusal(403, "This origin may not connect.")
        subprotocol, encoding = handshake.choose_subprotocol(fields.get(b"sec-websocket-protocol"))
        try:
            claims = self._claims(head)
        except RequestError as error:
            self.refused(peer, now_ns)
            raise Refusal(401, error.message, (("WWW-Authenticate", "Bearer"),)) from None
        deflate = None
        if options.deflate_window_bits:
            offered = fields.get(b"sec-websocket-extensions")
            deflate = handshake.negotiate_deflate(offered, options.deflate_window_bits)
        connection = Connection(self._hub, handle, int(encoding))
        connection.extra = claims
        if self._hub.upgrade(
            handle,
            handshake.accept_response(key, subprotocol, deflate),
            connection,
            encoding=connection.encoding,
            deflate=deflate is not None,
            deadline_ns=now_ns + service.options.hello_timeout_ns,
        ):
            service.connections.add(connection)

    def _admit(self, peer: str, now_ns: int) -> None:
        """Count a connection against the limits.

        Raises:
            Refusal: 429.
        """
        wait_ms = self._blocked.blocked_ms(peer, now_ns)
        if not wait_ms:
            wait_ms = self._connects.attempt(peer, now_ns)
            if not wait_ms:
                return
            self._blocked.refused(peer, now_ns)
        raise Refusal(429, "Too many connections in a short time.", _retry_after(-(-wait_ms // 1000)))

    def _claims(self, head: Head) -> Claims | None:
        """Verify a token in the head; None if there is none.

        Raises:
            RequestError: It is refused.
        """
        token: str | None = None
        scheme, _, value = head.fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            token = value.strip().decode("latin-1")
        elif self._options.token_in_url and b"token=" in head.query:
            token = handshake.query_value(head.query, "token")
        return None if token is None else self._service.verifier.verify(token, self._service.time_s())


def _retry_after(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(seconds)),)
