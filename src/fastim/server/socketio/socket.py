"""A socket: a client in a namespace, the owner of a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from fastim._core.hub import Encoding
from fastim.errors import CloseCode
from fastim.server.application.handlers import NO_ACK
from fastim.server.application.sids import sid_of
from fastim.server.connection import Connection
from fastim.server.socketio.client import Client
from fastim.wire.socketio import encode_ack

if TYPE_CHECKING:
    from fastim._core.hub import Hub
    from fastim.server.application.tables import Table
    from fastim.server.engineio.session import EngineSession
    from fastim.server.recovery.returning import Returning
    from fastim.wire.socketio import Assembly

__all__ = ["Socket"]


class Socket(Connection):
    """A connection that speaks Socket.IO.

    ``encoding`` is its parser: JSON the default one, MSGPACK that of msgpack.

    Attributes:
        engine: The transport, which it shares with the client's other namespaces.
        namespace: Where it is.
        origin: See ``Session``.
        recovered: It is one that its client had before.
        returning: The client's wish to have one back, until that is decided.
        table: How events are served there.
    """

    __slots__ = ("_sid", "engine", "namespace", "origin", "recovered", "returning", "table")

    native: ClassVar[bool] = False
    namespace: str

    # What a ``Client`` has: one that is in a single namespace, and in the middle of nothing, is its socket.
    assembly: ClassVar[Assembly | None] = None
    left: ClassVar[tuple[str, ...]] = ()
    was_in: ClassVar[bool] = True

    def __init__(self, hub: Hub, engine: EngineSession, encoding: int, namespace: str, table: Table) -> None:
        super().__init__(hub, 0, encoding)
        self.engine = engine
        self.namespace = namespace
        self.table = table
        self._sid: str | None = None  # that of a connection which its client has back
        self.origin = None
        self.recovered = False
        self.returning: Returning | None = None

    @property
    def sid(self) -> str:
        """Its id in the namespace, which is no secret."""
        return sid_of(self.handle) if self._sid is None else self._sid

    @sid.setter
    def sid(self, sid: str) -> None:
        self._sid = sid

    @property
    def parser(self) -> int:
        """What its client speaks."""
        return self.encoding

    @property
    def expects_text(self) -> bool:
        """Whether the next message is a text packet."""
        return self.encoding == Encoding.JSON

    @property
    def sockets(self) -> tuple[Socket, ...]:
        """The namespaces of a client that is in this one alone."""
        return (self,)

    def find(self, namespace: str) -> Socket | None:
        """Return the socket of such a client in a namespace."""
        return self if namespace == self.namespace else None

    @property
    def transport(self) -> str:
        """What carries it now: ``websocket`` or ``polling``."""
        return self.engine.transport

    def acknowledge(self, ref: int, result: Any) -> None:
        """Queue the acknowledgement of an event: a tuple is several arguments, None is none.

        Raises:
            ValueError, TypeError: The protocol cannot carry it.
        """
        if result is NO_ACK:
            return
        if result is None:
            result = ()
        elif result.__class__ is not tuple:
            result = (result,)
        packet, attachments = encode_ack(ref, result, self.encoding)
        self.hub.send_rendered(self.handle, packet, attachments)

    def is_beside(self, other: object) -> bool:
        """Whether another connection is the same client's, in another namespace."""
        return isinstance(other, Socket) and other.engine is self.engine

    def takes_blame(self) -> bool:
        client = self.engine.sockets
        if self.engine.connected_ns:  # who it is was not known: its session says so itself
            return False
        if not isinstance(client, Client):
            return client is self
        is_first = not client.is_blamed
        client.is_blamed = True
        return is_first

    def disconnect(self, transport: bool, now_ns: int) -> bool:
        """Close it by a DISCONNECT, after which its client does not come back by itself.

        Args:
            transport: Put the client out of its other namespaces likewise, and close the transport.

        Returns:
            False if it is closed already.
        """
        closed = self.close(CloseCode.NORMAL, "", now_ns)
        client = self.engine.sockets
        if transport and isinstance(client, Client | Socket):
            for socket in client.sockets:
                socket.close(CloseCode.NORMAL, "", now_ns)
            self.engine.close(CloseCode.NORMAL, "")
        return closed
