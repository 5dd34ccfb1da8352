"""An application's own endpoint of Engine.IO."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastim import EngineConnection, FastIM
from fastim.errors import ConfigError
from fastim.server.engineio.hook import EngineHook, HookProtocol
from tests.unit.server.engineio.engine_world import EngineWorld, serving
from tests.unit.server.engineio.test_polling import body


def hooked(world: EngineWorld, call: Callable[[EngineConnection, Any], Any]) -> None:
    """Let a handler serve the endpoint instead of the echo."""
    world.engine.protocol = HookProtocol(world.world.service, EngineHook("/engine.io/", call))


async def test_handler_gets_text_as_str_and_bytes_as_bytes_and_answers(tmp_path: Path) -> None:
    seen: list[tuple[str, str | bytes]] = []

    def handle(connection: EngineConnection, data: str | bytes) -> None:
        seen.append((connection.transport, data))
        connection.state["count"] = connection.state.get("count", 0) + 1
        connection.send(f"{connection.state['count']}")
        connection.send(b"\0")

    async with serving(tmp_path) as world:
        hooked(world, handle)
        client, socket = world.polling(), world.websocket()
        socket.take()
        client.send(b"4text\x1ebAQI=")
        socket.send("4text", b"\1\2")

        assert body(client.get()) == b"41\x1ebAA==\x1e42\x1ebAA=="
        assert socket.take() == ["41", b"\0", "42", b"\0"]
        assert seen == [
            (transport, data) for transport in ("polling", "websocket") for data in ("text", b"\1\2")
        ]


async def test_object_with_an_async_call_is_served_like_an_async_function(tmp_path: Path) -> None:
    class Echo:
        async def __call__(self, connection: EngineConnection, data: str | bytes) -> None:
            await asyncio.sleep(0)
            connection.send(data)

    async with serving(tmp_path) as world:
        hooked(world, Echo())
        client = world.polling()
        client.send(b"4text")
        await world.world.turns()

        assert body(client.get()) == b"4text"


async def test_async_handler_is_called_in_order_and_its_client_waits(tmp_path: Path) -> None:
    go_on = asyncio.Event()
    seen: list[str | bytes] = []

    async def handle(connection: EngineConnection, data: str | bytes) -> None:
        await go_on.wait()
        seen.append(data)
        connection.send(data)

    async with serving(tmp_path) as world:
        hooked(world, handle)
        client = world.polling()
        packets = [b"4%d" % number for number in range(40)]
        assert client.post(b"\x1e".join(packets)) is None  # it is read no more
        assert not seen
        go_on.set()
        while (answer := client.posting.answer()) is None:
            await world.world.turns(1)
            world.world.pass_time(0.05)

        assert body(answer) == b"ok"
        await world.world.turns()
        assert seen == [str(number) for number in range(40)]
        assert body(client.get()).split(b"\x1e") == packets


async def test_handler_that_raises_is_logged_and_the_session_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(connection: EngineConnection, data: str | bytes) -> None:
        if data == "bad":
            raise RuntimeError("no")
        connection.send(data)

    async with serving(tmp_path) as world:
        hooked(world, handle)
        client = world.polling()
        with caplog.at_level(logging.ERROR, "fastim.engineio"):
            client.send(b"4bad\x1e4good")

        assert body(client.get()) == b"4good"
        assert "a handler of /engine.io/ failed" in caplog.text


async def test_connection_is_closed_from_another_thread_behind_what_it_sent(tmp_path: Path) -> None:
    kept: list[EngineConnection] = []

    async with serving(tmp_path) as world:
        hooked(world, lambda connection, data: kept.append(connection))
        socket = world.websocket()
        socket.take()
        socket.send("4x")

        def leave() -> None:
            kept[0].send("bye")
            kept[0].close()

        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
        await world.world.turns()
        assert socket.take() == ["4bye"]
        assert socket.close_code == 1000
        kept[0].send("unheard")  # nothing happens


def test_registering_what_is_no_endpoint_is_refused() -> None:
    app = FastIM()
    with pytest.raises(ValueError, match="no path"):
        app.engineio("engine.io")(lambda connection, data: None)
    with pytest.raises(ValueError, match="no path"):
        app.engineio("/")(lambda connection, data: None)
    with pytest.raises(TypeError, match="must take"):
        app.engineio("/engine.io/")(lambda connection: None)
    app.engineio("/engine.io/")(lambda connection, data: None)
    with pytest.raises(ValueError, match="already"):
        app.engineio("/engine.io")(lambda connection, data: None)


async def test_path_of_another_part_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        for path in ("/engine.io", "/ws/"):
            with pytest.raises(ConfigError):
                world.endpoints.add(path, world.echo)
