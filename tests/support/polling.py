"""A client of Engine.IO's long-polling that sends each request by itself and looks at each answer."""

from __future__ import annotations

import asyncio
import json
import ssl
from types import TracebackType
from typing import Any, NamedTuple, Self

WAIT_S = 10.0


class Answer(NamedTuple):
    """An HTTP answer; field names in lower case."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def error(self) -> tuple[int, int, str]:
        """The status, and the code and message of a protocol's error."""
        content = json.loads(self.body)
        assert sorted(content) == ["code", "message"]
        return self.status, content["code"], content["message"]


class HttpConnection:
    """One connection, on which requests follow each other."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self._port = port
        self._context = context
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def send(
        self,
        method: str,
        target: str,
        body: bytes = b"",
        fields: dict[str, str] | None = None,
        *,
        length: int | None = None,
    ) -> None:
        """Send a request; ``length`` is what its head says of the body, if not the truth."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._context
            )
        lines = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{self._port}"]
        if body or length is not None or method == "POST":
            lines.append(f"Content-Length: {len(body) if length is None else length}")
        lines += (f"{name}: {value}" for name, value in (fields or {}).items())
        self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self._writer.drain()

    async def answer(self) -> Answer:
        """Return the next answer."""
        return await asyncio.wait_for(self._answer(), WAIT_S)

    async def _answer(self) -> Answer:
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        pairs = (field.partition(":") for field in lines)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self._reader.readexactly(int(fields.get("content-length", "0")))
        answer = Answer(int(line.split(" ")[1]), fields, body)
        if fields.get("connection", "").lower() == "close":
            await self.close()
        return answer

    async def request(self, method: str, target: str, body: bytes = b"", **fields: str) -> Answer:
        """Send a request and return its answer; underscores in field names are hyphens."""
        await self.send(
            method, target, body, {name.replace("_", "-"): value for name, value in fields.items()}
        )
        return await self.answer()

    async def ended(self) -> bool:
        """Wait until the server closes; False if it says something instead."""
        assert self._reader is not None
        return await asyncio.wait_for(self._reader.read(1), WAIT_S) == b""

    def abort(self) -> None:
        """Be gone, with a reset."""
        assert self._writer is not None
        self._writer.transport.abort()
        self._reader = self._writer = None

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None
            await asyncio.sleep(0)


class PollingClient:
    """A session that polls: one connection for its GETs, one for its POSTs.

    Args:
        port: Of the server, on this machine.
        path: Of the endpoint.
        context: For TLS; None: there is none.
    """

    def __init__(self, port: int, path: str = "/engine.io/", context: ssl.SSLContext | None = None) -> None:
        self.path = path
        self.getting = HttpConnection(port, context)
        self.posting = HttpConnection(port, context)
        self.opened: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.getting.close()
        await self.posting.close()

    @property
    def sid(self) -> str:
        return str(self.opened["sid"])

    @property
    def target(self) -> str:
        target = f"{self.path}?EIO=4&transport=polling"
        return f"{target}&sid={self.sid}" if self.opened else target

    async def open(self) -> Self:
        """Shake hands."""
        answer = await self.getting.request("GET", self.target)
        assert answer.status == 200, answer
        assert answer.body[:1] == b"0"
        self.opened = json.loads(answer.body[1:])
        return self

    async def get(self) -> Answer:
        return await self.getting.request("GET", self.target)

    async def post(self, payload: bytes) -> Answer:
        return await self.posting.request("POST", self.target, payload)

    async def send(self, payload: bytes) -> None:
        """Post, and look at the answer."""
        answer = await self.post(payload)
        assert (answer.status, answer.body) == (200, b"ok")

    async def receive(self) -> bytes:
        """Return what the next GET brings; a ping is answered and passed over."""
        while True:
            answer = await self.get()
            assert answer.status == 200, answer
            if answer.body != b"2":
                return answer.body
            await self.send(b"3")
