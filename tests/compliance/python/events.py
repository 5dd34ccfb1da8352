"""Events and acknowledgements, both ways, with text and with bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import socketio

from tests.compliance.python.world import TOKEN, World

VALUES = [
    True,
    0,
    -1,
    2**53 - 1,
    1.5,
    2.5e-300,
    "",
    'äöü日本語💥\x00\x1e\u2028"\\',
    [],
    {},
    [[[]]],
    {"a": {"b": [1, "two", None, {"c": False}]}},
    {"": 1, "$bytes": "AA==", "$$": 2},
]
BYTES = bytes(range(256))


async def echo_values(world: World) -> None:
    client = await world.open()
    for value in VALUES:
        assert await client.ask("echo", value) == value
    assert await client.ask("echo", *VALUES) == tuple(VALUES)
    # Of no argument and of null it makes the same.
    assert await client.ask("echo") is None
    assert await client.ask("echo", None) is None


async def events_in_order(world: World) -> None:
    client = await world.open()
    for number in range(1000):
        await client.sio.emit("echo-event", (number, {"number": number}))
    await client.expect_exactly("echo-event-back", [(number, {"number": number}) for number in range(1000)])


async def events_without_arguments(world: World) -> None:
    client = await world.open()
    await client.sio.emit("echo-event")
    await client.sio.emit("echo-event", tuple(VALUES))
    await client.expect_exactly("echo-event-back", [(), tuple(VALUES)])


async def binary_echo(world: World) -> None:
    client = await world.open("/", "/chat")
    for data in (BYTES, b"", b"text", bytes(20_000)):
        assert await client.ask("echo", data) == data
        assert await client.ask("echo", data, namespace="/chat") == data


async def binary_nested(world: World) -> None:
    client = await world.open()
    value = {"list": [1, [BYTES], {"deep": {"er": b"\x00"}}], "text": "💥", "none": None}
    assert await client.ask("echo", value, [value]) == (value, [value])


async def binary_attachments(world: World) -> None:
    client = await world.open()
    parts = [bytes([number]) * (number + 1) for number in range(10)]
    assert await client.ask("echo", *parts) == tuple(parts)
    assert await client.ask("echo", parts) == parts


async def binary_in_order(world: World) -> None:
    client = await world.open()
    values: list[Any] = [number if number % 3 else bytes([number & 255, 1]) for number in range(300)]
    for value in values:
        await client.sio.emit("echo-event", value)
    await client.expect_exactly("echo-event-back", [(value,) for value in values])


async def binary_asked(world: World) -> None:
    client = await world.open()
    client.sio.on("question", lambda x: {"back": [x, BYTES]})
    assert await client.ask("ask-me", BYTES) == {"back": [BYTES, BYTES]}


async def acknowledgement_asked(world: World) -> None:
    client = await world.open()
    client.sio.on("question", lambda x: {"doubled": x * 2})
    assert await client.ask("ask-me", 21) == {"doubled": 42}


async def acknowledgements_at_once(world: World) -> None:
    client = await world.open()
    answers = await asyncio.gather(*(client.ask("echo", number) for number in range(300)))
    assert answers == list(range(300))


async def acknowledgement_never(world: World) -> None:
    client = await world.open()
    try:
        await client.sio.call("silent", 1, timeout=0.1)
    except socketio.exceptions.TimeoutError:
        pass
    else:
        raise AssertionError("acknowledged")
    assert await client.ask("echo", "next") == "next"


async def event_unknown(world: World) -> None:
    client = await world.open()
    await client.sio.emit("no-such-event", 1)
    assert await client.ask("echo", "untouched") == "untouched"


async def payload_large(world: World) -> None:
    client = await world.open()
    for value in ("x" * 70_000, "💥" * 5_000, b"\x1e" * 70_000):
        assert await client.ask("echo", value) == value


# The namespaces are entered behind the upgrade, if there is one, so that events go over the new transport
# from the first one on.
async def events_while_connecting(world: World) -> None:
    client = world.dial("/")

    async def connected() -> None:
        for number in range(200):
            await client.sio.emit("echo-event", number)

    client.sio.on("connect", connected)
    await world.connect(client, ["/"], {"token": TOKEN})
    await client.expect_exactly("echo-event-back", [(number,) for number in range(200)])
