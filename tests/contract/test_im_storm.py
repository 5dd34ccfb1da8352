"""Everybody comes and goes while everybody writes: each stream is in order, and all are complete."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.contract.im_world import Client, World, close_world, open_world

USERS = [f"u{i}" for i in range(8)]


class Device:
    """A client that behaves: it remembers what it saw, resumes, and fetches what a gap names."""

    def __init__(self, world: World, user: str, number: int, rng: random.Random) -> None:
        self.world = world
        self.user = user
        self.name = f"{user}-{number}"
        self.encoding = number % 2
        self.acks = number % 3 == 0
        self.rng = rng
        self.client: Client | None = None
        self.session = ""
        self.seen: dict[str, int] = {}
        self.got: dict[str, list[int]] = {}
        self.sent = 0

    async def connect(self) -> None:
        resume = {"session": self.session, "seen": dict(self.seen)}
        self.client = await self.world.connect(
            self.user, self.encoding, device=self.name, acks=self.acks, resume=resume
        )
        self.session = self.client.hello["session"]

    async def leave(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            self.world.turn()
            await client.leave()
            await self.read(client)

    async def read(self, client: Client) -> None:
        """Take what came; a seq seen before is a retry, everything else must follow on."""
        packets, client.packets = client.packets, []
        for packet in packets:
            body = packet[1]
            if packet[0] == "gap":
                room = body["conversation"]
                assert body["have"] == self.seen.get(room, 0)
                self.got.setdefault(room, []).extend(range(body["have"] + 1, body["last"] + 1))
                self.seen[room] = body["last"]
            elif packet[0] in ("new_message", "ok") and "seq" in body and not body.get("duplicate"):
                room, seq = body["conversation"], body["seq"]
                last = self.seen.get(room, 0)
                if seq <= last:
                    assert self.acks, (self.name, room, last, seq)
                    continue
                assert seq == last + 1, (self.name, room, last, seq, packet[0])
                self.seen[room] = seq
                self.got.setdefault(room, []).append(seq)
        if self.acks and client is self.client:
            for room, seq in self.seen.items():
                if self.rng.random() < 0.5:
                    client.send("ack", {"conversation": room, "seq": seq}, ask=False)

    def write(self, room: str) -> None:
        if self.client is not None:
            self.sent += 1
            body: dict[str, Any] = {"conversation": room, "content": f"{self.name} {self.sent}"}
            body["client_id"] = f"{self.name}-{self.sent}"
            self.client.send("message", body)


@pytest.mark.parametrize("seed", range(8))
async def test_storm_when_devices_come_and_go_then_every_stream_is_complete_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    rng = random.Random(seed)
    options = {
        "ring_bytes": rng.choice([0, 2000, 262_144]),
        "replay_chunk_bytes": rng.choice([300, 4096]),
        "replay_messages": rng.choice([20, 500]),
        "offline_grace_ms": rng.choice([100, 10_000]),
    }
    world = await open_world(tmp_path / "im.db", **options)
    for index in range(3):
        await world.messaging.create_conversation("group", "", USERS, id=f"room{index}")
    rooms = [f"room{index}" for index in range(3)]
    devices = [Device(world, user, number, rng) for number, user in enumerate(USERS * 2)]
    for _ in range(150):
        device = rng.choice(devices)
        act = rng.random()
        if device.client is None:
            if act < 0.5:
                await device.connect()
        elif act < 0.15:
            await device.leave()
        elif act < 0.25:
            device.client.reading = not device.client.reading
        elif act < 0.9:
            for _ in range(rng.randrange(1, 12)):
                device.write(rng.choice(rooms))
        else:
            await world.advance(rng.choice([20, 200, 2500]))
        for other in devices:
            if other.client is not None:
                await other.read(other.client)
    for device in devices:
        if device.client is None:
            await device.connect()
        assert device.client is not None
        device.client.reading = True
    await world.advance(500)
    last = {}
    for room in rooms:
        record = await world.store.conversation(room)
        assert record is not None
        last[room] = record.last_seq
    assert sum(last.values()) > 100

    async def complete() -> bool:
        for device in devices:
            assert device.client is not None
            await device.read(device.client)
        return all(device.seen.get(room, 0) == last[room] for device in devices for room in rooms)

    for _ in range(50):
        if await complete():
            break
        await world.advance(100)
    for device in devices:
        for room in rooms:
            assert device.got.get(room, []) == list(range(1, last[room] + 1)), (device.name, room)
        assert device.client is not None
        assert device.client.close_code is None
    await close_world(world)
