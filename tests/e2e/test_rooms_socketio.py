"""The application's interface over Socket.IO, beside native connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import socketio

from tests.e2e.conftest import OWN_MISTAKES
from tests.e2e.heard import Heard, open_socketio
from tests.e2e.serving import WAIT_S, Client, ServerProcess, Start, open_client
from tests.support.sio import open_polling

KINDS = [("websocket", "default"), ("websocket", "msgpack"), ("polling", "default"), ("polling", "msgpack")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("rooms") / "data",
        ("tests.e2e.rooms_application:app",),
        {
            "FASTIM_AUTH__DECISION_TIMEOUT_S": "0.3",
            "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
            "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
            "FASTIM_BANS__AUTOMATIC": "false",
        },
    )
    yield server
    assert server.stop() == 0
    for sign in OWN_MISTAKES:
        assert sign not in server.log()


class Someone:
    """A client of any protocol.

    Attributes:
        sid: By which the application reaches it.
        next: Returns the next event and its values.
        call: Calls the application.
    """

    def __init__(
        self, sid: str, next: Callable[[], Awaitable[list[Any]]], call: Callable[..., Awaitable[Any]]
    ) -> None:
        self.sid = sid
        self.next = next
        self.call = call


@contextlib.asynccontextmanager
async def open_heard(
    server: ServerProcess, token: str, *kind: str, namespace: str = "/"
) -> AsyncIterator[tuple[Someone, Heard]]:
    async with open_socketio(server, {"token": token}, namespace, *kind) as heard:
        _, welcome = await heard.next_of("welcome")
        yield Someone(welcome["sid"], heard.next, heard.call), heard


@contextlib.asynccontextmanager
async def open_anyhow(server: ServerProcess, token: str) -> AsyncIterator[list[Someone]]:
    """Connect a client of each kind."""
    async with contextlib.AsyncExitStack() as stack:
        everyone = []
        for binary in (False, True):
            client = await stack.enter_async_context(open_client(server, binary=binary))
            _, ok = await client.request("hello", {"token": token})
            await client.receive_event("welcome")
            everyone.append(Someone(ok["session"], client.receive, _calls(client)))
        for kind in KINDS:
            someone, _ = await stack.enter_async_context(open_heard(server, token, *kind))
            everyone.append(someone)
        yield everyone


def _calls(client: Client) -> Callable[..., Awaitable[Any]]:
    async def call(event: str, body: Any = None) -> Any:
        return (await client.request(event, body))[1]

    return call


# -- rooms


async def test_event_when_sent_to_a_room_then_each_kind_of_client_gets_it_once(server: ServerProcess) -> None:
    async with open_anyhow(server, "u:text") as everyone, open_anyhow(server, "v:text") as others:
        for someone in everyone:
            assert await someone.call("join", "r1") == "ok"
            assert await someone.call("join", "r2") == "ok"
        native, sockets = everyone[:2], everyone[2:]
        sender = others[2]
        for args, body in (([], None), ([1], 1), ([[1]], [1]), ([1, "x"], [1, "x"]), ([None], None)):
            await sender.call("to", {"to": ["r1", "r2"], "args": args})
            for someone in native:
                assert await someone.next() == ["sent", body]
            for someone in sockets:
                assert await someone.next() == ["sent", *args]
        skipped, alone = everyone[3], everyone[0]
        await sender.call("to", {"to": "r1", "skip": skipped.sid, "args": ["most"]})
        await sender.call("to", {"to": skipped.sid, "args": ["one"]})
        await sender.call("to", {"to": [alone.sid, others[4].sid], "args": ["two"]})
        await sender.call("to", {"skip": [skipped.sid, sender.sid], "args": ["all"]})
        for someone in (*everyone, *others):
            wanted = []
            if someone in everyone:
                wanted.append("one" if someone is skipped else "most")
            if someone in (alone, others[4]):
                wanted.append("two")
            if someone not in (skipped, sender):
                wanted.append("all")
            assert [(await someone.next())[1] for _ in wanted] == wanted
            assert (await someone.call("about"))[0] == "/"


async def test_event_when_its_value_is_bytes_then_bytes_arrive(server: ServerProcess) -> None:
    for kind in KINDS:
        async with open_heard(server, "u:text", *kind) as (someone, _):
            await someone.call("join", "bytes")
            data = bytes(range(256))
            assert await someone.call("to", {"to": "bytes", "args": [data, {"b": data}]}) == "fastim"
            assert await someone.next() == ["sent", data, {"b": data}]


@pytest.mark.parametrize("kind", KINDS)
async def test_namespace_when_another_then_its_rooms_are_others(
    server: ServerProcess, kind: tuple[str, str]
) -> None:
    async with (
        open_heard(server, "a:text", *kind) as (root, _),
        open_heard(server, "a:text", *kind, namespace="/chat") as (chat, _),
        open_heard(server, "a:text", *kind, namespace="/team-1") as (team, _),
        open_heard(server, "a:text", *kind, namespace="/team-2") as (other_team, _),
    ):
        everywhere = {"/": root, "/chat": chat, "/team-1": team, "/team-2": other_team}
        for someone in everywhere.values():
            assert await someone.call("join", "r") == "ok"
        for namespace, someone in everywhere.items():
            assert await someone.call("about") == [namespace, kind[0], "a", ["r"]]
            await someone.call("to", {"to": "r", "args": [namespace, 1]})
            await someone.call("to", {"args": [namespace, 2]})
            await someone.call("to", {"to": root.sid, "args": [namespace, 3]})
        assert await root.next() == ["sent", "/", 1]
        assert await root.next() == ["sent", "/", 2]
        assert await root.next() == ["sent", "/", 3]
        for namespace, someone in everywhere.items():
            if namespace != "/":
                assert await someone.next() == ["sent", namespace, 1]
                assert await someone.next() == ["sent", namespace, 2]
        assert await root.call("about") == ["/", kind[0], "a", ["r"]]


async def test_client_when_it_leaves_while_it_is_looked_at_then_the_middleware_is_not_asked(
    server: ServerProcess,
) -> None:
    async with open_polling(server.port) as client, open_heard(server, "mia:admin") as (mia, _):
        await client.send_raw('40{"token":"leaver:admin"}\x1e41')
        for _ in range(3):  # the decision takes a turn
            assert await mia.call("seen", "leaver") == []
        await client.connect({"token": "leaver:admin"})
        assert [entry[0] for entry in await mia.call("seen", "leaver")] == ["middleware", "again"]


async def test_namespace_when_no_pattern_covers_it_then_invalid(server: ServerProcess) -> None:
    client = socketio.AsyncClient(reconnection=False)
    refusals: list[Any] = []
    client.on("connect_error", refusals.append, namespace="/team-x")
    with pytest.raises(socketio.exceptions.ConnectionError):
        await client.connect(
            server.http,
            auth={"token": "u:text"},
            namespaces=["/team-x"],
            transports=["websocket"],
            wait_timeout=WAIT_S,
        )
    assert refusals == [{"message": "Invalid namespace"}]


# -- events


@pytest.mark.parametrize("kind", KINDS)
async def test_values_when_they_do_not_fit_then_the_acknowledgement_says_so(
    server: ServerProcess, kind: tuple[str, str]
) -> None:
    async with open_heard(server, "u:text", *kind) as (someone, _):
        assert await someone.call("add", 3, 4) == (7, 12)
        refused = await someone.call("add", 3)
        assert refused == {"error": {"code": "bad_request", "message": "arguments: 'add' takes 2, got 1"}}
        assert await someone.call("whatever", 1, 2) == ["whatever", [1, 2]]
        assert await someone.call("hello") == ["hello", []]
        assert await someone.call("typing", 5) == "own 5"


# -- questions


async def test_question_when_asked_of_a_room_then_each_kind_of_client_answers(server: ServerProcess) -> None:
    async with (
        open_heard(server, "a:text") as (asker, _),
        open_client(server, binary=True) as native,
        contextlib.AsyncExitStack() as stack,
    ):
        await native.request("hello", {"token": "n:text"})
        await native.receive_event("welcome")
        assert await native.request("join", "askers") == ["ok", "ok"]
        for number, kind in enumerate(KINDS):
            someone, heard = await stack.enter_async_context(open_heard(server, f"q{number}:text", *kind))
            heard.answer("question", lambda seconds, number=number: f"{number} in {seconds}")
            await someone.call("join", "askers")
            assert await asker.call("ask.one", someone.sid) == f"{number} in you?"
        task = asyncio.ensure_future(asker.call("ask.room", 30))
        event, body, ref = await native.receive()
        assert (event, body) == ("question", 30)
        await native.send("ok", "native", ref)
        assert await task == [["0 in 30", "1 in 30", "2 in 30", "3 in 30", "native"], 0]
        assert await asker.call("ask.nobody") == [[], []]


# -- ends


@pytest.mark.parametrize("kind", KINDS)
async def test_disconnect_when_by_the_server_then_the_client_stays_away(
    server: ServerProcess, kind: tuple[str, str]
) -> None:
    async with open_heard(server, "watch:text") as (watch, _):
        user = f"gone-{kind[0]}-{kind[1]}"
        async with open_heard(server, f"{user}:text", *kind) as (someone, heard):
            await someone.call("join", "r9")
            sid = someone.sid
            await watch.call("kick", sid)
            await heard.disconnected()
        async with open_heard(server, f"{user}:text", *kind) as (someone, heard):
            await heard.emit("bye")
            assert await someone.next() == ["last"]
            await heard.disconnected()
        async with open_heard(server, f"{user}:text", *kind):
            pass
        left = []
        while len(left) < 3:
            left = [entry[2:] for entry in await watch.call("seen", user) if entry[0] == "left"]
        assert left == [["server disconnect", ["r9"]], ["server disconnect", []], ["client disconnect", []]]
        assert await watch.call("sessions", sid) == {"count": 1}


async def test_login_when_the_policy_is_one_then_a_clients_namespaces_are_one_login(start: Start) -> None:
    server = start("tests.e2e.rooms_application:app", FASTIM_SESSION__POLICY="user")
    first = socketio.AsyncClient(reconnection=False)
    gone: list[str] = []
    over = asyncio.Event()
    for name in ("/", "/chat"):
        first.on("disconnect", lambda *reason, name=name: (gone.append(name), over.set()), namespace=name)
    await first.connect(
        server.http, auth={"token": "u:text"}, namespaces=["/", "/chat"], transports=["websocket"]
    )
    for name in ("/", "/chat"):
        assert (await first.call("about", namespace=name, timeout=WAIT_S))[0] == name
    assert not gone
    async with open_heard(server, "u:text") as (second, _):
        while sorted(gone) != ["/", "/chat"]:
            over.clear()
            await asyncio.wait_for(over.wait(), WAIT_S)
        assert (await second.call("about"))[2] == "u"
    await first.disconnect()
    assert server.stop() == 0
