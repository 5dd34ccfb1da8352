"""What the scenarios share: clients of one server, connected in one way, and how to wait for what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
import engineio
import socketio

# One GET takes all that is queued; as it comes, this client refuses a payload of more than 16 packets.
engineio.payload.Payload.max_decode_packets = 10_000

TRANSPORTS = {
    "websocket": ["websocket"],
    "polling": ["polling"],
    "upgrade": ["polling", "websocket"],
}
TOKEN = "lab-token"
WAIT_S = 10.0


class Client:
    """A python-socketio client and what it heard.

    Attributes:
        sio: The client itself.
        http: Its session, which it would leave open after an abrupt end.
        heard: Events that nobody took yet, each as (namespace, event, arguments).
        welcome: What each namespace's ``welcome`` told.
    """

    def __init__(self, parser: str, **options: Any) -> None:
        self.http = aiohttp.ClientSession()
        options = {
            "http_session": self.http,
            "reconnection_delay": 0.02,
            "reconnection_delay_max": 0.05,
            "serializer": "default" if parser == "default" else parser,
            **options,
        }
        self.sio = socketio.AsyncClient(**options)
        self.heard: list[tuple[str, str, tuple[Any, ...]]] = []
        self.welcome: dict[str, Any] = {}
        self._changed = asyncio.Condition()

    def listen(self, namespace: str) -> None:
        """Keep what is heard in a namespace; a handler set later takes its event instead."""

        async def keep(event: str, *arguments: Any) -> None:
            if event == "welcome":
                self.welcome[namespace] = arguments[0]
            await self._note(namespace, event, arguments)

        async def connected() -> None:
            await self._note(namespace, "connect", ())

        async def disconnected(reason: str) -> None:
            await self._note(namespace, "disconnect", (reason,))

        async def refused(error: Any) -> None:
            await self._note(namespace, "connect_error", (error,))

        self.sio.on("*", keep, namespace=namespace)
        self.sio.on("connect", connected, namespace=namespace)
        self.sio.on("disconnect", disconnected, namespace=namespace)
        self.sio.on("connect_error", refused, namespace=namespace)

    async def _note(self, namespace: str, event: str, arguments: tuple[Any, ...]) -> None:
        async with self._changed:
            self.heard.append((namespace, event, arguments))
            self._changed.notify_all()

    async def take(self, event: str, namespace: str = "/") -> tuple[Any, ...]:
        """Wait for an event and take it out of what was heard; return its arguments."""

        def find() -> int | None:
            for at, (where, name, _) in enumerate(self.heard):
                if (where, name) == (namespace, event):
                    return at + 1
            return None

        async with asyncio.timeout(WAIT_S), self._changed:
            at = await self._changed.wait_for(find)
            return self.heard.pop(at - 1)[2]

    async def ask(self, event: str, *arguments: Any, namespace: str = "/") -> Any:
        """Return what the server acknowledges: the argument itself, several as a tuple, none as None."""
        return await self.sio.call(event, arguments, namespace=namespace, timeout=WAIT_S)

    async def expect_exactly(self, event: str, expected: Iterable[tuple[Any, ...]]) -> None:
        """Wait until as many were heard, go to the server and back, and compare."""
        expected = list(expected)

        def found() -> list[tuple[Any, ...]]:
            return [arguments for _, name, arguments in self.heard if name == event]

        async with asyncio.timeout(WAIT_S), self._changed:
            await self._changed.wait_for(lambda: len(found()) >= len(expected))
        await self.ask("echo", "barrier")
        assert found() == expected, found()[:20]


class World:
    """All clients of a scenario.

    Args:
        url: Of the server.
        transport: ``websocket``, ``polling`` or ``upgrade``: how every client connects.
        parser: ``default`` or ``msgpack``.
    """

    def __init__(self, url: str, transport: str, parser: str) -> None:
        self.url = url
        self.transport = transport
        self.parser = parser
        self._clients: list[Client] = []

    async def connect(self, client: Client, namespaces: list[str], auth: Any) -> None:
        await client.sio.connect(
            self.url,
            auth=auth,
            transports=TRANSPORTS[self.transport],
            namespaces=namespaces,
            wait_timeout=WAIT_S,
        )

    def dial(self, *namespaces: str, **options: Any) -> Client:
        """Make a client that has not connected yet."""
        client = Client(self.parser, **options)
        for namespace in namespaces:
            client.listen(namespace)
        self._clients.append(client)
        return client

    async def open(self, *namespaces: str, auth: Any = None, **options: Any) -> Client:
        """Connect a client and wait for the welcome of each namespace, ``/`` if none is named."""
        names = list(namespaces) or ["/"]
        client = self.dial(*names, **options)
        await self.connect(client, names, {"token": TOKEN} if auth is None else auth)
        for name in names:
            await client.take("welcome", name)
        return client

    async def open_many(self, count: int) -> list[Client]:
        return list(await asyncio.gather(*(self.open() for _ in range(count))))

    async def end(self) -> None:
        for client in self._clients:
            # A client that waits to come back has to be told, too.
            await client.sio.shutdown()
            await client.http.close()


Scenario = Callable[[World], Any]
