"""A client of Socket.IO that sends each packet by itself and looks at each one it gets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError

from tests.support.polling import PollingClient

WAIT_S = 10.0
CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = range(5)
BINARY = 3  # what is added to the type of a packet with attachments

Packet = tuple[int, str, int | None, Any]
"""``(type, namespace, id, data)``."""


class PollingSocket:
    """Long-polling, used as a WebSocket is.

    Attributes:
        close_code: 0: nobody says why a session that polls has ended.
    """

    close_code = 0

    def __init__(self, client: PollingClient) -> None:
        self.client = client
        self._received: deque[bytes] = deque()

    async def send(self, message: str | bytes) -> None:
        payload = message.encode() if isinstance(message, str) else b"b" + base64.b64encode(message)
        answer = await self.client.post(payload)
        if answer.status != 200:
            raise ConnectionClosedError(None, None)

    async def recv(self) -> str | bytes:
        while not self._received:
            answer = await self.client.get()
            if answer.status != 200 or answer.body == b"1":
                raise ConnectionClosedError(None, None)
            self._received.extend(answer.body.split(b"\x1e"))
        packet = self._received.popleft()
        return base64.b64decode(packet[1:]) if packet.startswith(b"b") else packet.decode()


class SioClient:
    """A client that checks nothing by itself, and answers pings.

    Args:
        socket: What carries it; the handshake of Engine.IO is yet to come, or over.
        packed: It speaks msgpack.
    """

    def __init__(self, socket: ClientConnection | PollingSocket, packed: bool) -> None:
        self.socket = socket
        self.packed = packed
        self.handshake: dict[str, Any] = {}
        self.pings = 0
        self.hello: dict[str, Any] = {}
        self._waiting: list[Packet] = []
        self._id = 0

    # -- raw

    async def send_raw(self, *messages: str | bytes) -> None:
        """Send messages of Engine.IO as they are."""
        for message in messages:
            await self.socket.send(message)

    async def receive_raw(self) -> str | bytes:
        """Return the next message that is no ping."""
        while True:
            data: str | bytes = await asyncio.wait_for(self.socket.recv(), WAIT_S)
            if data != "2":
                return data
            self.pings += 1
            await self.socket.send("3")

    async def closed(self) -> int:
        """Wait until the server has closed, whatever it sends before; returns the close code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self.receive_raw()
        return self.socket.close_code or 0

    # -- packets

    async def send(self, kind: int, namespace: str, number: int | None, data: Any = None) -> None:
        """Send a packet; data of None is none."""
        if self.packed:
            fields = {"type": kind, "nsp": namespace, "data": data, "id": number}
            await self.socket.send(msgpack.packb({k: v for k, v in fields.items() if v is not None}))
            return
        attachments: list[bytes] = []
        array = "" if data is None else json.dumps(_detach(data, attachments), separators=(",", ":"))
        head = f"4{kind + BINARY}{len(attachments)}-" if attachments else f"4{kind}"
        head += "" if namespace == "/" else f"{namespace},"
        await self.send_raw(f"{head}{'' if number is None else number}{array}", *attachments)

    async def receive(self) -> Packet:
        """Return the next packet."""
        if self._waiting:
            return self._waiting.pop(0)
        data = await self.receive_raw()
        if self.packed:
            assert isinstance(data, bytes), data
            fields = msgpack.unpackb(data, timestamp=3)
            assert ("data" in fields) == (fields["type"] != DISCONNECT)
            assert fields.get("id", 0) is not None
            return fields["type"], fields["nsp"], fields.get("id"), fields.get("data")
        assert isinstance(data, str), data
        return await self._read_text(data)

    async def _read_text(self, text: str) -> Packet:
        assert text[0] == "4", text
        kind, rest = int(text[1]), text[2:]
        attachments: list[str | bytes] = []
        if kind > CONNECT_ERROR:
            count, _, rest = rest.partition("-")
            attachments = [await self.receive_raw() for _ in range(int(count))]
            kind -= BINARY
        namespace = "/"
        if rest.startswith("/"):
            namespace, _, rest = rest.partition(",")
        digits = len(rest) - len(rest.lstrip("0123456789"))
        number = int(rest[:digits]) if digits else None
        data = (
            json.loads(rest[digits:], object_hook=lambda item: _attach(item, attachments)) if rest else None
        )
        return kind, namespace, number, data

    async def connect(self, auth: dict[str, Any] | None = None, namespace: str = "/") -> Any:
        """Connect to a namespace; returns what the answer says."""
        await self.send(CONNECT, namespace, None, auth)
        kind, where, number, data = await self.receive()
        assert (kind, where, number) == (CONNECT, namespace, None), (kind, where, data)
        return data

    async def refused(self, auth: dict[str, Any] | None = None, namespace: str = "/") -> Any:
        """Try to connect to a namespace; returns what CONNECT_ERROR says."""
        await self.send(CONNECT, namespace, None, auth)
        kind, where, number, data = await self.receive()
        assert (kind, where, number) == (CONNECT_ERROR, namespace, None), (kind, where, data)
        return data

    async def emit(self, event: str, *args: Any, namespace: str = "/") -> None:
        """Send an event that wants no acknowledgement."""
        await self.send(EVENT, namespace, None, [event, *args])

    async def call(self, event: str, *args: Any, namespace: str = "/") -> list[Any]:
        """Send an event and return its acknowledgement's arguments; other packets are kept for later."""
        number, self._id = self._id, self._id + 1
        await self.send(EVENT, namespace, number, [event, *args])
        others: list[Packet] = []
        while True:
            packet = await self.receive()
            if packet[:3] == (ACK, namespace, number):
                self._waiting = others + self._waiting
                data: list[Any] = packet[3]
                return data
            others.append(packet)

    async def event(self, name: str, namespace: str = "/") -> list[Any]:
        """Return the arguments of the next event of a name; others are dropped."""
        while True:
            kind, where, _, data = await self.receive()
            if kind == EVENT and where == namespace and data[0] == name:
                args: list[Any] = data[1:]
                return args


def _detach(value: Any, attachments: list[bytes]) -> Any:
    if isinstance(value, bytes):
        attachments.append(value)
        return {"_placeholder": True, "num": len(attachments) - 1}
    if isinstance(value, list | tuple):
        return [_detach(item, attachments) for item in value]
    return {k: _detach(v, attachments) for k, v in value.items()} if isinstance(value, dict) else value


def _attach(item: dict[str, Any], attachments: list[Any]) -> Any:
    if item.get("_placeholder") is True:
        assert list(item) == ["_placeholder", "num"]
        return attachments[item["num"]]
    return item


@contextlib.asynccontextmanager
async def open_polling(port: int, *, packed: bool = False) -> AsyncIterator[SioClient]:
    """Open a transport that polls, without a CONNECT."""
    async with PollingClient(port, "/socket.io/") as polling:
        await polling.open()
        client = SioClient(PollingSocket(polling), packed)
        client.handshake = polling.opened
        yield client


@contextlib.asynccontextmanager
async def going_over(port: int, client: SioClient) -> AsyncIterator[ClientConnection]:
    """Open the WebSocket of a client that polls, and probe it."""
    sid = client.handshake["sid"]
    url = f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket&sid={sid}"
    async with connect(url, compression=None, proxy=None, max_queue=None) as socket:
        await socket.send("2probe")
        assert await asyncio.wait_for(socket.recv(), WAIT_S) == "3probe"
        yield socket


@contextlib.asynccontextmanager
async def open_sio(port: int, *, packed: bool = False, **options: Any) -> AsyncIterator[SioClient]:
    """Open a transport, without a CONNECT."""
    url = f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
    async with connect(url, compression=None, proxy=None, max_queue=None, **options) as socket:
        client = SioClient(socket, packed)
        opened = await client.receive_raw()
        assert isinstance(opened, str)
        assert opened[0] == "0"
        client.handshake = json.loads(opened[1:])
        yield client


@contextlib.asynccontextmanager
async def open_user(server: Any, user: str, *, packed: bool = False, **auth: Any) -> AsyncIterator[SioClient]:
    """Connect a user to the root namespace; its ``hello`` is kept."""
    async with open_sio(server.port, packed=packed) as client:
        await client.connect({"token": server.token(user)} | auth)
        (client.hello,) = await client.event("hello")
        yield client
