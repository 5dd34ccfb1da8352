"""How connections end, and what comes after."""

from __future__ import annotations

from tests.compliance.python.world import TOKEN, World


async def kicked(world: World) -> None:
    client = await world.open("/", "/chat")
    await client.sio.emit("kick")
    assert await client.take("disconnect") == (client.sio.reason.SERVER_DISCONNECT,)
    assert await client.ask("echo", "untouched", namespace="/chat") == "untouched"


async def dropped_then_reconnects(world: World) -> None:
    client = await world.open("/", "/chat")
    before = client.welcome["/"]["sid"]
    await client.sio.emit("drop")
    await client.take("disconnect")
    await client.take("disconnect", "/chat")
    if world.transport == "polling":
        # It takes the close packet of a polling session for a wish, and does not come back by itself.
        await world.connect(client, ["/", "/chat"], {"token": TOKEN})
    await client.take("welcome")
    await client.take("welcome", "/chat")
    assert client.welcome["/"]["sid"] != before
    assert await client.ask("echo", "again") == "again"
    assert await client.ask("echo", "again", namespace="/chat") == "again"


async def leaves(world: World) -> None:
    client, other = await world.open(), await world.open()
    await client.ask("join", "left")
    await other.ask("join", "left")
    await client.sio.disconnect()
    assert await client.take("disconnect") == (client.sio.reason.CLIENT_DISCONNECT,)
    await other.ask("to-room", "left", "after")
    await other.expect_exactly("room-msg", [("left", "after")])


async def comes_and_goes(world: World) -> None:
    for number in range(20):
        client = await world.open("/chat" if number % 2 else "/")
        namespace = "/chat" if number % 2 else "/"
        assert await client.ask("echo", number, namespace=namespace) == number
        await client.sio.disconnect()
