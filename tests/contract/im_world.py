"""A messaging domain with a real hub (fed driver) and a real SQLite file, driven by hand.

``World`` does what the service does, in a few lines: it decodes packets, calls built-ins and queues answers.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgpack

from fastim._core.hub import Encoding, EventKind, Hub
from fastim.errors import ErrorCode, RequestError, StoreError
from fastim.guard.tokens import Claims
from fastim.im.messaging import DEFERRED, ImOptions, Messaging
from fastim.im.session import Session
from fastim.im.sessions import MovedSession
from fastim.store.base import Store, Write
from fastim.store.sqlite import SQLiteStore
from fastim.wire import bodies
from fastim.wire.bodies import decode_body
from fastim.wire.events import NAMES
from fastim.wire.native import decode_message

NS_PER_MS = 1_000_000
DEADLINE_S = 20.0
"""How long a condition is waited for before the test fails."""


class Clock:
    """Time that stands still unless a test moves it."""

    def __init__(self) -> None:
        self.ns = 1_000_000_000_000
        self.epoch_ms = 1_700_000_000_000

    def now_ns(self) -> int:
        return self.ns

    def now_ms(self) -> int:
        return self.epoch_ms + (self.ns - 1_000_000_000_000) // NS_PER_MS


class Client:
    """One connection: what it sends, and what it got, in order."""

    def __init__(self, world: World, encoding: int) -> None:
        self.world = world
        self.encoding = encoding
        self.handle = 0
        self.session: Session
        self.hello: dict[str, Any] = {}
        self.packets: list[list[Any]] = []
        self.close_code: int | None = None
        self.reading = True
        self._buffer = b""
        self._ref = 0

    # -- bytes

    def feed_message(self, payload: bytes, opcode: int) -> None:
        head = bytes([0x80 | opcode])
        size = len(payload)
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65536:
            head += bytes([0x80 | 126]) + struct.pack(">H", size)
        else:
            head += bytes([0x80 | 127]) + struct.pack(">Q", size)
        mask = b"\0\0\0\0"
        self.world.hub.feed(self.handle, head + mask + payload, self.world.clock.ns)

    def take(self) -> None:
        """Read what the server sent."""
        if not self.reading:
            return
        while data := self.world.hub.take(self.handle, 1 << 20):
            self._buffer += data
        self._parse()

    def take_some(self, max_bytes: int) -> None:
        """Read so much, also while ``reading`` is off."""
        self._buffer += self.world.hub.take(self.handle, max_bytes)
        self._parse()

    def _parse(self) -> None:
        while (frame := self._next_frame()) is not None:
            opcode, payload = frame
            if opcode == 8:
                self.close_code = struct.unpack(">H", payload[:2])[0] if payload else 1005
            elif opcode == 1:
                self._got(decode_json(payload))
            elif opcode == 2:
                self._got(decode_msgpack(payload))

    def _got(self, message: list[Any]) -> None:
        self.packets.extend(message if isinstance(message[0], list) else [message])

    def _next_frame(self) -> tuple[int, bytes] | None:
        data = self._buffer
        if len(data) < 2:
            return None
        size, start = data[1] & 0x7F, 2
        if size == 126:
            size, start = struct.unpack(">H", data[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack(">Q", data[2:10])[0], 10
        if len(data) < start + size:
            return None
        self._buffer = data[start + size :]
        return data[0] & 0x0F, data[start : start + size]

    # -- packets

    def send(self, event: str, body: Any, *, ask: bool = True) -> int:
        """Send a packet; returns its ref, 0 without one."""
        packet: list[Any] = [event, body]
        if ask:
            self._ref += 1
            packet.append(self._ref)
        if self.encoding:
            self.feed_message(msgpack.packb(packet), 2)
        else:
            self.feed_message(encode_json(packet), 1)
        self.world.turn()
        return self._ref if ask else 0

    def feed_batch(self, packets: list[list[Any]]) -> None:
        """Send packets as one batch, not yet served."""
        if self.encoding:
            self.feed_message(msgpack.packb(packets), 2)
        else:
            self.feed_message(encode_json(packets), 1)

    async def ask(self, event: str, body: Any) -> Any:
        """Send a request and return the body of its answer; AnswerError where that is an error."""
        ref = self.send(event, body)
        answer = await self.answer(ref)
        if answer[0] == "error":
            raise AnswerError(answer[1])
        return answer[1]

    async def answer(self, ref: int) -> list[Any]:
        """The ``ok`` or ``error`` of a ref."""

        def find() -> list[Any] | None:
            return next((p for p in self.packets if p[0] in ("ok", "error") and p[2:] == [ref]), None)

        return await self.world.until(find)

    async def fails(self, event: str, body: Any) -> str:
        """Send a request that must fail; the code."""
        try:
            await self.ask(event, body)
        except AnswerError as error:
            return error.code
        raise AssertionError(f"{event} {body} was answered ok")

    def bodies(self, event: str) -> list[Any]:
        """The bodies of all packets of an event so far."""
        return [packet[1] for packet in self.packets if packet[0] == event]

    async def event(self, event: str, count: int = 1) -> Any:
        """Wait until ``count`` packets of the event have come; the last one's body."""
        await self.world.until(lambda: len(self.bodies(event)) >= count)
        return self.bodies(event)[count - 1]

    def seqs(self, conversation: str | None = None) -> list[int]:
        """Sequence numbers of messages and own oks, in the order they came."""
        found = []
        for packet in self.packets:
            if packet[0] not in ("new_message", "ok") or "seq" not in packet[1]:
                continue
            if conversation is None or packet[1]["conversation"] == conversation:
                found.append(packet[1]["seq"])
        return found

    async def say(self, conversation: str, content: Any = "hi", **fields: Any) -> dict[str, Any]:
        """Send a message and wait for its ok."""
        answer: dict[str, Any] = await self.ask(
            "message", {"conversation": conversation, "content": content, **fields}
        )
        return answer

    def clear(self) -> None:
        """Forget what came so far."""
        self.packets.clear()

    async def leave(self) -> None:
        """Cut the connection, without a close frame."""
        self.world.hub.abort(self.handle)
        await self.world.until(lambda: self not in self.world.clients.values())


class AnswerError(Exception):
    def __init__(self, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.code: str = body["code"]
        self.body = body


class World:
    """Hub, store and domain, and the connections to them."""

    def __init__(self, store: Store, options: ImOptions, **hub_options: Any) -> None:
        self.clock = Clock()
        self.hub = Hub(**hub_options)
        self.store = store
        self.messaging = Messaging(
            self.hub,
            store,
            options,
            clock_ns=self.clock.now_ns,
            time_ms=self.clock.now_ms,
            spawn=self.spawn,
        )
        self.session_type = Session
        self.clients: dict[Session, Client] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.failures: list[BaseException] = []
        self.commits = 0

    def on_commit(self, writes: Any) -> None:
        self.commits += 1
        self.messaging.on_commit(writes)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failures.append(task.exception())  # type: ignore[arg-type]

    # -- the service's part

    def turn(self) -> None:
        """One poll, its events, one flush; then everybody reads."""
        for _ in range(1000):
            for kind, subject, data in self.hub.poll(self.clock.ns):
                if kind in (EventKind.TEXT, EventKind.BINARY):
                    self._serve(subject, data)  # type: ignore[arg-type]
                elif kind == EventKind.DRAINED:
                    self.messaging.on_drained(subject)  # type: ignore[arg-type]
                elif kind == EventKind.CLOSED and isinstance(subject, Session):
                    self.messaging.detach(subject)
                    client = self.clients.pop(subject, None)
                    if client is not None and client.close_code is None:
                        client.close_code = data[0]  # type: ignore[index]
            self.hub.flush(self.clock.ns)
            for client in list(self.clients.values()):
                client.take()
            if not self.hub.pending:
                return

    def _serve(self, session: Session, data: bytes) -> None:
        for event, body, ref in decode_message(data, session.encoding):
            builtin = self.messaging.builtins[event]  # type: ignore[index]
            try:
                if isinstance(body, RequestError):
                    raise body
                decoded = decode_body(body, builtin.body, session.encoding)
                result = builtin.handler(session, decoded, ref)
            except RequestError as error:
                session.fail(ref, str(event), error)
                continue
            if isinstance(result, Awaitable):
                self.spawn(self._finish(session, str(event), ref, result))
            elif result is not DEFERRED:
                session.answer(ref, result)

    async def _finish(self, session: Session, event: str, ref: int | None, result: Awaitable[Any]) -> None:
        try:
            session.answer(ref, await result)
        except RequestError as error:
            session.fail(ref, event, error)
        except StoreError:
            session.fail(ref, event, RequestError(ErrorCode.UNAVAILABLE, "the store does not answer"))

    # -- time

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Run the world until the condition holds; returns its value."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.turn()
            if self.failures:
                raise self.failures[0]
            if value := condition():
                return value
            if time.monotonic() > deadline:
                raise AssertionError("the condition never held")
            await asyncio.sleep(0.0005 if self.store.queued_count or self.tasks else 0)

    async def settle(self) -> None:
        """Until nothing is on its way any more: store, tasks, hub."""
        for _ in range(3):
            await self.until(lambda: not self.tasks and not self.store.queued_count)
            await self.store.flush()
            await asyncio.sleep(0)
            self.turn()

    async def advance(self, ms: int, step_ms: int = 20) -> None:
        """Let time pass, ticking on the way."""
        end = self.clock.ns + ms * NS_PER_MS
        while self.clock.ns < end:
            self.clock.ns = min(end, self.clock.ns + step_ms * NS_PER_MS)
            self.messaging.tick(self.clock.ns)
            self.turn()
        await self.settle()

    # -- connections

    def open(self, encoding: int = 0) -> Client:
        """Upgrade a connection; no hello yet."""
        client = Client(self, encoding)
        client.handle = self.hub.open_fed("127.0.0.1", self.clock.ns)
        self.hub.feed(client.handle, b"GET /ws HTTP/1.1\r\n\r\n", self.clock.ns)
        self.hub.poll(self.clock.ns)
        session = self.session_type(self.hub, client.handle, encoding)
        client.session = session
        assert self.hub.upgrade(client.handle, b"", session, encoding=encoding)
        self.clients[session] = client
        return client

    async def hello(self, client: Client, user: str, **fields: Any) -> None:
        """Say hello and begin."""
        client.hello = await self.attach(client, user, **fields)
        self.messaging.begin(client.session)
        self.turn()

    async def attach(
        self,
        client: Client,
        user: str,
        *,
        scope: tuple[str, ...] = (),
        token_device: str | None = None,
        resume: dict[str, Any] | None = None,
        moved: MovedSession | None = None,
        replay: bool = True,
        **fields: Any,
    ) -> dict[str, Any]:
        hello = bodies.Hello(
            resume=bodies.Resume(resume.get("session", ""), resume.get("seen", {})) if resume else None,
            **fields,
        )
        claims = Claims(user, token_device, None, "standard", frozenset(scope), 2_000_000_000, None)
        return await self.messaging.attach(client.session, hello, claims, moved, replay=replay)

    async def connect(self, user: str, encoding: int = 0, **fields: Any) -> Client:
        client = self.open(encoding)
        await self.hello(client, user, **fields)
        return client

    async def group(self, owner: Client, members: list[str], **fields: Any) -> str:
        """Create a group; its id."""
        body = await owner.ask("conversation_create", {"kind": "group", "members": members, **fields})
        await self.settle()
        return str(body["conversation"])


async def open_world(path: Path, *, store: Store | None = None, **fields: Any) -> World:
    """Open a world on a file; ``fields`` are options of the domain, ``hub`` a dict of the hub's."""
    hub = fields.pop("hub", {})
    real = store if store is not None else SQLiteStore(path, synchronous="normal")
    world = World(real, ImOptions(**fields), **hub)
    await real.open(world.on_commit)
    await world.messaging.start()
    return world


async def close_world(world: World) -> None:
    await world.messaging.stop()
    await world.store.close()
    for task in list(world.tasks):
        task.cancel()
    await asyncio.gather(*world.tasks, return_exceptions=True)
    world.hub.shutdown()
    assert not world.failures, world.failures


def encode_json(packet: Any) -> bytes:
    return json.dumps(packet).encode()


def decode_json(payload: bytes) -> Any:
    return json.loads(payload)


def decode_msgpack(payload: bytes) -> Any:
    """Decode; event codes back to names, so that tests read the same for both encodings."""
    message = msgpack.unpackb(payload, strict_map_key=False)
    for packet in message if isinstance(message[0], list) else [message]:
        packet[0] = NAMES.get(packet[0], packet[0])
    return message


__all__ = ["AnswerError", "Client", "Encoding", "World", "Write", "close_world", "open_world"]
