"""The application's interface over native connections: who comes in, rooms, questions, sessions."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import OWN_MISTAKES
from tests.e2e.serving import Client, ServerProcess, Start, open_client

APPLICATION = "tests.e2e.rooms_application:app"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(
        tmp_path_factory.mktemp("rooms") / "data",
        (APPLICATION,),
        {
            "FASTIM_AUTH__DECISION_TIMEOUT_S": "0.3",
            "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
            "FASTIM_BANS__AUTOMATIC": "false",
        },
    )
    yield server
    assert server.stop() == 0
    assert "cancelled\n" in server.log()
    assert "an on_start handler failed" in server.log()
    for sign in OWN_MISTAKES:
        assert sign not in server.log()


@contextlib.asynccontextmanager
async def come(
    server: ServerProcess, token: str | None, *, binary: bool = False, **hello: Any
) -> AsyncIterator[Client]:
    """Come in with a token of the application's."""
    async with open_client(server, binary=binary) as client:
        body = hello if token is None else {"token": token, **hello}
        event, client.ok = await client.request("hello", body)
        assert event == "ok", client.ok
        welcome = await client.receive_event("welcome")
        assert welcome["sid"] == client.ok["session"]
        yield client


async def refused(server: ServerProcess, token: str | None) -> dict[str, Any]:
    async with open_client(server) as client:
        event, error = await client.request("hello", {} if token is None else {"token": token})
        assert event == "error"
        return error


# -- coming in


async def test_authenticate_when_it_knows_the_user_then_in_as_that(server: ServerProcess) -> None:
    async with come(server, "ann:text") as client:
        assert client.ok["user"] == "ann"
    async with come(server, "bea:member", device="mine") as client:
        assert (client.ok["user"], client.ok["device"]) == ("bea", "d1")
        assert await client.request("seen", "bea") == [
            "ok",
            [["middleware", "bea", "bea:member", None], ["again", "bea"]],
        ]


async def test_authenticate_when_the_token_is_in_the_head_then_it_is_the_applications(
    server: ServerProcess,
) -> None:
    async with open_client(
        server, additional_headers={"Authorization": "Bearer cat:text"}, user_agent_header="probe/1"
    ) as client:
        event, ok = await client.request("hello", {})
        assert (event, ok["user"]) == ("ok", "cat")
        assert (await client.receive_event("welcome"))["agent"] == "probe"


@pytest.mark.parametrize(
    ("token", "code", "message"),
    [
        (None, "unauthorized", "not authenticated"),
        ("x:banned", "unauthorized", "banned"),
        ("x:locked", "unauthorized", "locked"),
        ("x:closed", "unauthorized", "refused"),
        ("x:slow", "unavailable", "the application did not decide in time"),
        ("x:broken", "internal", None),
        ("x:odd", "internal", None),
        ("x:early", "internal", None),
    ],
)
async def test_authenticate_when_it_refuses_then_the_client_is_told(
    server: ServerProcess, token: str | None, code: str, message: str | None
) -> None:
    error = await refused(server, token)
    assert error["code"] == code
    assert message is None or error["message"] == message
    if token == "x:banned":
        assert error["data"] == {"until": 2030}
    if token == "x:locked":
        assert error["data"] == {"code": 7}
    if code == "internal":
        assert error["id"] in server.log()


async def test_refusal_when_by_the_application_then_closed_with_4001(server: ServerProcess) -> None:
    async with open_client(server) as client:
        await client.request("hello", {"token": "x:locked"})
        assert (await client.closed())[0] == 4001


async def test_hello_when_the_application_was_slow_then_it_may_be_said_again(server: ServerProcess) -> None:
    async with open_client(server) as client:
        event, error = await client.request("hello", {"token": "x:slow"})
        assert (event, error["code"]) == ("error", "unavailable")
        assert (await client.request("hello", {"token": "dan:text"}))[0] == "ok"


async def test_refresh_when_the_application_authenticates_then_it_is_asked_again(
    server: ServerProcess,
) -> None:
    async with come(server, "eve:text") as client:
        assert (await client.request("refresh", {"token": "eve:more"}))[0] == "ok"
        for token, code in (("other:text", "unauthorized"), ("", "bad_request"), ("eve", "unauthorized")):
            event, error = await client.request("refresh", {"token": token})
            assert (event, error["code"]) == ("error", code)
        assert (await client.request("refresh", {"token": "eve:broken"}))[1]["code"] == "internal"
        assert (await client.request("about", None))[0] == "ok"


async def test_handshake_when_on_connect_is_over_then_gone(server: ServerProcess) -> None:
    async with come(server, "fay:text") as client:
        assert "until on_connect is over" in (await client.request("late", None))[1]


async def test_on_start_when_the_server_listens_then_called(server: ServerProcess) -> None:
    async with come(server, "u:text") as client:
        assert await client.request("seen", "") == ["ok", [["started", ""], ["works", ""]]]


# -- events


async def test_values_when_several_then_a_native_body_is_their_list(server: ServerProcess) -> None:
    for binary in (False, True):
        async with come(server, "u:text", binary=binary) as client:
            assert await client.request("add", [3, 4]) == ["ok", [7, 12]]
            for body in (None, 3, [3], [3, 4, 5], {}):
                event, error = await client.request("add", body)
                assert (event, error["code"]) == ("error", "bad_request")
                assert error["message"].startswith("body: 'add' takes a list of 2")
            assert (await client.request("about", "something"))[1]["message"] == "body: 'about' takes none"


async def test_builtin_when_the_application_has_one_of_its_name_then_that_is_served(
    server: ServerProcess,
) -> None:
    async with come(server, "u:text") as client:
        assert await client.request("typing", 5) == ["ok", "own 5"]
        assert (await client.request("ping", {}))[0] == "ok"


async def test_catch_all_when_nothing_else_serves_then_called_with_the_name(server: ServerProcess) -> None:
    async with come(server, "u:text", binary=True) as client:
        assert await client.request("whatever", [1, 2]) == ["ok", ["whatever", [[1, 2]]]]
        event, error = await client.request(999, None)  # type: ignore[arg-type]
        assert (event, error["code"]) == ("error", "unknown_event")


async def test_answer_when_not_wanted_then_there_is_none(server: ServerProcess) -> None:
    async with come(server, "u:text") as client:
        await client.send("silent", 1, 7)
        await client.send("typing", 1, 8)
        assert await client.receive() == ["ok", "own 1", 8]


async def test_mistakes_when_made_then_they_show_at_the_caller(server: ServerProcess) -> None:
    async with come(server, "u:text") as client:
        _, found = await client.request("mistakes", None)
        assert found == [
            "TypeError: to: a name or several",
            "TypeError: to: names",
            "TypeError: skip: a name or several",
            "TypeError: event: a string",
            "TypeError: room: a string",
            *found[5:6],
            "RuntimeError: it would block the loop; await ctx.call(...) here",
            "RuntimeError: it would block the loop; await app.call(...) here",
        ]
        assert found[5].startswith("ValueError")
        assert "in a thread call" in (await client.request("mistakes.thread", None))[1]


# -- rooms


async def test_event_when_sent_to_names_then_each_gets_it_once(server: ServerProcess) -> None:
    async with (
        come(server, "a:text") as a,
        come(server, "b:text", binary=True) as b,
        come(server, "c:text") as c,
    ):
        for client, rooms in ((a, ("r1", "r2")), (b, ("r2", "r3")), (c, ())):
            for room in rooms:
                assert await client.request("join", room) == ["ok", "ok"]
        assert (await a.request("about", None))[1] == ["/", "websocket", "a", ["r1", "r2"]]
        sids = {client: client.ok["session"] for client in (a, b, c)}
        cases: list[tuple[Any, Any, tuple[Client, ...]]] = [
            ("r1", (), (a,)),
            (["r1", "r2", "r3"], (), (a, b)),
            (["r1", sids[a], sids[c]], (), (a, c)),
            (sids[b], (), (b,)),
            (None, (), (a, b, c)),
            (None, sids[a], (b, c)),
            (["r2", "nobody"], [sids[b], "nobody"], (a,)),
            ("nobody", (), ()),
            ([], (), ()),
        ]
        for number, (to, skip, expected) in enumerate(cases):
            body = {"skip": skip, "args": [number]} | ({} if to is None else {"to": to})
            assert await c.request("to", body) == ["ok", "fastim"]
            for client in expected:
                assert await client.receive() == ["sent", number]
        for client in (a, b, c):
            assert (await client.request("typing", 0))[0] == "ok"
        for args, wanted in (([], None), ([None], None), ([[]], []), ([1, "x"], [1, "x"])):
            await c.request("to", {"to": "r2", "args": args})
            assert await b.receive() == ["sent", wanted]


async def test_everybody_when_sent_to_then_also_those_who_came_later(server: ServerProcess) -> None:
    async with come(server, "a:text") as a:
        await a.request("to", {"args": [1]})
        assert await a.receive() == ["sent", 1]
        async with come(server, "b:text") as b, open_client(server) as stranger:
            await a.request("to", {"args": [2]})
            assert await b.receive() == ["sent", 2]
            event, _ = await stranger.request("hello", {"token": "s:text"})
            assert event == "ok"
            assert (await stranger.receive())[0] == "welcome"  # and nothing of before
        await a.request("to", {"args": [3]})
        assert await a.receive() == ["sent", 2]
        assert await a.receive() == ["sent", 3]


# -- questions


async def test_question_when_asked_then_the_clients_answer_comes_back(server: ServerProcess) -> None:
    async with come(server, "u:text") as client, come(server, "v:text", binary=True) as other:
        await client.send("ask", "how many?", 1)
        event, body, ref = await client.receive()
        assert (event, body) == ("question", "how many?")
        await client.send("ok", 5, ref)
        assert await client.receive() == ["ok", 5, 1]
        await client.send("ask.one", other.ok["session"], 2)
        event, body, ref = await other.receive()
        assert (event, body) == ("question", "you?")
        await other.send("ok", "me", ref)
        assert await client.receive() == ["ok", "me", 2]


async def test_question_when_its_answer_cannot_be_read_then_whoever_asked_is_told(
    server: ServerProcess,
) -> None:
    async with come(server, "u:text") as client:
        await client.send("ask", "how many?", 1)
        _, _, ref = await client.receive()
        await client.send("ok", {"$bytes": "!"}, ref)
        event, body, ref = await client.receive()
        assert (event, body["code"], ref) == ("error", "bad_request", 1)
        assert (await client.request("join", "a"))[0] == "ok"


async def test_question_when_asked_of_a_room_then_answers_are_collected(server: ServerProcess) -> None:
    async with (
        come(server, "a:text") as a,
        come(server, "b:text", binary=True) as b,
        come(server, "c:text") as c,
        come(server, "d:text") as d,
    ):
        for client in (a, b, c, d):
            await client.request("join", "askers")
        await a.send("ask.room", 60, 1)
        for answer, client in ((1, a), (2, b), (3, c), (4, d)):
            event, _, ref = await client.receive()
            assert event == "question"
            await client.send("ok", answer, ref)
        assert await a.receive() == ["ok", [[1, 2, 3, 4], 0], 1]
        await a.send("ask.room", 60, 2)
        for client in (a, b):
            _, _, ref = await client.receive()
            await client.send("ok", "x", ref)
        _, _, ref = await c.receive()
        await c.send("error", {"code": "forbidden", "message": "no"}, ref)
        await d.socket.close()
        assert await a.receive() == ["ok", [["x", "x"], 2], 2]
        await a.send("ask.room", 0.05, 3)
        packets = sorted([await a.receive(), await a.receive()], key=str)
        assert packets[0] == ["ok", [[], 3], 3]
        assert await a.request("ask.nobody", None) == ["ok", [[], []]]


# -- sessions and ends


async def test_session_when_resumed_then_its_values_are_there(server: ServerProcess) -> None:
    async with come(server, "res:text") as client:
        session = client.ok["session"]
        assert (await client.request("session", None))[1] == {
            "session": {"count": 1},
            "state": {},
            "id": True,
        }
    async with come(server, "res:text", resume={"session": session, "seen": {}}) as client:
        assert client.ok["resumed"]
        assert (await client.request("session", None))[1]["session"] == {"count": 2}
    async with come(server, "res:text") as client:
        assert (await client.request("session", None))[1]["session"] == {"count": 1}


async def test_disconnect_when_called_then_closed_for_good_and_the_reason_is_told(
    server: ServerProcess,
) -> None:
    async with come(server, "watch:text") as watch:
        async with come(server, "kicked:text") as client:
            await watch.request("kick", client.ok["session"])
            assert (await client.closed())[0] == 4005
        async with come(server, "goes:text") as client:
            await client.send("bye", None)
            assert await client.receive() == ["last", None]
            assert (await client.closed())[0] == 4005
        async with come(server, "closes:text") as client:
            await client.request("join", "r9")
        async with come(server, "breaks:text") as client:
            client.socket.transport.abort()
        await watch.request("kick", "nobody")
        for user, reason, rooms in (
            ("kicked", "server disconnect", []),
            ("goes", "server disconnect", []),
            ("closes", "client disconnect", ["r9"]),
            ("breaks", "transport close", []),
        ):
            while ["left", user, reason, rooms] not in (await watch.request("seen", user))[1]:
                pass


# -- settings


async def test_connection_when_anonymous_then_it_has_the_applications_events(start: Start) -> None:
    server = start("examples.echo_app:app", FASTIM_AUTH__REQUIRED="false")
    async with open_client(server) as client, open_client(server, "known") as known:
        event, ok = await client.request("hello", {})
        assert event == "ok"
        assert (ok["user"], ok["features"], ok["resumed"]) == ("", [], False)
        assert await client.request("echo", 1) == ["ok", 1]
        assert (await client.request("ping", {}))[0] == "ok"
        for name in ("typing", "conversations", "refresh"):
            assert (await client.request(name, {"token": "x"}))[1]["code"] == "unauthorized"
        await known.send("pub", "hi")
        assert await client.receive() == ["msg", {"text": "hi"}]
        event, error = await client.request("hello", {"token": "no token"})
        assert (event, error["code"]) == ("error", "bad_request")
    async with open_client(server) as client:
        event, error = await client.request("hello", {"token": "no token"})
        assert (event, error["code"]) == ("error", "unauthorized")
    assert server.stop() == 0


async def test_messaging_when_off_then_its_events_are_not_there(start: Start, tmp_path: Path) -> None:
    server = start("examples.echo_app:app", FASTIM_MESSAGING__ENABLED="false")
    async with open_client(server, "u") as client:
        assert client.ok["features"] == []
        for name in ("message", "typing", "ping"):
            assert (await client.request(name, {}))[1]["code"] == "unknown_event"
        assert await client.request("echo", 1) == ["ok", 1]
        assert (await client.request("refresh", {"token": server.token("u")}))[0] == "ok"
    assert server.stop() == 0
