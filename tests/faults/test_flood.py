"""Connections that flood tiny frames: a neighbour has its turn in each round."""

from __future__ import annotations

import asyncio
import socket
import threading

from tests.e2e.serving import ServerProcess, Start, open_client
from tests.faults.test_cycles import metrics
from tests.support.visits import frame, hello

FLOODERS = 20
MESSAGE_BUDGET = 50
ECHOES = 150
# An echo is answered within two rounds, each connection having its budget in each; the rest is for the time
# in which the neighbour itself waits for its processor.
FRAMES_PER_ECHO = 30 * (FLOODERS + 1) * MESSAGE_BUDGET
# What is counted is rounds of reading: without the window in which answers wait for others under load.
AT_ONCE = {"FASTIM_BATCHING__WINDOW_MS": "0"}


class Flooder(threading.Thread):
    """Sends tiny frames as fast as they are taken, until it is told to stop.

    Attributes:
        rounds: How often a full load of frames was taken off its hands.
    """

    def __init__(self, server: ServerProcess, user: str, tiny: bytes) -> None:
        super().__init__(daemon=True)
        self.rounds = 0
        self.stopping = False
        self._load = tiny * (65536 // len(tiny))
        self._socket = socket.create_connection(("127.0.0.1", server.port), 10)
        self._socket.sendall(hello(server.token(user)))
        received = b""
        while b'"resumed"' not in received:
            received += self._socket.recv(65536)

    def run(self) -> None:
        with self._socket:
            while not self.stopping:
                self._socket.sendall(self._load)
                self.rounds += 1


async def flood(server: ServerProcess, tiny: bytes) -> None:
    """Let a neighbour ask and be answered again and again while flooders flood."""
    flooders = [Flooder(server, f"flooder{n}", tiny) for n in range(FLOODERS)]
    async with open_client(server, "neighbour") as client:
        try:
            for flooder in flooders:
                flooder.start()
            # Until each has more on the way than the server could take at once.
            while not all(flooder.rounds > 1 for flooder in flooders):
                assert await client.request("echo", "warm") == ["ok", "warm"]
            before = (await asyncio.to_thread(metrics, server))["fastim_hub_received_frames_total"]
            rounds = sum(flooder.rounds for flooder in flooders)
            for number in range(ECHOES):
                assert await client.request("echo", number) == ["ok", number]
            after = (await asyncio.to_thread(metrics, server))["fastim_hub_received_frames_total"]
            assert all(flooder.is_alive() for flooder in flooders)
            assert sum(flooder.rounds for flooder in flooders) > rounds, "the flood was over"
            assert after - before > ECHOES * FLOODERS, "the flood was over"
            print((after - before) / ECHOES, "frames an echo")
            assert after - before < ECHOES * FRAMES_PER_ECHO
        finally:
            for flooder in flooders:
                flooder.stopping = True
            for flooder in flooders:
                await asyncio.to_thread(flooder.join, 20)
        assert not any(flooder.is_alive() for flooder in flooders)


async def test_neighbour_when_others_flood_packets_then_it_is_answered_in_each_round(start: Start) -> None:
    server = start("examples.echo_app:app", FASTIM_LIMITS__MESSAGE_BUDGET=str(MESSAGE_BUDGET), **AT_ONCE)
    await flood(server, frame(0x81, b'["echo",0]'))
    assert await asyncio.to_thread(server.stop) == 0


async def test_neighbour_when_others_flood_pongs_then_it_is_answered_in_each_round(start: Start) -> None:
    server = start("examples.echo_app:app", FASTIM_LIMITS__MESSAGE_BUDGET=str(MESSAGE_BUDGET), **AT_ONCE)
    await flood(server, frame(0x8A, b""))
    assert await asyncio.to_thread(server.stop) == 0
