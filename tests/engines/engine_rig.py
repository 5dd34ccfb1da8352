"""Transports of Engine.IO and what their clients see, over each way that there is."""

from typing import Any

from fastim._core.hub import Encoding
from tests.engines.hub_rig import Owner, Peer, Rig, client_frame, inflate
from tests.reference.frames import BINARY, CLOSE, TEXT
from tests.reference.rendering import Message, decode_payload

WAYS = ("websocket", "tls", "polling")
CHANNEL_CODES = (4001, 4003, 4004, 4005, 1000)


class EngineRig(Rig):
    """A hub whose clients speak Engine.IO, all over one way: WebSocket, WebSocket in TLS, or HTTP polling."""

    def __init__(self, way: str, **options: Any) -> None:
        super().__init__("epoll" if way == "websocket" else "fed", **options)
        self.way = way
        self.hub.set_channel_codes(CHANNEL_CODES)

    def transport(self, name: str = "transport", **options: Any) -> "Transport":
        """An open transport; options as for ``Rig.open``."""
        owner = Owner(name)
        if self.way == "polling":
            owner.handle = self.hub.open_polling("192.0.2.7", owner, self.now_ns)
            assert owner.handle
            return Transport(self, owner, None)
        peer = self.open(name, engine=True, **options)
        assert peer.owner is not None
        return Transport(self, peer.owner, peer)


class Transport:
    """One transport, and the client's end of it."""

    def __init__(self, rig: EngineRig, owner: Owner, peer: Peer | None) -> None:
        self.rig = rig
        self.owner = owner
        self.peer = peer  # None: it polls
        self.closed_with = b""  # the payload of the close frame; polling: the packet
        self.ended = False

    @property
    def handle(self) -> int:
        return self.owner.handle

    def channel(self, namespace: str = "/", encoding: int = Encoding.JSON) -> Owner:
        owner = Owner(namespace)
        owner.handle = self.rig.hub.open_channel(self.handle, namespace.encode(), owner, encoding=encoding)
        assert owner.handle
        return owner

    def say(self, message: Message) -> None:
        """Send a message; in polling it counts as a POST with one packet."""
        data = message.encode() if isinstance(message, str) else message
        if self.peer is not None:
            self.peer.send(client_frame(TEXT if isinstance(message, str) else BINARY, data))
        else:
            self.rig.hub.receive_polled(self.handle, 1, len(data), message == "3", self.rig.now_ns)

    def messages(self) -> list[Message]:
        """Run the hub until it rests and return what the client has got since the last time."""
        if self.peer is None:
            self.rig.rest()
            found = decode_payload(self.rig.hub.take_payload(self.handle))
            if found[-1:] == ["1"]:
                self.closed_with = b"1"
                found.pop()
            self.ended = self.ended or self.rig.hub.take_finished(self.handle)
            return found
        found = []
        for frame in self.peer.frames():
            payload = inflate(frame.payload) if frame.rsv else frame.payload
            if frame.opcode == CLOSE:
                self.closed_with = payload
            else:
                found.append(payload.decode() if frame.opcode == TEXT else payload)
        self.ended = self.peer.ended
        return found

    def vanish(self) -> None:
        """The client is gone without a word."""
        if self.peer is not None:
            self.peer.close()
        else:
            self.rig.hub.abort(self.handle)
            assert self.rig.hub.take_finished(self.handle)
