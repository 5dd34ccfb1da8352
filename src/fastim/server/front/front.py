"""The front: what becomes of a connection whose request head has come in.

A WebSocket upgrade on our path is answered here and stays in the hub; anything else goes to uvicorn with the
bytes already read. All checks come before the upgrade: whoever is refused has cost a head and holds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode, RequestError, TurnedAway
from fastim.guard.admission import Admission, Refused
from fastim.guard.tokens import TokenError
from fastim.server.connection import Connection
from fastim.server.front import handshake
from fastim.server.front.handshake import Head, Refusal
from fastim.server.front.opening import Arrival, Handshake
from fastim.server.front.refusals import RefusalLog
from fastim.server.front.requests import HttpRequest
from fastim.server.front.tls import FedBridge

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.server.service import Service

__all__ = ["Front", "FrontOptions"]

log = logging.getLogger("fastim.front")

RETRY_WHEN_FULL_S: Final = 1


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """Plain options of the front, filled from the settings.

    Attributes:
        path: Of the WebSocket endpoint.
        allowed_origins: Besides the server's own; ``*`` allows all.
        token_in_url: Whether ``?token=`` is looked at.
        deflate_window_bits: Window that permessage-deflate is negotiated with; 0: it is declined.
        pending_per_address: Of an address behind a proxy, while their user is not known; 0: no bound.
        body_timeout_ns: For the body of a request; 0: no bound.
        keep_alive: Whether a connection is kept for another request after an answer.
    """

    path: str = "/ws"
    allowed_origins: tuple[str, ...] = ()
    token_in_url: bool = False
    deflate_window_bits: int = 12
    pending_per_address: int = 0
    body_timeout_ns: int = 0
    keep_alive: bool = True


class Front:
    """Answers request heads.

    Args:
        service: Whose hub the connections are in.
        options: See ``FrontOptions``.
        admission: Says who may come in.

    Attributes:
        routes: Who answers the requests of a path, upgrades included.
        refusals: How many requests were refused, by status.
        refusal_log: Tells the log of them.
    """

    def __init__(self, service: Service, options: FrontOptions, admission: Admission) -> None:
        self.routes: dict[bytes, Callable[[HttpRequest], None]] = {}
        self.refusals: dict[int, int] = {}
        self.refusal_log = RefusalLog()
        self.admission = admission
        self._service = service
        self.hub = service.hub
        self.clock_ns = service.clock_ns
        self._options = options
        self._path = options.path.encode()

    def serve(self, handle: int, data: bytes, peer: str, now_ns: int) -> None:
        """Decide about a connection by the head of its first request."""
        try:
            head = self._parse(data, peer, now_ns)
            address = self._address(handle, head, peer, now_ns)
            route = self.routes.get(head.path)
            if route is not None:
                self._route(route, self._request(handle, head, address, peer))
            elif handshake.wants_upgrade(head):
                self._upgrade(handle, head, address, now_ns)
            elif head.path == self._path:
                raise Refusal(426, "This is a WebSocket endpoint.", (("Upgrade", "websocket"),))
            else:
                self._hand_over(handle)
        except Refusal as refusal:
            self.count(refusal)
            self.refusal_log.refused(refusal, peer)
            response = handshake.problem_response(refusal, not data.startswith(b"HEAD "))
            self.hub.reply(handle, response, False, now_ns)

    @property
    def path(self) -> bytes:
        """Of the native WebSocket endpoint."""
        return self._path

    def count(self, refusal: Refusal) -> None:
        """Count a request that was refused."""
        self.refusals[refusal.status] = self.refusals.get(refusal.status, 0) + 1

    @property
    def keeps(self) -> bool:
        """Whether connections are kept for another request."""
        return self._options.keep_alive and not self._service.draining

    def body_deadline_ns(self) -> int:
        """Return when a body that begins now has to be there; 0: there is no bound."""
        timeout_ns = self._options.body_timeout_ns
        return self.clock_ns() + timeout_ns if timeout_ns else 0

    def _request(self, handle: int, head: Head, address: str, peer: str) -> HttpRequest:
        try:
            return HttpRequest(self, handle, head, address, peer)
        except Refusal:
            self.admission.offence(address, self.clock_ns())
            raise

    def _route(self, route: Callable[[HttpRequest], None], request: HttpRequest) -> None:
        try:
            route(request)
        except Refusal:
            raise
        except Exception:
            request.fail()

    def _parse(self, data: bytes, peer: str, now_ns: int) -> Head:
        try:
            return handshake.parse_head(data)
        except Refusal:
            self.admission.offence(peer, now_ns)
            raise

    def _address(self, handle: int, head: Head, peer: str, now_ns: int) -> str:
        """Return who is there, behind the proxies, and let the hub know.

        Raises:
            Refusal: 403 for one who is blocked: the hub could not see that at accept.
        """
        admission = self.admission
        address = admission.proxies.client_address(peer, head.fields.get(admission.proxies.header))
        if address != peer:
            self.hub.set_peer(handle, address)
        if admission.is_blocked(address, now_ns):
            raise Refusal(403, "This address is banned.")
        bound = self._options.pending_per_address
        if (
            address != peer
            and 0 < bound < self.hub.pending_at(address)
            and not admission.blocklist.is_allowed(address)
        ):
            admission.refused[Refused.PENDING] += 1
            raise Refusal(429, "Too many connections are not authenticated.", _retry_after(RETRY_WHEN_FULL_S))
        return address

    def bad_token(self, error: RequestError, address: str, now_ns: int) -> None:
        """Count a token that was refused; one that was good until it ended speaks against nobody."""
        self.admission.refused[Refused.TOKEN] += 1
        if not (isinstance(error, TokenError) and error.expired):
            self.admission.offence(address, now_ns)

    def _hand_over(self, handle: int) -> None:
        service = self._service
        if service.http is None or not service.http.make_room():
            raise Refusal(503, "Too many HTTP connections are open.", _retry_after(RETRY_WHEN_FULL_S))
        bridge = service.bridges.get(handle)
        fd, data = self.hub.detach(handle)
        if isinstance(bridge, FedBridge):
            bridge.hand_over(data)
        else:
            service.http.accept(fd, data)

    def _upgrade(self, handle: int, head: Head, peer: str, now_ns: int) -> None:
        options = self._options
        service = self._service
        if head.path != self._path:
            raise Refusal(404, f"The WebSocket endpoint is {options.path}.")
        self.admit(peer, now_ns)
        key = handshake.check_upgrade(head)
        fields = head.fields
        if not handshake.origin_allowed(fields.get(b"origin"), fields[b"host"], options.allowed_origins):
            self.refusal_log.origin_refused(fields[b"origin"], now_ns)
            raise Refusal(403, "This origin may not connect.")
        subprotocol, encoding = handshake.choose_subprotocol(fields.get(b"sec-websocket-protocol"))
        try:
            claims = self._claims(head)
        except RequestError as error:
            self.bad_token(error, peer, now_ns)
            raise Refusal(401, error.message, (("WWW-Authenticate", "Bearer"),)) from None
        connection = Connection(self.hub, handle, int(encoding))
        connection.connected_ns = now_ns
        looks = service.entrance.looks(connection)
        if looks or claims is not None:
            came = Handshake(head, None, peer, "fastim", connection.namespace) if looks else None
            connection.extra = Arrival(came, claims)
        if claims is not None:
            self.admission.recognized(peer, now_ns)
            self._check(connection, claims)
            self._look_for_place(claims)
        offered = fields.get(b"sec-websocket-extensions")
        deflate = handshake.negotiate_deflate(offered, options.deflate_window_bits)
        if self.hub.upgrade(
            handle,
            handshake.accept_response(key, subprotocol, deflate),
            connection,
            encoding=connection.encoding,
            deflate=deflate is not None,
            deadline_ns=now_ns + service.options.hello_timeout_ns,
        ):
            service.connections.add(connection)

    def _look_for_place(self, claims: Claims) -> None:
        """Turn away whom the hello would turn away for want of a place.

        Whose user is here may get the place of a connection that it replaces: only the hello tells.

        Raises:
            Refusal: 503.
        """
        messaging = self._service.messaging
        if messaging is not None and messaging.sessions_of(claims.user):
            return
        try:
            self._service.places.look(claims.tier)
        except TurnedAway as error:
            message = f"{error.message[0].upper()}{error.message[1:]}."
            raise Refusal(503, message, _retry_after(seconds_up(error.retry_after_ms))) from None

    def admit(self, peer: str, now_ns: int) -> None:
        """Count a newcomer, of whatever protocol, against the limits of connects.

        Raises:
            Refusal: 429 where the address is over its limit; 503 where all together are, or the server takes
                nobody now.
        """
        service = self._service
        if service.draining:
            retry_s = RETRY_WHEN_FULL_S if service.drain is None else service.drain.retry_after_s()
            raise Refusal(503, "The server is shutting down.", _retry_after(retry_s))
        if service.relief.refuses_newcomers():
            raise Refusal(
                503, "The server is overloaded.", _retry_after(seconds_up(service.relief.retry_ms()))
            )
        found = self.admission.connect(peer, now_ns)
        if found is None:
            return
        limit, wait_ms = found
        retry_after = _retry_after(seconds_up(wait_ms))
        if limit is Refused.ADDRESS_LIMIT:
            raise Refusal(429, "Too many connections of this address in a short time.", retry_after)
        raise Refusal(503, "Too many connections in a short time.", retry_after)

    def _check(self, connection: Connection, claims: Claims) -> None:
        """Refuse the bearer of a good token who may not come in, before the upgrade.

        Raises:
            Refusal: 401, or 403 for who is banned.
        """
        try:
            self._service.entrance.check(connection, claims)
        except TurnedAway as away:
            if away.close_code == CloseCode.UNAUTHORIZED:
                raise Refusal(401, away.message, (("WWW-Authenticate", "Bearer"),)) from None
            raise Refusal(403, away.message) from None

    def _claims(self, head: Head) -> Claims | None:
        """Verify a token in the head; None if there is none, or the application is asked.

        Raises:
            RequestError: It is refused.
        """
        if self._service.entrance.decisions.authenticates:
            return None
        token = self.token_in(head)
        return None if token is None else self._service.verifier.verify(token, self._service.time_s())

    def token_in(self, head: Head) -> str | None:
        """Return the token in a request's head; in its URL only where that is allowed."""
        scheme, _, value = head.fields.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer":
            return value.strip().decode("latin-1")
        if self._options.token_in_url and b"token=" in head.query:
            return handshake.query_value(head.query, "token")
        return None


def seconds_up(wait_ms: int) -> int:
    return -(-wait_ms // 1000)


def _retry_after(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(seconds)),)
