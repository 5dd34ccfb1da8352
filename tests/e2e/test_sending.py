"""What a running server sends: to users and lists, in batches, and from memory that it has."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from tests.e2e.serving import Client, ServerProcess, Start, open_client
from tests.faults.test_cycles import metrics

APPLICATION = "tests.e2e.application:app"


async def sent_to(client: Client) -> list[Any]:
    """What a client was sent until the answer to an echo comes."""
    found = []
    await client.send("echo", "end", 77)
    while (packet := await client.receive())[0] != "ok" or packet[2] != 77:
        if packet[0] == "sent":
            found.append(packet[1])
    return found


async def test_send_when_to_users_then_all_their_devices_and_nobody_else(shared: ServerProcess) -> None:
    """A lookup of connections by user that finds none; a room for a list that mixes up two lists."""
    async with contextlib.AsyncExitStack() as stack:

        async def enter(user: str, *, binary: bool = False, batch: bool = False) -> Client:
            hello = {"device": f"{user}-{binary}-{batch}", "batch": batch}
            return await stack.enter_async_context(open_client(shared, user, binary=binary, hello=hello))

        anna = [await enter("anna", binary=i % 2 == 1, batch=i > 1) for i in range(4)]
        bert = [await enter("bert", binary=True), await enter("bert", batch=True)]
        carl = await enter("carl")
        number = (await carl.request("send.to", []))[1]
        sends = [
            {"what": "for anna", "users": ["anna"]},
            {"what": "for bert", "users": ["bert", "bert"]},
            {"what": "for both", "users": ["anna", "bert", "nobody"]},
            {"what": "for carl", "connections": [number, number, 12345], "users": ["carl"]},
            {"what": "for anna again", "users": ["anna"]},
        ]
        assert (await anna[0].request("send.to", sends))[0] == "ok"
        for client in anna:
            assert await sent_to(client) == ["for anna", "for both", "for anna again"]
        for client in bert:
            assert await sent_to(client) == ["for bert", "for both"]
        assert await sent_to(carl) == ["for carl"]
        await carl.request("send.thread", "from a thread")
        assert await sent_to(carl) == ["from a thread"]
        assert await carl.request("send.wrong", None) == ["ok", ["users", "connections", "connections"]]


async def test_send_when_several_in_one_tick_then_one_batch_on_each_device_that_takes_them(
    shared: ServerProcess,
) -> None:
    hello = {"batch": True}
    async with (
        open_client(shared, "batched", hello=hello | {"device": "a"}) as one,
        open_client(shared, "batched", hello=hello | {"device": "b"}) as two,
        open_client(shared, "batched", hello={"device": "c"}) as plain,
        open_client(shared, "other") as other,
    ):
        sends = [{"what": n, "users": ["batched"] if n % 3 else ["other"]} for n in range(30)]
        await other.request("send.to", sends)
        expected = [["sent", n] for n in range(30) if n % 3]
        for client in (one, two):
            frame = json.loads(await asyncio.wait_for(client.socket.recv(), 10))
            assert [packet[:2] for packet in frame] == expected
        for packet in expected:
            assert json.loads(await asyncio.wait_for(plain.socket.recv(), 10))[:2] == packet


async def test_memory_when_the_load_is_steady_then_the_core_allocates_nothing(start: Start) -> None:
    server = start(APPLICATION)
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                open_client(server, f"u{n}", binary=n % 2 == 1, hello={"batch": n % 3 == 0})
            )
            for n in range(12)
        ]

        async def load(rounds: int) -> None:
            for number in range(rounds):
                names = [f"u{n}" for n in range(12)]
                await clients[0].request("send.to", [{"what": number, "users": names}] * 5)
                for client in clients:
                    assert await client.request("echo", {"n": number}) == ["ok", {"n": number}]

        await load(5)
        await asyncio.to_thread(metrics, server)  # its own connection takes from the pools, too
        before = await asyncio.to_thread(metrics, server)
        await load(25)
        after = await asyncio.to_thread(metrics, server)
        sent = after["fastim_hub_sent_bytes_total"] - before["fastim_hub_sent_bytes_total"]
        assert sent > 12 * 25 * 5 * 10
        assert after["fastim_hub_allocations_total"] == before["fastim_hub_allocations_total"]
        for name in (
            "chunks",
            "chunks_free",
            "slices_free",
            "private_chunks",
            "inbound_states_free",
            "pool_bytes",
        ):
            assert f"fastim_hub_{name}" in after
        assert "fastim_flush_window_us" in after
