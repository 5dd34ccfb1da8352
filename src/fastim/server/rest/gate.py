"""What stands before the HTTP application: the key, the bound on bodies and the access log."""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from starlette.exceptions import HTTPException

from fastim.server.rest.problems import problem

if TYPE_CHECKING:
    from fastim.guard.admission import Admission

__all__ = ["Gate", "has_key", "is_local"]

log = logging.getLogger("fastim.http")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_BODY_BYTES: Final = 1_048_576
_PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
_FORWARDED: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"}
)


def has_key(scope: Scope, key: bytes) -> bool:
    """Tell whether a request shows the key, as a bearer token or in X-API-Key; in constant time."""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            given = value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            given = value[7:].strip()
        else:
            continue
        if hmac.compare_digest(given, key):
            return True
    return False


def is_local(scope: Scope) -> bool:
    """Tell whether a request comes from this machine, and not through a proxy or a page in a browser on it.

    A proxy names itself, or speaks HTTP/1.0 as nginx does unless told otherwise. A page elsewhere may have
    bound its own name to 127.0.0.1 (DNS rebinding): the name in Host must be one that nobody else can have.
    """
    client = scope.get("client")
    if not client or scope.get("http_version") == "1.0":
        return False
    host = b""
    for name, value in scope["headers"]:
        if name in _FORWARDED:
            return False
        if name == b"host":
            host = value
    if not _is_own_name(host.decode("latin-1")):
        return False
    try:
        address = ipaddress.ip_address(client[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_own_name(host: str) -> bool:
    """Whether a Host is an address or a name without a dot, which nobody can have registered."""
    name, _, port = host.rpartition(":")
    if not name or port.endswith("]"):
        name = host
    name = name.lower().strip("[]")
    if "." not in name:
        return bool(name)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name.endswith(".localhost")
    return True


class Gate:
    """An ASGI application around another.

    Checks come before the body is read: without the key nobody makes us read one.

    Args:
        app: The application.
        api_key: What requests under ``/v1`` must show.
        admission: Knows who is there behind a proxy, and who is blocked; is told of wrong keys.
        clock_ns: The hub's clock.
        max_body_bytes: Larger bodies are answered 413.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        api_key: bytes,
        admission: Admission,
        clock_ns: Callable[[], int],
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._app = app
        self._api_key = api_key
        self._admission = admission
        self._clock_ns = clock_ns
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0
        scope = self._with_client(scope)

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope)
        try:
            if refusal is not None:
                await refusal(scope, receive, send_noting)
            else:
                # RFC 9110, section 9.1: HEAD wherever there is GET; uvicorn leaves the body out.
                inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                await self._app(inner, self._bounded(receive), send_noting)
        except Exception:
            # The application's handler has logged it and, if it still could, has answered.
            if not status:
                raise
        client = scope.get("client") or ("", 0)
        level = logging.DEBUG if scope["path"] in _PROBES and status == 200 else logging.INFO
        log.log(level, "%s %s %r %d", client[0], scope["method"], scope["path"], status)

    def _with_client(self, scope: Scope) -> Scope:
        """Put the address of whoever is behind a trusted proxy in the place of the proxy's."""
        client = scope.get("client")
        if not client:
            return scope
        proxies = self._admission.proxies
        values = [value for name, value in scope["headers"] if name == proxies.header]
        address = proxies.client_address(client[0], b", ".join(values) if values else None)
        return scope if address == client[0] else {**scope, "client": (address, 0)}

    def _refusal(self, scope: Scope) -> Any:
        path: str = scope["path"]
        client = scope.get("client") or ("", 0)
        if self._admission.is_blocked(client[0], self._clock_ns()):
            return problem(403, "this address is banned", {"Connection": "close"}, code="forbidden")
        if (path == "/v1" or path.startswith("/v1/")) and not has_key(scope, self._api_key):
            self._admission.offence(client[0], self._clock_ns())
            challenge = {"WWW-Authenticate": "Bearer", "Connection": "close"}
            return problem(401, "the API key is missing or wrong", challenge, code="unauthorized")
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > self._max_body_bytes):
                return problem(413, self._too_large, {"Connection": "close"}, code="too_large")
        return None

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes"

    def _bounded(self, receive: Receive) -> Receive:
        count = 0

        async def receive_bounded() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > self._max_body_bytes:
                raise HTTPException(413, self._too_large, {"Connection": "close"})
            return message

        return receive_bounded
