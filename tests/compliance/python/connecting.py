"""Who gets in, where, and what is said on the way."""

from __future__ import annotations

from typing import Any

import socketio

from tests.compliance.python.world import TOKEN, World


async def welcome(world: World) -> None:
    client = await world.open()
    assert client.welcome["/"] == {"sid": client.sio.get_sid(), "auth": {"token": TOKEN}}


async def welcome_in_namespace(world: World) -> None:
    auth = {"token": TOKEN, "name": "Zoë", "list": [1, {"deep": None}]}
    client = await world.open("/chat", auth=auth)
    assert client.welcome["/chat"] == {"sid": client.sio.get_sid("/chat"), "auth": auth}


async def expect_refusal(world: World, namespace: str, auth: Any) -> None:
    client = world.dial(namespace)
    try:
        await world.connect(client, [namespace], auth)
    except socketio.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("let in")
    (error,) = await client.take("connect_error", namespace)
    assert error == {"message": "unauthorized", "data": {"code": 401}}, error


async def auth_refused(world: World) -> None:
    await expect_refusal(world, "/", {"token": "another"})
    await expect_refusal(world, "/chat", {"token": "another"})


async def auth_missing(world: World) -> None:
    await expect_refusal(world, "/", {})
    await expect_refusal(world, "/chat", {})


async def namespace_invalid(world: World) -> None:
    other = await world.open()
    client = world.dial("/", "/nowhere")
    try:
        await world.connect(client, ["/", "/nowhere"], {"token": TOKEN})
    except socketio.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("let in")
    (error,) = await client.take("connect_error", "/nowhere")
    assert error == {"message": "Invalid namespace"}, error
    assert await other.ask("echo", "untouched") == "untouched"


async def namespaces_at_once(world: World) -> None:
    client = await world.open("/", "/chat")
    assert client.sio.get_sid("/") != client.sio.get_sid("/chat")
    for number in range(20):
        assert await client.ask("echo", "root", number) == ("root", number)
        assert await client.ask("echo", "chat", number, namespace="/chat") == ("chat", number)


async def transport_told(world: World) -> None:
    client = await world.open()
    expected = "polling" if world.transport == "polling" else "websocket"
    assert client.sio.transport() == expected
    assert await client.ask("transport") == expected
