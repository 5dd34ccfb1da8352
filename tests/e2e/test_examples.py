"""The examples, and that the documentation shows them as they are."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import re
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio
from websockets.sync.client import connect

from tests.e2e.conftest import OWN_MISTAKES
from tests.e2e.heard import open_socketio
from tests.e2e.serving import ROOT, START_S, WAIT_S, Client, ServerProcess, make_environment, open_client

DOCS = ROOT / "docs"
LIMITS = {"FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0", "FASTIM_BANS__AUTOMATIC": "false"}


@contextlib.contextmanager
def serving(folder: Path, application: str) -> Iterator[ServerProcess]:
    server = ServerProcess(folder / "data", (application,), dict(LIMITS))
    yield server
    assert server.stop() == 0
    for sign in OWN_MISTAKES:
        assert sign not in server.log()


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("chat"), "examples.chat_rooms:app") as server:
        yield server


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("board"), "examples.price_board:app") as server:
        yield server


@contextlib.asynccontextmanager
async def open_native(server: ServerProcess, hello: dict[str, Any]) -> AsyncIterator[Client]:
    async with open_client(server) as client:
        event, client.ok = await client.request("hello", hello)
        assert event == "ok", client.ok
        yield client


# -- chat rooms


@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_chat_rooms_when_both_protocols_talk_then_all_in_the_room_hear(
    rooms: ServerProcess, transport: str
) -> None:
    async with open_socketio(rooms, {"name": "ann"}, transport=transport) as ann:
        assert await ann.call("say", "lobby", "too early") == {"error": "you are not in this room"}
        assert await ann.call("join", 5) == {"error": "a room has a name"}
        assert await ann.call("join", "lobby") == {"ok": True}
        async with open_socketio(rooms, {"name": "bob"}) as bob:
            assert await bob.call("join", "lobby") == {"ok": True}
            assert await ann.next() == ["joined", "lobby", "bob"]
            assert await bob.call("say", "lobby", "hi") == {"ok": True}
            for heard in (ann, bob):
                assert await heard.next() == ["said", "lobby", "bob", "hi"]
            await ann.emit("typing", "lobby")
            assert await bob.next() == ["typing", "lobby", "ann"]
        assert await ann.next() == ["left", "lobby", "bob"]


async def test_chat_rooms_when_a_native_client_joins_then_it_has_the_same_rooms(rooms: ServerProcess) -> None:
    hello = {"token": "-", "name": "nat"}
    async with open_native(rooms, hello) as native, open_socketio(rooms, {"name": "sio"}) as other:
        assert native.ok["user"] == "nat"
        assert await native.request("join", "den") == ["ok", {"ok": True}]
        assert await other.call("join", "den") == {"ok": True}
        assert await native.receive() == ["joined", ["den", "sio"]]
        assert await native.request("say", ["den", "hello"]) == ["ok", {"ok": True}]
        assert await other.next() == ["said", "den", "nat", "hello"]
        assert await native.receive() == ["said", ["den", "nat", "hello"]]
        assert (await native.request("message", {}))[1]["code"] == "unknown_event"


async def test_chat_rooms_when_nobody_is_named_then_refused_with_the_field(rooms: ServerProcess) -> None:
    client = socketio.AsyncClient(reconnection=False)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(rooms.http, auth={}, transports=["websocket"], wait_timeout=WAIT_S)
    assert refusals == [{"message": "who are you?", "data": {"field": "name"}}]
    async with open_client(rooms) as native:
        event, error = await native.request("hello", {})
        assert (event, error["message"], error["data"]) == ("error", "who are you?", {"field": "name"})
        assert (await native.closed())[0] == 4001


# -- the board of prices


async def test_price_board_when_a_price_is_set_then_who_watches_is_told(board: ServerProcess) -> None:
    async with (
        open_socketio(board, {"token": "trader-token"}, "/prices") as trader,
        open_socketio(board, {"token": "viewer-token"}, "/prices", "polling") as viewer,
    ):
        for heard in (trader, viewer):
            assert await heard.next_of("board") == ["board", {"ACME": 100.0}]
        assert await viewer.call("watch", "ACME") == 100.0
        assert await viewer.call("set", "ACME", 1) == {"error": "only traders set prices"}
        assert await trader.call("set", "ACME", 100) == {"ok": True}
        assert await viewer.next_of("price") == ["price", {"symbol": "ACME", "price": 100}]
        assert (await trader.next_of("tick"))[0] == "tick"


async def test_price_board_when_everybody_is_asked_then_the_answers_are_collected(
    board: ServerProcess,
) -> None:
    auth = {"token": "viewer-token"}
    over = asyncio.Event()

    async def think(question: str) -> None:
        await over.wait()

    async with (
        open_socketio(board, {"token": "trader-token"}, "/prices") as trader,
        open_socketio(board, auth, "/prices") as viewer,
        open_socketio(board, auth, "/prices") as silent,
    ):
        viewer.answer("question", lambda question: f"{question} yes")
        silent.answer("question", think)
        assert await trader.call("poll", "buy?") == {"answers": ["buy? yes"], "missing": 1}
        over.set()


# -- the documentation


def python_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


def functions_of(source: str) -> dict[str, str]:
    """Return the functions of a program, without their docstrings."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node):
                node.body = node.body[1:]
            found[node.name] = ast.unparse(node)
    return found


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("coming-from-socketio.md", "chat_rooms.py"),
        ("coming-from-python-socketio.md", "price_board.py"),
    ],
)
def test_guide_when_it_shows_an_example_then_as_it_is(page: str, example: str) -> None:
    shown = functions_of(python_blocks(page)[-1])
    real = functions_of((ROOT / "examples" / example).read_text())
    assert len(shown) >= 5
    assert shown == {name: real[name] for name in shown}


def test_application_page_when_its_program_is_run_then_it_serves(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(python_blocks("parts/application.md")[0].replace("8765", "0"))
    with subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, cwd=tmp_path, env=make_environment({})
    ) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], START_S)[0]
            address = process.stdout.readline().decode().strip().removeprefix("fastim listening on http")
            with connect(f"ws{address}/ws", proxy=None) as client:
                client.send(json.dumps(["hello", {"name": "ann"}, 1]))
                assert json.loads(client.recv(WAIT_S))[0] == "ok"
                client.send(json.dumps(["say", ["den", "hi"], 2]))
                assert json.loads(client.recv(WAIT_S)) == ["ok", "ok", 2]
        finally:
            process.send_signal(signal.SIGTERM)
