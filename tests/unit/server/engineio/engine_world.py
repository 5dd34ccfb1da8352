"""Engine.IO over the hub's fed driver: an endpoint that echoes, and clients whose every byte a test sees."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from fastim.server.engineio.endpoints import Endpoints
from fastim.server.engineio.options import EngineOptions
from fastim.server.engineio.session import EngineSession
from tests.support.polling import Answer
from tests.unit.server.fed_service import World, running

ADDRESS = "192.0.2.1"
PATH = "/engine.io/"
T = TypeVar("T")


class Echo:
    """A protocol that sends each message back, and notes what it is told.

    Attributes:
        sessions: That were opened.
        received: The messages: whose, and what.
        closed_with: The codes of those that are closed, in order.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.sessions: list[EngineSession] = []
        self.received_messages: list[str | bytes] = []
        self.closed_with: list[tuple[EngineSession, int]] = []
        self.timers = 0
        self.lets_in = True  # each is a known user's at once
        self.moves = 0
        self.on_message: Callable[[], object] = lambda: None

    def opened(self, session: EngineSession, now_ns: int) -> None:
        self.sessions.append(session)
        if self.lets_in:
            self.world.service.hub.authenticated(session.handle)

    def received(self, session: EngineSession, data: bytes, binary: bool, now_ns: int) -> int:
        self.received_messages.append(data if binary else data.decode())
        session.send(data, binary)
        self.on_message()
        return 1

    def on_timer(self, session: EngineSession, now_ns: int) -> None:
        self.timers += 1

    def moved(self, session: EngineSession, now_ns: int) -> None:
        self.moves += 1

    def carries(self, session: EngineSession) -> bool:
        return False

    def closed(self, session: EngineSession, code: int, reason: str, clean: bool) -> None:
        self.closed_with.append((session, code))


class EngineWorld:
    """A service with one endpoint."""

    def __init__(self, world: World, options: EngineOptions) -> None:
        self.world = world
        self.endpoints = Endpoints(world.service, world.front, options)
        self.echo = Echo(world)
        self.engine = self.endpoints.add(PATH, self.echo)

    @property
    def figures(self) -> dict[str, int]:
        return dict(self.world.service.figures["engineio"]())

    def turn(self) -> None:
        """Serve what has come, and write what came of it."""
        self.world.service.poll()
        self.world.service.flush()

    def pass_until(self, look: Callable[[], T | None], within_s: float) -> T:
        """Let time pass until a look finds something."""
        end_ns = self.world.ns + int(within_s * 1e9)
        while not (found := look()):
            assert self.world.ns < end_ns, "not in time"
            self.world.pass_time(0.25)
        return found

    def http(self) -> Http:
        return Http(self)

    def polling(self) -> Client:
        """Open a session that polls."""
        client = Client(self)
        answer = client.getting.ask("GET")
        assert answer is not None
        assert answer.status == 200
        client.sid = json.loads(answer.body[1:])["sid"]
        return client

    def websocket(self, sid: str = "", **fields: str) -> WebSocket:
        return WebSocket(self, sid, fields)


class Http:
    """One HTTP connection."""

    def __init__(self, world: EngineWorld) -> None:
        self._world = world
        self._hub = world.world.service.hub
        self.handle = self._hub.open_fed(ADDRESS, world.world.ns)
        self._received = b""

    @property
    def is_gone(self) -> bool:
        """Whether the server has closed it, as it was idle for too long."""
        return not self._hub.peer(self.handle) or self._hub.take_finished(self.handle)

    def feed(self, data: bytes) -> None:
        self._hub.feed(self.handle, data, self._world.world.ns)
        self._world.turn()

    def ask(
        self, method: str, query: str = "EIO=4&transport=polling", body: bytes = b"", **fields: str
    ) -> Answer | None:
        """Send a request; return the answer if it is there at once."""
        lines = [f"{method} {PATH}?{query} HTTP/1.1", "Host: unit.test"]
        if method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        lines += (f"{name.replace('_', '-')}: {value}" for name, value in fields.items())
        self.feed("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return self.answer()

    def answer(self) -> Answer | None:
        """Return the next answer; None if it has not come yet."""
        self._world.turn()
        while data := self._hub.take(self.handle, 1 << 20):
            self._received += data
            self._world.turn()
        head, mark, rest = self._received.partition(b"\r\n\r\n")
        if not mark:
            return None
        line, *lines = head.decode("latin-1").split("\r\n")
        pairs = (field.partition(":") for field in lines)
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        size = int(fields.get("content-length", "0"))
        self._received = rest[size:]
        return Answer(int(line.split(" ")[1]), fields, rest[:size])

    def vanish(self) -> None:
        """The client is gone."""
        self._hub.feed_eof(self.handle, self._world.world.ns)
        self._world.turn()


class Client:
    """A session that polls, with a connection for its GETs and one for its POSTs."""

    def __init__(self, world: EngineWorld) -> None:
        self.world = world
        self.sid = ""
        self.getting = world.http()
        self.posting = world.http()
        self.answers: list[Answer] = []  # for a test to keep them

    @property
    def query(self) -> str:
        return f"EIO=4&transport=polling&sid={self.sid}"

    def get(self) -> Answer | None:
        if self.getting.is_gone:
            self.getting = self.world.http()
        return self.getting.ask("GET", self.query)

    def post(self, payload: bytes, **fields: str) -> Answer | None:
        if self.posting.is_gone:
            self.posting = self.world.http()
        return self.posting.ask("POST", self.query, payload, **fields)

    def send(self, payload: bytes) -> None:
        answer = self.post(payload)
        assert answer is not None
        assert (answer.status, answer.body) == (200, b"ok")


class WebSocket:
    """A WebSocket of the endpoint, of a session of its own or of one that polls."""

    def __init__(self, world: EngineWorld, sid: str, fields: dict[str, str]) -> None:
        self._world = world
        self._hub = world.world.service.hub
        query = "EIO=4&transport=websocket" + (f"&sid={sid}" if sid else "")
        self.protocol = ClientProtocol(parse_uri(f"ws://unit.test{PATH}?{query}"), max_size=None)
        self.handle = self._hub.open_fed(ADDRESS, world.world.ns)
        self.messages: list[str | bytes] = []
        self.response: Response | None = None
        request = self.protocol.connect()
        for name, value in fields.items():
            request.headers[name.replace("_", "-")] = value
        self.protocol.send_request(request)
        self.turn()

    @property
    def is_open(self) -> bool:
        return self.protocol.state is State.OPEN

    @property
    def refusal(self) -> Any:
        """The body of the answer that refused it."""
        error = self.protocol.handshake_exc
        return json.loads(error.response.body)  # type: ignore[union-attr]

    def turn(self) -> None:
        """Carry bytes both ways until nothing moves."""
        moved = True
        while moved:
            moved = False
            for data in self.protocol.data_to_send():
                if data:
                    moved = True
                    self._hub.feed(self.handle, data, self._world.world.ns)
            self._world.turn()
            while data := self._hub.take(self.handle, 1 << 20):
                moved = True
                self.protocol.receive_data(data)
            if self._hub.take_finished(self.handle) and self.protocol.state is State.CONNECTING:
                self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                self.response = event
            opcode = getattr(event, "opcode", None)
            if opcode is Opcode.TEXT:
                self.messages.append(event.data.decode())  # type: ignore[union-attr]
            elif opcode is Opcode.BINARY:
                self.messages.append(bytes(event.data))  # type: ignore[union-attr]

    def send(self, *messages: str | bytes) -> None:
        """Send messages, all of which the server reads at once."""
        for message in messages:
            if isinstance(message, str):
                self.protocol.send_text(message.encode())
            else:
                self.protocol.send_binary(message)
        self.turn()

    def take(self) -> list[str | bytes]:
        """Return what has come since the last call."""
        self.turn()
        messages, self.messages = self.messages, []
        return messages

    @property
    def close_code(self) -> int | None:
        """What the server closed it with; 1005: no code. None: it is open."""
        self.turn()
        return self.protocol.close_rcvd.code if self.protocol.close_rcvd else None


@asynccontextmanager
async def serving(
    folder: Path, hub: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[EngineWorld]:
    """Serve an endpoint with these ``EngineOptions``, and more options of ``Hub``."""
    async with running(folder, hub=hub) as world:
        yield EngineWorld(world, EngineOptions(**options))
