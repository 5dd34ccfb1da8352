"""What a connection came with: whoever decides about it, and the application's first handlers, may look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.server.front.handshake import Head

__all__ = ["Arrival", "Handshake"]


class Handshake:
    """How a client has introduced itself.

    Args:
        head: Of its HTTP request; None: there is none any more.

    Attributes:
        auth: What it says about itself: Socket.IO's ``auth``, or the body of the native ``hello``.
        address: Where it comes from, behind trusted proxies.
        protocol: ``fastim`` or ``socket.io``.
        namespace: Where it wants to go.
    """

    __slots__ = ("_head", "address", "auth", "namespace", "protocol")

    def __init__(self, head: Head | None, auth: Any, address: str, protocol: str, namespace: str) -> None:
        self._head = head
        self.auth = auth
        self.address = address
        self.protocol = protocol
        self.namespace = namespace

    @property
    def headers(self) -> dict[str, str]:
        """The fields of its HTTP request, by lower-case name; values of a repeated one joined by commas."""
        fields = self._head.fields if self._head is not None else {}
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in fields.items()}

    @property
    def query(self) -> dict[str, str]:
        """The query of the request's address; of a name that stands twice the last value."""
        query = self._head.query if self._head is not None else b""
        return dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True))

    @property
    def token(self) -> str | None:
        """The token in ``auth``, else that of ``Authorization: Bearer``; None: there is none."""
        token = self.auth.get("token") if isinstance(self.auth, dict) else None
        if isinstance(token, str):
            return token
        scheme, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if scheme.lower() == "bearer" else None


class Arrival:
    """What is known of a connection until it is in and the application's ``on_connect`` is over.

    Attributes:
        handshake: What the application may look at; None: it does not.
        claims: Who it is; None: not known, or anonymous.
    """

    __slots__ = ("claims", "handshake")

    def __init__(self, handshake: Handshake | None, claims: Claims | None = None) -> None:
        self.handshake = handshake
        self.claims = claims
