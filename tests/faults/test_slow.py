"""Members that stop reading: the others do not notice, memory stays bounded, and nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest
from tests.engines.hub_rig import parse_frames
from tests.faults.test_cycles import metrics, resident_bytes
from tests.reference.frames import encode_frame
from tests.support.senders import Reader, Sender, check_history, read_history

OUTBOX_BYTES = 131_072


@contextlib.asynccontextmanager
async def open_stalled(server: ServerProcess, user: str, *, binary: bool) -> AsyncIterator[Client]:
    """Connect a client that takes nothing after its hello, until it is asked to."""
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plug.connect(("127.0.0.1", server.port))
    async with open_client(
        server, user, binary=binary, sock=plug, max_queue=1, ping_interval=None, close_timeout=0.1
    ) as client:
        yield client


async def take_rest(client: Client) -> list[tuple[int, str]]:
    """Read what a stalled client was sent before its end."""
    return [
        (packet[1]["seq"], packet[1]["client_id"])
        async for packet in client.receive_until_closed()
        if packet[0] == "new_message"
    ]


async def resume(
    server: ServerProcess, user: str, ok: dict[str, Any], seen: int, last: int
) -> dict[int, str]:
    """Come back, and return what comes until the last message: replayed, or named by a gap and fetched."""
    got: dict[int, str] = {}
    hello = {"device": ok["device"], "resume": {"session": ok["session"], "seen": {"c": seen}}}
    async with open_client(server, user, hello=hello) as client:
        assert client.ok["resumed"] is True
        at = seen
        while at < last:
            event, body, *_ = await client.receive()
            if event == "new_message":
                assert body["seq"] == at + 1, "a duplicate, or a hole that no gap names"
                at = body["seq"]
                got[at] = body["client_id"]
            elif event == "gap":
                assert body["have"] == at
                at = body["last"]
                messages = await read_history(client, "c", after=body["have"])
                got |= {m["seq"]: m["client_id"] for m in messages if m["seq"] <= at}
    return got


# More than the kernel takes for a client that does not read; few enough to be replayed, and too many. With
# the sender, a tenth of the room is stalled, or half.
@pytest.mark.parametrize(
    ("count", "padding", "stalled_count", "reader_count"), [(450, 20_000, 1, 8), (1500, 6000, 6, 5)]
)
async def test_members_when_they_stop_reading_then_the_others_get_all_and_they_resume(
    start: Start, count: int, padding: int, stalled_count: int, reader_count: int
) -> None:
    server = start(
        FASTIM_TIER_STANDARD__QUEUED_MESSAGES=str(OUTBOX_BYTES // 1024), FASTIM_LIMITS__CLOSE_TIMEOUT_S="0.5"
    )
    stalled_users = [f"stalled{n}" for n in range(stalled_count)]
    done = asyncio.Event()
    readers = [Reader(f"reader{n}", binary=n % 2 == 1) for n in range(reader_count)]
    for reader in readers:
        reader.on_message = lambda: done.set() if all(len(r.seen) >= count for r in readers) else None
    sender = Sender("sender", "c", window=8, padding=padding, limit=count)
    with rest(server) as http:
        members = [*stalled_users, *(reader.user for reader in readers), "sender"]
        http.post("/v1/conversations", json={"members": members, "conversation": "c"})
    async with contextlib.AsyncExitStack() as stack:
        stalled = [
            await stack.enter_async_context(open_stalled(server, user, binary=n % 2 == 1))
            for n, user in enumerate(stalled_users)
        ]
        reading = [asyncio.create_task(reader.run(server)) for reader in readers]
        await asyncio.wait_for(asyncio.gather(*(reader.entered.wait() for reader in readers)), 30)
        before_bytes = resident_bytes(server)
        await sender.run(server)
        await asyncio.wait_for(done.wait(), 30)
        assert len(sender.acknowledged) == count
        now = await asyncio.to_thread(metrics, server)
        assert now["fastim_hub_slow_closed_total"] == stalled_count
        # What one stalled member holds is its outbox; the ring holds the latest messages once.
        assert now["fastim_hub_chunk_bytes"] <= (stalled_count + reader_count + 1) * OUTBOX_BYTES + (1 << 20)
        if not os.environ.get("FASTIM_SANITIZED"):
            assert resident_bytes(server) - before_bytes < 24 << 20
        for reader in readers:
            assert sorted(reader.seen.values()) == list(range(1, count + 1))

        for client, user in zip(stalled, stalled_users, strict=True):
            taken = await take_rest(client)
            code, _ = await client.closed()
            assert code in (4008, 1006)
            assert [seq for seq, _ in taken] == list(range(1, len(taken) + 1))
            assert len(taken) < count
            got = dict(taken) | await resume(server, user, client.ok, len(taken), count)
            assert got == {seq: client_id for client_id, seq in sender.acknowledged.items()}
        now = await asyncio.to_thread(metrics, server)
        assert now["fastim_connections"] >= reader_count
    server.process.terminate()
    await asyncio.gather(*reading)
    assert await asyncio.to_thread(server.wait) == 0
    server = start()
    async with open_client(server, "reader0") as client:
        check_history(await read_history(client, "c"), [sender], complete=True)


async def test_peer_when_it_sends_and_takes_one_byte_at_a_time_then_served_like_others(start: Start) -> None:
    server = start("tests.e2e.application:app")

    def slow_echo() -> list[Any]:
        with socket.create_connection(("127.0.0.1", server.port), 30) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            head = (
                f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: fastim.v1.json\r\n\r\n"
            )
            hello = json.dumps(["hello", {"token": server.token("drip")}, 1]).encode()
            echo = json.dumps(["echo", "x" * 300, 2]).encode()
            received = b""
            for part, answer in (
                (head.encode(), b"\r\n\r\n"),
                (encode_frame(1, hello, key=b"mask"), b",1]"),
                (encode_frame(1, echo, key=b"mask"), b",2]"),
            ):
                for at in range(len(part)):
                    peer.sendall(part[at : at + 1])
                while not received.endswith(answer):
                    byte = peer.recv(1)
                    assert byte, received
                    received += byte
            return [
                json.loads(frame.payload)[0] for frame in parse_frames(received.partition(b"\r\n\r\n")[2])[0]
            ]

    async with open_client(server, "other") as other:
        dripping = asyncio.create_task(asyncio.to_thread(slow_echo))
        while not dripping.done():
            assert await other.request("echo", 1) == ["ok", 1]
        assert await dripping == ["ok", "ok"]
