"""A client of Socket.IO that does for recovery what ``socket.io-client`` does: keep a pid and an offset."""

from __future__ import annotations

import contextlib
from typing import Any

from tests.support.sio import EVENT, SioClient, open_sio

PING_S = 10.0


class RecoveringClient:
    """A client that comes back.

    Args:
        port: Where the server listens.
        auth: What it says in each CONNECT.
        namespace: Where it goes.
        packed: It speaks msgpack.

    Attributes:
        got: The events that it got and has not looked at: name and values, the offset taken off.
        offsets: Those of all events that had one, in the order they came.
    """

    def __init__(
        self, port: int, auth: dict[str, Any], *, namespace: str = "/", packed: bool = False
    ) -> None:
        self.port = port
        self.auth = auth
        self.namespace = namespace
        self.packed = packed
        self.sid = ""
        self.pid: str | None = None
        self.offset: str | None = None
        self.recovered = False
        self.raw: SioClient
        self.got: list[list[Any]] = []
        self.offsets: list[str] = []
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> RecoveringClient:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def connect(self, **auth: Any) -> bool:
        """Connect, or come back; returns whether the connection was recovered."""
        await self._open()
        answer = await self.raw.connect(self._shown(auth), self.namespace)
        self.recovered = self.pid is not None and answer.get("pid") == self.pid
        assert not self.recovered or answer["sid"] == self.sid
        self.sid, self.pid = answer["sid"], answer.get("pid")
        return self.recovered

    async def refused(self, **auth: Any) -> Any:
        """Try to come back; returns what CONNECT_ERROR says."""
        await self._open()
        return await self.raw.refused(self._shown(auth), self.namespace)

    async def _open(self) -> None:
        await self._stack.aclose()
        self.raw = await self._stack.enter_async_context(open_sio(self.port, packed=self.packed))

    def _shown(self, auth: dict[str, Any]) -> dict[str, Any]:
        shown = {} if self.pid is None else {"pid": self.pid}
        if self.pid is not None and self.offset is not None:
            shown["offset"] = self.offset
        return {**shown, **self.auth, **auth}

    async def cut(self) -> None:
        """End the connection as a lost network does: without a word."""
        self.raw.socket.transport.abort()
        await self.raw.socket.wait_closed()

    async def _next(self) -> list[Any]:
        while True:
            kind, where, number, data = await self.raw.receive()
            if kind == EVENT and where == self.namespace and number is None:
                if isinstance(data[-1], str) and len(data) > 1:
                    self.offset = data.pop()
                    self.offsets.append(self.offset)
                return list(data)

    async def next(self, name: str = "event") -> list[Any]:
        """Return the values of the next event of a name; others are kept in ``got``."""
        for at, event in enumerate(self.got):
            if event[0] == name:
                del self.got[at]
                return event[1:]
        while (event := await self._next())[0] != name:
            self.got.append(event)
        return event[1:]

    async def take(self, count: int, name: str = "event") -> list[Any]:
        """Return the first value of each of the next events of a name."""
        return [(await self.next(name))[0] for _ in range(count)]

    async def call(self, event: str, *args: Any) -> Any:
        """Send an event and return what it is acknowledged with; events that come before it are kept."""
        number = self.raw._id
        self.raw._id += 1
        await self.raw.send(EVENT, self.namespace, number, [event, *args])
        while True:
            kind, where, which, data = await self.raw.receive()
            if kind != EVENT and which == number and where == self.namespace:
                return data[0] if data else None
            if kind == EVENT and which is None and where == self.namespace:
                if isinstance(data[-1], str) and len(data) > 1:
                    self.offset = data.pop()
                    self.offsets.append(self.offset)
                self.got.append(list(data))

    async def nothing_else(self, name: str = "event") -> None:
        """Make sure that no other event of the name has come: what is sent in order is behind it."""
        await self.call("state")
        assert [event for event in self.got if event[0] == name] == []
