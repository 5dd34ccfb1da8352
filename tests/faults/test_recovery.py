"""Clients of Socket.IO that are cut off again and again, in the middle of what they missed too."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from tests.e2e.serving import Start, rest
from tests.support.recovering import RecoveringClient

CUTS = 12  # of each client, at least
SETTINGS = {
    "FASTIM_SOCKETIO__RECOVERY_S": "60",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
}


class Wanderer:
    """A client that comes and goes, and what it got: numbers of events, seqs of messages."""

    def __init__(self, client: RecoveringClient, seed: int) -> None:
        self.client = client
        self.random = random.Random(seed)
        self.events: list[int] = []
        self.messages: list[int] = []
        self.cuts = 0

    async def run(self) -> None:
        """Go on until the last event has come."""
        while not self.events or self.events[-1] >= 0:
            for _ in range(self.random.randrange(40)):
                self.note(await self.client._next())
                if self.events and self.events[-1] < 0:
                    return
            await self.client.cut()
            self.cuts += 1
            assert await self.client.connect()

    def note(self, event: list[Any]) -> None:
        if event[0] == "event":
            self.events.append(event[1])
        elif event[0] == "new_message":
            self.messages.append(event[1]["seq"])


@pytest.mark.parametrize("seed", [1, 2])
async def test_clients_when_cut_off_anywhere_then_get_all_once_and_in_order(start: Start, seed: int) -> None:
    server = start("tests.e2e.recovery_application:app", **SETTINGS)
    users = [f"user{n}" for n in range(4)]
    with rest(server) as api:
        body = {"kind": "group", "members": [*users, "sender"], "title": "t"}
        group = api.post("/v1/conversations", json=body).json()["conversation"]
    wanderers = []
    for n, user in enumerate(users):
        client = RecoveringClient(server.port, {"token": server.token(user)}, packed=bool(n % 2))
        await client.connect()
        await client.call("join", "room")
        client.got.clear()
        wanderers.append(Wanderer(client, seed * 10 + n))
    running = asyncio.gather(*(wanderer.run() for wanderer in wanderers))
    async with RecoveringClient(server.port, {"token": server.token("sender")}) as sender:
        sent = 0
        while not running.done() and min(wanderer.cuts for wanderer in wanderers) < CUTS:
            await sender.call("send", ["room"], sent)
            await sender.call("message", {"conversation": group, "content": sent})
            sent += 1
        await sender.call("send", ["room"], -1)
        await running
        for wanderer in wanderers:
            assert wanderer.events == [*range(sent), -1]
            assert all(second == first + 1 for first, second in pairwise(wanderer.messages))
            assert wanderer.messages[:1] == [1]
            assert wanderer.messages[-1] == sent
            await wanderer.client.raw.socket.close()
    assert server.stop() == 0
    assert "Traceback" not in server.log()
