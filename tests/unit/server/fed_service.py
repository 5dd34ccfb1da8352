"""A service over the hub's fed driver: real parts, no socket, a clock that a test moves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.uri import parse_uri

from fastim._core.addresses import AddressRanges
from fastim.guard.admission import Admission
from fastim.guard.blocklist import BlockList
from fastim.guard.limits import ConnectLimiter
from fastim.guard.tokens import TokenVerifier, issue
from fastim.im.messaging import Messaging
from fastim.im.options import ImOptions
from fastim.server.application.app import FastIM
from fastim.server.front.front import Front, FrontOptions
from fastim.server.service import Service, ServiceOptions
from fastim.store.sqlite import SQLiteStore

SECRET = b"a secret of the unit tests, long enough"
EPOCH_S = 1_700_000_000
NS_PER_S = 1_000_000_000


class World:
    """A service, and the time it lives in."""

    def __init__(
        self,
        folder: Path,
        application: FastIM | None,
        options: ServiceOptions,
        hub: Mapping[str, Any] | None = None,
    ) -> None:
        self.ns = NS_PER_S
        loop = asyncio.get_running_loop()
        self.service = Service(
            loop,
            options,
            TokenVerifier([SECRET]),
            application,
            clock_ns=lambda: self.ns,
            time_s=self.time_s,
            **(hub or {}),
        )
        self.store = SQLiteStore(folder / "unit.db", synchronous="normal")
        self.messaging = Messaging(
            self.service.hub,
            self.store,
            ImOptions(),
            clock_ns=lambda: self.ns,
            time_ms=lambda: int(self.time_s() * 1000),
            spawn=self.service.spawn,
        )
        admission = Admission(BlockList(AddressRanges()), ConnectLimiter(0, 0))
        self.front = Front(self.service, FrontOptions(), admission)

    def time_s(self) -> float:
        return EPOCH_S + self.ns / NS_PER_S

    def pass_time(self, seconds: float) -> None:
        """Let time pass, as the tick would see it: not in one leap."""
        end = self.ns + int(seconds * NS_PER_S)
        while self.ns < end:
            self.ns = min(end, self.ns + NS_PER_S // 20)
            self.service.poll()

    def token(self, user: str = "u", ttl_s: float = 3600) -> str:
        return issue(SECRET, user, ttl_s=ttl_s, now_s=self.time_s())

    async def turns(self, count: int = 5) -> None:
        """Let the loop run what is due."""
        for _ in range(count):
            await asyncio.sleep(0)
            self.service.poll()


@asynccontextmanager
async def running(
    folder: Path,
    application: FastIM | None = None,
    hub: Mapping[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[World]:
    """Run a service with these ``ServiceOptions``, and more options of ``Hub``."""
    world = World(folder, application, ServiceOptions(**options), hub)
    await world.store.open(world.messaging.on_commit)
    await world.messaging.start()
    world.service.start(world.messaging, world.front)
    try:
        yield world
    finally:
        world.service.stop()
        await world.store.close()


class Peer:
    """A client's end of a fed connection; frames by ``websockets``."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.protocol = ClientProtocol(parse_uri("ws://unit.test/ws"), max_size=None)
        self.handle = world.service.hub.open_fed("192.0.2.1", world.ns)
        self.protocol.send_request(self.protocol.connect())
        self.packets: list[list[Any]] = []
        self.pings = 0
        self.answers_pings = True
        self.turn()

    def turn(self) -> None:
        """Carry bytes both ways once."""
        hub = self.world.service.hub
        for data in self.protocol.data_to_send():
            if data:
                hub.feed(self.handle, data, self.world.ns)
        self.world.service.poll()
        self.world.service.flush()
        while data := hub.take(self.handle, 1 << 20):
            self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            opcode = getattr(event, "opcode", None)
            if opcode is Opcode.TEXT:
                self.packets.append(json.loads(event.data))  # type: ignore[union-attr]
            elif opcode is Opcode.PING:
                self.pings += 1
        if self.answers_pings:
            for data in self.protocol.data_to_send():
                if data:
                    hub.feed(self.handle, data, self.world.ns)
        else:
            self.protocol.data_to_send()

    def send(self, *packet: Any) -> None:
        self.protocol.send_text(json.dumps(packet).encode())
        self.turn()

    async def hello(self, user: str = "u", ttl_s: float = 3600) -> dict[str, Any]:
        self.send("hello", {"token": self.world.token(user, ttl_s)}, 1)
        return (await self.receive())[1]  # type: ignore[no-any-return]

    async def receive(self) -> list[Any]:
        """Return the next packet; the store's threads may have to answer first."""
        for _ in range(2000):
            self.turn()
            if self.packets:
                return self.packets.pop(0)
            await asyncio.sleep(0.001)
        raise AssertionError("no packet came")

    @property
    def close_code(self) -> int | None:
        self.turn()
        return self.protocol.close_rcvd.code if self.protocol.close_rcvd else None
