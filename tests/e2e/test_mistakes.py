"""Mistakes of an application: its clients are spared, and who wrote it is told which it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.raw_engine import RawHttp, RawSocketIO
from tests.e2e.serving import ServerProcess, Start, open_client, rest, starting, wait_until

PORTERS = [("porter", "not today"), ("stranger", "we have not met")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with starting(tmp_path_factory.mktemp("mistaken")) as start:
        yield start(
            "tests.e2e.mistaken_application:app",
            FASTIM_AUTH__REQUIRED="false",
            FASTIM_MESSAGING__ENABLED="false",
            FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0",
            FASTIM_BANS__AUTOMATIC="false",
        )


def connect(client: RawSocketIO, how: str) -> None:
    client.say(b"40" + json.dumps({"how": how}).encode())


def ask(client: RawSocketIO, event: str, *args: str) -> list[list[str]]:
    client.say(b"427" + json.dumps([event, *args]).encode())
    answered: list[list[str]] = json.loads(client.read_until(b"437")[3:])
    return answered


def entered(server: ServerProcess) -> RawSocketIO:
    client = RawSocketIO(server.port, enter=False)
    connect(client, "well")
    client.read_until(b'42["in"')
    return client


@pytest.mark.parametrize(
    "event", ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", ""]
)
def test_event_when_clients_would_close_for_it_then_who_sends_it_is_told(
    server: ServerProcess, event: str
) -> None:
    with entered(server) as client:
        (said,) = ask(client, "emits", event)
        mark = f"{event!r} is reserved" if event else "at least one character"
        assert len(said) == 20
        named = [*said[:5], *said[9:14], *said[18:]]
        assert all(mark in text for text in named), named


def test_values_when_they_cannot_be_sent_then_the_event_is_named(server: ServerProcess) -> None:
    with entered(server) as client:
        (said,) = ask(client, "emits", "fine")
        assert all("'fine'" in said[at] for at in (0, 1, 9, 10, 18, 19)), said


def test_arguments_when_they_are_wrong_then_they_are_named(server: ServerProcess) -> None:
    with entered(server) as client:
        (said,) = ask(client, "emits", "other")
        for at in (5, 14):
            assert "namespace" in said[at]
            assert "'/nope'" in said[at + 1]
            assert said[at + 2].startswith("to: ")
            assert said[at + 3].startswith("to: ")


def test_question_when_not_answered_then_the_error_says_which(server: ServerProcess) -> None:
    with entered(server) as client:
        assert ask(client, "asks") == ["'question' was not answered within 0.01 s"]


@pytest.mark.parametrize("how", ["broken", "broken later"])
def test_on_connect_when_it_fails_then_the_client_is_not_let_in(server: ServerProcess, how: str) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        before = server.log().count("LookupError: no such greeting")
        connect(client, how)
        with pytest.raises(EOFError) as ended:
            client.read_until(b'42["in"')
        assert ended.value.args[0][:2] == (1011).to_bytes(2, "big")
    assert server.log().count("LookupError: no such greeting") == before + 1
    name = "greet_later" if how == "broken later" else "greet"
    assert f"the on_connect handler {name} failed in '/' for user '', sid " in server.log()


@pytest.mark.parametrize(("how", "text"), PORTERS)
def test_builtin_refusal_when_raised_then_the_client_gets_its_text(
    server: ServerProcess, how: str, text: str
) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        connect(client, how)
        assert json.loads(client.read_until(b"44")[2:]) == {"message": text}


def test_builtin_refusal_when_raised_in_on_connect_then_the_client_is_sent_off(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        connect(client, "late porter")
        assert b"go away" in client.read_until(b'42["forced_disconnect"')
        client.read_until(b"41")


def test_builtin_refusal_when_it_is_the_systems_then_it_stays_here(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        connect(client, "down")
        assert b"10.0.0.1" not in client.read_until(b"44")
    assert "10.0.0.1" in server.log()


def test_refusal_when_its_data_cannot_be_sent_then_its_message_is(server: ServerProcess) -> None:
    with RawSocketIO(server.port, enter=False) as client:
        connect(client, "unsendable")
        assert json.loads(client.read_until(b"44")[2:]) == {"message": "not you"}
    assert "look (" in server.log()
    assert "refused a connection with data that cannot be sent" in server.log()


async def test_refusal_when_native_and_its_data_cannot_be_sent_then_its_message_is(
    server: ServerProcess,
) -> None:
    async with open_client(server) as client:
        await client.send("hello", {"how": "unsendable"}, 1)
        event, body, _ = await client.receive()
        assert (event, body["message"], "data" in body) == ("error", "not you", False)


@pytest.mark.parametrize("event", ["ret", "ret later"])
def test_result_when_it_cannot_be_sent_then_one_line_names_the_handler(
    server: ServerProcess, event: str
) -> None:
    with entered(server) as client:
        (answer,) = ask(client, event)
        number = answer["error"]["id"]  # type: ignore[call-overload]
    lines = [line for line in server.log().splitlines() if number in line]
    assert len(lines) == 1
    assert f"the handler of {event!r} in '/' returned what cannot be sent: " in lines[0]
    assert "encode_ack" not in server.log()


def test_question_when_nobody_is_there_then_one_name_is_an_error_and_a_list_none(
    server: ServerProcess,
) -> None:
    with entered(server) as client:
        ((error, answers),) = ask(client, "calls")
        assert "neither the sid" in error
        assert answers == [[], []]


def test_rooms_when_moved_by_sid_then_as_by_their_contexts(server: ServerProcess) -> None:
    with entered(server) as client:
        ((is_in, sids, *rest),) = ask(client, "rooms")
        assert is_in
        assert len(sids) == 1
        assert rest == [[], [], [], []]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with starting(tmp_path) as start:
        yield start


def test_handlers_when_they_hang_then_the_log_and_the_figures_name_them(start: Start) -> None:
    server = start(
        "tests.e2e.mistaken_application:app",
        FASTIM_AUTH__REQUIRED="false",
        FASTIM_LIMITS__UNFINISHED_REQUESTS="2",
        FASTIM_DRAIN__DEADLINE_S="0.5",
        FASTIM_SERVER__LOG_LEVEL="debug",
    )
    with entered(server) as client, RawSocketIO(server.port, enter=False) as waiting:
        connect(waiting, "hangs")
        client.say(*[b'42["hang"]'] * 6)
        held = "is not read: handlers have not returned: 'hang' (2)"
        wait_until(lambda: held in server.log(), "the warning")
        late = "waits to be let in: the on_connect handler greet_later has not returned"
        wait_until(lambda: late in server.log(), "the other warning")
        with rest(server) as http:
            text = http.get("/metrics").text
        assert "fastim_handlers_held_connections 1" in text
        assert "fastim_handlers_held_connections_total 1" in text
        assert server.stop() == 0
    assert "2 handlers did not finish in time: 'hang' (2)" in server.log()
    assert server.log().count(held) == 1


def test_origin_when_refused_then_the_log_names_it_once_a_minute(start: Start) -> None:
    server = start("tests.e2e.mistaken_application:app", FASTIM_SERVER__LOG_LEVEL="debug")
    for _ in range(2):
        with RawHttp(server.port) as http:
            assert (
                http.ask("GET", "/socket.io/?EIO=4&transport=polling", None, "Origin: http://a.b").code == 4
            )
    line = "refused a page of the origin 'http://a.b', which server.allowed_origins does not name"
    assert server.log().count(line) == 1
    assert server.log().count("refused a request of 127.0.0.1: 403 This origin may not connect.") == 2
