"""A client of Socket.IO: what there is once for all its namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastim._core.hub import Encoding

if TYPE_CHECKING:
    from fastim.server.socketio.socket import Socket
    from fastim.wire.socketio import Assembly

__all__ = ["Client"]


class Client:
    """What a transport has of Socket.IO.

    Attributes:
        parser: What it speaks; None until its first packet.
        sockets: Its namespaces, those included that it is entering. Few: they are looked through.
        left: Namespaces that we put it out of: what it sent there before it knew is passed over.
        assembly: The packet whose attachments are coming; None: there is none.
        is_blamed: What its transport was closed for has been counted against it.
        was_in: It has been in a namespace, and is not watched for that any more.
    """

    __slots__ = ("assembly", "is_blamed", "left", "parser", "sockets", "was_in")

    def __init__(self) -> None:
        self.parser: int | None = None
        self.sockets: tuple[Socket, ...] = ()
        self.left: tuple[str, ...] = ()
        self.assembly: Assembly | None = None
        self.is_blamed = False
        self.was_in = False

    @classmethod
    def of(cls, socket: Socket) -> Client:
        """Make the client of a socket that stood for it."""
        client = cls()
        client.parser = socket.encoding
        client.sockets = (socket,)
        client.was_in = True
        return client

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to remember but a single socket, as of nearly all: it may stand for it."""
        return len(self.sockets) == 1 and self.assembly is None and not self.left

    @property
    def expects_text(self) -> bool:
        """Whether the next message is a text packet."""
        return self.parser == Encoding.JSON and self.assembly is None

    def find(self, namespace: str) -> Socket | None:
        """Return its socket in a namespace."""
        for socket in self.sockets:
            if socket.namespace == namespace:
                return socket
        return None

    def add(self, socket: Socket) -> None:
        """It enters a namespace."""
        self.sockets = (*self.sockets, socket)
        if socket.namespace in self.left:
            self.left = tuple(name for name in self.left if name != socket.namespace)

    def remove(self, socket: Socket) -> None:
        """It is in a namespace no more."""
        self.sockets = tuple(other for other in self.sockets if other is not socket)
