"""The client over a bad network: everything arrives once, in order, and nothing stays unread."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from fastim.client import Connection, connect
from tests.e2e.serving import ServerProcess, Start, open_client
from tests.support.proxy import Faults, Proxy
from tests.support.senders import read_history

MESSAGES = 150
ROOM = "room"

NETWORKS = {
    "byte by byte": Faults(piece_bytes=1),
    "late": Faults(delay_s=0.02),
    "late and in pieces": Faults(piece_bytes=37, delay_s=0.002),
    "cut now and then": Faults(cut_after_bytes=12_000),
    "cut all the time": Faults(cut_after_bytes=3_000),
    "late, in pieces, and cut": Faults(piece_bytes=300, delay_s=0.004, cut_after_bytes=8_000),
}


class Talker:
    """A client that sends its messages and notes what it hears of the others."""

    def __init__(self, client: Connection) -> None:
        self.client = client
        self.heard: list[tuple[int, str]] = []
        self.sent: dict[int, str] = {}
        self.resumed = 0

    async def talk(self) -> None:
        """Send some messages at a time, as an eager application does."""
        numbers = iter(range(MESSAGES))

        async def send_some() -> None:
            for number in numbers:
                content = f"{self.client.user} {number}"
                sent = await self.client.send(ROOM, content, timeout_s=60)
                assert sent.seq not in self.sent
                self.sent[sent.seq] = content

        await asyncio.gather(*(send_some() for _ in range(8)))

    async def listen(self, total: int) -> None:
        while len(self.heard) < total:
            event = await self.client.receive(60)
            if event.name == "new_message":
                self.heard.append((event.body["seq"], event.body["content"]))
            elif event.name == "fastim.connected":
                self.resumed += bool(event.body["resumed"])


@pytest.mark.parametrize("name", NETWORKS)
async def test_client_when_the_network_is_bad_then_all_arrives_once_and_in_order(
    start: Start, name: str
) -> None:
    server = start()
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    proxy = Proxy(server.port, NETWORKS[name], random.Random(seed))
    options: dict[str, Any] = {"backoff_base_s": 0.01, "backoff_cap_s": 0.05, "compression": name != "late"}
    async with proxy.listening():
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        async with (
            connect(url, token=server.token("ann"), device="a", open_timeout_s=60, **options) as ann,
            connect(url, token=server.token("bob"), encoding="msgpack", open_timeout_s=60, **options) as bob,
        ):
            await create_room(server)
            await check_talk([server], [Talker(ann), Talker(bob)], proxy)
    if proxy.faults.cut_after_bytes:
        assert proxy.cuts > 2


async def create_room(server: ServerProcess) -> None:
    async with open_client(server, "ann") as client:
        event, body = await client.request(
            "conversation_create", {"kind": "group", "members": ["bob", "eve"], "conversation": ROOM}
        )
        assert event == "ok", body


async def check_talk(servers: list[ServerProcess], talkers: list[Talker], proxy: Proxy) -> None:
    await asyncio.gather(*(each.talk() for each in talkers), *(each.listen(MESSAGES) for each in talkers))
    everything = dict(pair for each in talkers for pair in each.sent.items())
    assert sorted(everything) == list(range(1, 2 * MESSAGES + 1))
    for talker, other in (talkers, talkers[::-1]):
        assert talker.heard == sorted(other.sent.items())
        if proxy.cuts > 10:
            assert talker.resumed
    async with open_client(servers[-1], "eve") as client:
        assert {m["seq"]: m["content"] for m in await read_history(client, ROOM)} == everything
        assert await unread(client) == 2 * MESSAGES
    # Reading goes over the bad network as well; sending moved one's own mark only so far.
    for talker in talkers:
        await talker.client.mark_read(ROOM, 2 * MESSAGES)
        async with open_client(servers[-1], talker.client.user) as client:
            assert await unread(client) == 0


async def unread(client: Any) -> int:
    _, page = await client.request("conversations", {})
    return int(page["conversations"][0]["unread"])


async def test_client_when_the_server_is_killed_behind_the_proxy_then_goes_on(start: Start) -> None:
    servers = [start()]
    await create_room(servers[0])
    proxy = Proxy(servers[0].port, Faults(), random.Random(1))
    options: dict[str, Any] = {"backoff_base_s": 0.01, "backoff_cap_s": 0.05}
    async with proxy.listening():
        url = f"ws://127.0.0.1:{proxy.port}/ws"
        async with (
            connect(url, token=servers[0].token("ann"), **options) as ann,
            connect(url, token=servers[0].token("bob"), encoding="msgpack", **options) as bob,
        ):
            talkers = [Talker(ann), Talker(bob)]
            talking = asyncio.create_task(check_talk(servers, talkers, proxy))
            for _ in range(2):
                before = len(talkers[0].sent)
                while len(talkers[0].sent) < before + 20 and not talking.done():
                    await asyncio.wait([talking], timeout=0.005)
                servers[-1].kill()
                servers.append(start())
                proxy.target = servers[-1].port
            await talking
