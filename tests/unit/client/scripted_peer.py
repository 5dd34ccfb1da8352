"""A server that does what a test's script says: the other end of a client, over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from fastim.wire.events import NAMES

WELCOME = {
    "protocol": 1,
    "features": [],
    "session": "s1",
    "user": "ann",
    "device": "d1",
    "tier": "standard",
    "node": "n1",
    "time": 1,
    "resumed": False,
    "heartbeat_ms": 0,
    "limits": {"max_message_bytes": 102_400, "messages_per_minute": 0},
}


class Talk:
    """One connection, seen from the server."""

    def __init__(self, socket: ServerConnection) -> None:
        self.socket = socket
        self._packets: list[Any] = []

    async def send(self, *packet: Any) -> None:
        await self.send_value(list(packet))

    async def send_value(self, value: Any) -> None:
        binary = str(self.socket.subprotocol).endswith("msgpack")
        await self.socket.send(msgpack.packb(value) if binary else json.dumps(value))

    async def receive(self) -> Any:
        if not self._packets:
            message = await self.socket.recv()
            value = msgpack.unpackb(message) if isinstance(message, bytes) else json.loads(message)
            self._packets = value if isinstance(value[0], list) else [value]
        packet = self._packets.pop(0)
        return [NAMES.get(packet[0], packet[0]), *packet[1:]]

    async def expect(self, event: str) -> tuple[Any, Any]:
        """Return the body and the ref of the next packet, which must be ``event`` (acks may come between)."""
        while True:
            packet = await self.receive()
            if packet[0] == event:
                return packet[1], packet[2] if len(packet) > 2 else None
            assert packet[0] == "ack", f"{packet} instead of {event}"

    async def welcome(self, **fields: Any) -> Any:
        """Answer hello; return its body."""
        body, ref = await self.expect("hello")
        await self.send("ok", WELCOME | fields, ref)
        return body

    async def message(self, seq: int, conversation: str = "c", **fields: Any) -> None:
        await self.send("new_message", message(seq, conversation, **fields))

    async def barrier(self) -> None:
        """Return when the client has dealt with what was sent before."""
        await self.send("barrier", {}, 99)
        while (await self.receive())[::2] != ["error", 99]:
            pass

    async def until_closed(self) -> None:
        await self.socket.wait_closed()

    async def close(self, code: int, reason: str = "") -> None:
        await self.socket.close(code, reason)

    def cut(self) -> None:
        self.socket.transport.abort()


def message(seq: int, conversation: str = "c", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"m{seq}",
        "conversation": conversation,
        "seq": seq,
        "sender": "bob",
        "device": "d",
        "content": f"text {seq}",
        "kind": "text",
        "time": 1_700_000_000_000 + seq,
    } | fields


Script = Callable[[Talk], Awaitable[None]]
Gate = Callable[[ServerConnection, Request], Response | None]


@asynccontextmanager
async def scripted(*scripts: Script, gate: Gate | None = None) -> AsyncIterator[str]:
    """Serve one connection after the other by ``scripts``; yield the address.

    A script's failed assertion fails the test; so does a script that nobody connected to.
    """
    waiting = list(scripts)
    failures: list[BaseException] = []

    async def talk(socket: ServerConnection) -> None:
        if not waiting:
            failures.append(AssertionError("one connection more than scripts"))
            return
        try:
            await waiting.pop(0)(Talk(socket))
        except Exception as error:
            failures.append(error)

    async with serve(
        talk,
        "127.0.0.1",
        0,
        subprotocols=["fastim.v1.json", "fastim.v1.msgpack"],
        process_request=gate,
        ping_interval=None,
        close_timeout=1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with asyncio.timeout(20):
            yield f"ws://127.0.0.1:{port}/ws"
    if failures:
        raise failures[0]
    assert not waiting, f"{len(waiting)} scripts were never connected to"
