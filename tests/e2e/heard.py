"""A client of Socket.IO, python-socketio's, that notes what it hears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import socketio

from tests.e2e.serving import WAIT_S, ServerProcess


class Heard:
    """A Socket.IO client, and the events that it got."""

    def __init__(self, client: socketio.AsyncClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._events: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._gone = asyncio.Event()
        client.on("*", self._heard, namespace=namespace)
        client.on("disconnect", self._left, namespace=namespace)

    async def _heard(self, event: str, *args: Any) -> None:
        self._events.put_nowait([event, *args])

    def _left(self, *reason: str) -> None:
        self._gone.set()

    async def disconnected(self) -> None:
        """Wait until it is out of the namespace."""
        await asyncio.wait_for(self._gone.wait(), WAIT_S)

    def answer(self, event: str, call: Callable[..., Any]) -> None:
        """Have the server's questions of an event answered."""
        self._client.on(event, call, namespace=self._namespace)

    async def next(self) -> list[Any]:
        return await asyncio.wait_for(self._events.get(), WAIT_S)

    async def next_of(self, event: str) -> list[Any]:
        while (heard := await self.next())[0] != event:
            pass
        return heard

    async def call(self, event: str, *args: Any) -> Any:
        return await self._client.call(event, args or None, namespace=self._namespace, timeout=WAIT_S)

    async def emit(self, event: str, *args: Any) -> None:
        await self._client.emit(event, args, namespace=self._namespace)


@contextlib.asynccontextmanager
async def open_socketio(
    server: ServerProcess,
    auth: dict[str, Any] | None,
    namespace: str = "/",
    transport: str = "websocket",
    parser: str = "default",
) -> AsyncIterator[Heard]:
    """Connect a client to a namespace."""
    # Given: a client that is put out closes its own session, then opens one more for what it still sends.
    async with aiohttp.ClientSession() as http:
        client = socketio.AsyncClient(reconnection=False, serializer=parser, http_session=http)
        heard = Heard(client, namespace)
        try:
            await client.connect(
                server.http, auth=auth, namespaces=[namespace], transports=[transport], wait_timeout=WAIT_S
            )
            yield heard
        finally:
            await client.disconnect()
            await client.eio.wait()  # until it sends no more
