"""A TCP proxy that treats what passes through it badly: late, in bits and pieces, and not to the end."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(slots=True)
class Faults:
    """What happens to a connection.

    Attributes:
        piece_bytes: At most so many bytes are passed on at a time; 0: as they come.
        delay_s: Each piece waits for up to so long.
        cut_after_bytes: The connection is reset after about so many bytes, wherever that is in what is said;
            0: never.
    """

    piece_bytes: int = 0
    delay_s: float = 0.0
    cut_after_bytes: int = 0


class Proxy:
    """Passes connections on to a port of this machine.

    Attributes:
        faults: For connections that come from now on.
        target: Where they go.
        connections, cuts: How many there were.
        swallowing: What comes is read and thrown away, both ways: neither end hears of the other any more.
        port: Where it listens.
    """

    def __init__(self, target: int, faults: Faults, dice: random.Random) -> None:
        self.target = target
        self.faults = faults
        self.connections = 0
        self.cuts = 0
        self.swallowing = False
        self.port = 0
        self._dice = dice
        self._open: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Proxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        tasks_before = asyncio.all_tasks()
        try:
            yield self
        finally:
            server.close()
            self.cut_all()
            await server.wait_closed()
            left = [t for t in asyncio.all_tasks() - tasks_before if t.get_name() == "proxied"]
            await asyncio.gather(*left, return_exceptions=True)

    def cut_all(self) -> None:
        """Reset every connection."""
        for writer in list(self._open):
            self.cuts += 1
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("proxied")
        self.connections += 1
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = (writer, up_writer)
        faults, limit = self.faults, self._limit()
        for each in both:
            each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._open.add(writer)
        directions = [
            asyncio.ensure_future(self._pump(faults, limit, *ways))
            for ways in ((reader, up_writer), (up_reader, writer))
        ]
        await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        for each in both:
            each.transport.abort()
        for direction in directions:
            direction.cancel()
        await asyncio.gather(*directions, return_exceptions=True)
        self._open.discard(writer)

    def _limit(self) -> list[int]:
        """The bytes that one connection, both ways together, may still pass."""
        after = self.faults.cut_after_bytes
        return [self._dice.randrange(1, 2 * after) if after else 1 << 62]

    async def _pump(
        self, faults: Faults, limit: list[int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Pass bytes on until either end is gone, or the connection is to be cut."""
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.swallowing:
                    continue
                size = faults.piece_bytes or len(data)
                for start in range(0, len(data), size):
                    if faults.delay_s:
                        await asyncio.sleep(self._dice.uniform(0, faults.delay_s))
                    piece = data[start : start + size][: limit[0]]
                    limit[0] -= len(piece)
                    writer.write(piece)
                    await writer.drain()
                    if not limit[0]:
                        self.cuts += 1
                        return
