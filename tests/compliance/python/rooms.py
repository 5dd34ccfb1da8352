"""Rooms and broadcasts: who hears what."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.compliance.python.world import Client, World


async def make_room(world: World, count: int = 3) -> tuple[list[Client], str]:
    """Make clients of which all but the last are in a room of this scenario's own."""
    clients = await world.open_many(count)
    room = f"room {clients[0].sio.get_sid()} é"
    for client in clients[:-1]:
        assert await client.ask("join", room) == "ok"
    return clients, room


async def expect_heard(clients: list[Client], room: str, *payloads: list[Any]) -> None:
    for client, expected in zip(clients, payloads, strict=True):
        await client.expect_exactly("room-msg", [(room, payload) for payload in expected])


async def room_all(world: World) -> None:
    clients, room = await make_room(world)
    assert await clients[0].ask("to-room", room, {"text": "inside"}) == "ok"
    assert await clients[2].ask("to-room", room, [b"outside", None]) == "ok"
    both = [{"text": "inside"}, [b"outside", None]]
    await expect_heard(clients, room, both, both, [])


async def room_others(world: World) -> None:
    clients, room = await make_room(world)
    assert await clients[0].ask("to-room-others", room, 1) == "ok"
    assert await clients[2].ask("to-room-others", room, 2) == "ok"
    await expect_heard(clients, room, [2], [1, 2], [])


async def room_left(world: World) -> None:
    clients, room = await make_room(world)
    assert await clients[1].ask("leave", room) == "ok"
    await clients[0].ask("to-room", room, "after")
    await expect_heard(clients, room, ["after"], [], [])


async def broadcast_others(world: World) -> None:
    clients, _ = await make_room(world)
    payload = {"from": clients[0].sio.get_sid()}
    assert await clients[0].ask("broadcast", payload) == "ok"
    for client, expected in zip(clients, ([], [(payload,)], [(payload,)]), strict=True):
        await client.expect_exactly("broadcast-msg", expected)


async def room_crowded(world: World) -> None:
    clients, room = await make_room(world, 30)
    await asyncio.gather(*(client.ask("to-room", room, at) for at, client in enumerate(clients)))
    for client in clients[:-1]:
        await client.ask("echo", "barrier")
        heard = [arguments[1] for _, name, arguments in client.heard if name == "room-msg"]
        assert sorted(heard) == list(range(30))
