"""How a session of Engine.IO begins, and which requests are refused."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from fastim.server.engineio.query import Query, parse_query
from tests.unit.server.engineio.engine_world import serving

SIDLESS = "EIO=4&transport=polling"


async def test_polling_handshake_is_the_open_packet_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, ping_interval_ms=300, ping_timeout_ms=200, max_payload_bytes=9) as world:
        answer = world.http().ask("GET")

        assert answer is not None
        assert answer.status == 200
        assert answer.fields["content-type"] == "text/plain; charset=UTF-8"
        assert answer.fields["cache-control"] == "no-store"
        content = json.loads(answer.body.removeprefix(b"0"))
        sid = content["sid"]
        assert list(content.items()) == [
            ("sid", sid),
            ("upgrades", ["websocket"]),
            ("pingInterval", 300),
            ("pingTimeout", 200),
            ("maxPayload", 9),
        ]
        assert len(sid) == 20
        assert set(sid) <= set(string.ascii_letters + string.digits + "-_")
        assert [session.sid for session in world.echo.sessions] == [sid]
        assert world.echo.sessions[0].transport == "polling"


async def test_websocket_handshake_is_its_first_message_and_names_no_upgrade(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        socket = world.websocket()
        (first,) = socket.take()

        assert isinstance(first, str)
        content = json.loads(first.removeprefix("0"))
        assert list(content) == ["sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"]
        assert content["upgrades"] == []
        assert world.echo.sessions[0].transport == "websocket"
        assert world.echo.sessions[0].sid == content["sid"]


async def test_sids_are_never_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        assert len({world.polling().sid for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("method", "query", "error"),
    [
        ("GET", "EIO=4", (400, 0, "Transport unknown")),
        ("GET", "EIO=4&transport=abc", (400, 0, "Transport unknown")),
        ("GET", "EIO=4&transport=webtransport", (400, 0, "Transport unknown")),
        ("GET", "", (400, 0, "Transport unknown")),
        ("GET", f"{SIDLESS}&sid=guessed", (400, 1, "Session ID unknown")),
        ("POST", f"{SIDLESS}&sid=guessed", (400, 1, "Session ID unknown")),
        ("GET", f"{SIDLESS}&sid=%00%ff", (400, 1, "Session ID unknown")),
        ("GET", f"{SIDLESS}&sid=__proto__", (400, 1, "Session ID unknown")),
        ("POST", SIDLESS, (400, 2, "Bad handshake method")),
        ("PUT", SIDLESS, (400, 2, "Bad handshake method")),
        ("OPTIONS", SIDLESS, (400, 2, "Bad handshake method")),
        ("GET", "EIO=4&transport=websocket", (400, 3, "Bad request")),
        ("GET", "transport=polling", (400, 5, "Unsupported protocol version")),
        ("GET", "EIO=3&transport=polling", (400, 5, "Unsupported protocol version")),
        ("GET", "EIO=abc&transport=polling", (400, 5, "Unsupported protocol version")),
        ("GET", f"{SIDLESS}&j=0", (400, 3, "JSONP is not spoken: use XHR, fetch or WebSocket.")),
    ],
)
async def test_bad_handshake_gets_the_protocols_error(
    tmp_path: Path, method: str, query: str, error: tuple[int, int, str]
) -> None:
    async with serving(tmp_path) as world:
        http = world.http()
        answer = http.ask(method, query)

        assert answer is not None
        assert answer.error == error
        assert answer.fields["content-type"] == "application/json"
        assert not world.echo.sessions
        assert sum(count for name, count in world.figures.items() if name.startswith("refused")) == 1
        again = http.ask("GET")  # the connection is as good as before
        assert again is not None
        assert again.status == 200


@pytest.mark.parametrize(
    ("query", "code"),
    [("transport=websocket", 5), ("EIO=3&transport=websocket", 5), ("EIO=4", 0), ("EIO=4&transport=x", 0)],
)
async def test_bad_websocket_handshake_is_refused_before_the_upgrade(
    tmp_path: Path, query: str, code: int
) -> None:
    async with serving(tmp_path) as world:
        answer = world.http().ask(
            "GET",
            query,
            Upgrade="websocket",
            Connection="Upgrade",
            Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
            Sec_WebSocket_Version="13",
        )

        assert answer is not None
        assert answer.error[:2] == (400, code)


async def test_transport_that_is_switched_off_is_unknown_and_no_upgrade(tmp_path: Path) -> None:
    async with serving(tmp_path, transports=("polling",)) as world:
        answer = world.http().ask("GET")
        assert answer is not None
        assert json.loads(answer.body[1:])["upgrades"] == []
        sid = json.loads(answer.body[1:])["sid"]

        assert world.websocket().refusal == {"code": 0, "message": "Transport unknown"}
        assert world.websocket(sid).refusal == {"code": 0, "message": "Transport unknown"}

    async with serving(tmp_path, transports=("websocket",)) as world:
        answer = world.http().ask("GET")
        assert answer is not None
        assert answer.error == (400, 0, "Transport unknown")
        assert world.websocket().is_open


async def test_path_is_served_without_its_last_slash_too(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        http = world.http()
        http.feed(b"GET /engine.io?EIO=4&transport=polling HTTP/1.1\r\nHost: unit.test\r\n\r\n")
        answer = http.answer()

        assert answer is not None
        assert answer.status == 200


async def test_cookie_carries_the_sid_where_one_is_named(tmp_path: Path) -> None:
    async with serving(tmp_path, cookie="io") as world:
        http = world.http()
        answer = http.ask("GET")
        assert answer is not None
        sid = json.loads(answer.body[1:])["sid"]
        assert answer.fields["set-cookie"] == f"io={sid}; Path=/; HttpOnly; SameSite=Lax"

        post = world.http().ask("POST", f"{SIDLESS}&sid={sid}", b"4x")
        assert post is not None
        assert "set-cookie" not in post.fields  # only the handshake sets it

        socket = world.websocket()
        (first,) = socket.take()
        assert isinstance(first, str)
        response = socket.response
        assert response is not None
        assert response.headers["Set-Cookie"].startswith(f"io={json.loads(first[1:])['sid']};")


async def test_polling_sessions_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path, polling_sessions=2) as world:
        client, _ = world.polling(), world.polling()
        answer = world.http().ask("GET")
        assert answer is not None
        assert answer.status == 503
        assert "retry-after" in answer.fields

        client.send(b"1")
        world.polling()


async def test_draining_server_begins_no_session_and_serves_those_it_has(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        world.world.service.draining = True

        answer = world.http().ask("GET")
        assert answer is not None
        assert answer.status == 503
        assert not world.websocket().is_open
        client.send(b"4x")
        got = client.get()
        assert got is not None
        assert got.body == b"4x"


def test_query_takes_the_last_of_a_name_and_passes_over_what_is_not_ours() -> None:
    assert parse_query(b"EIO=3&t=abc&sid=a&EIO=4&transport=poll%69ng&token=x%00") == Query(
        b"4", b"polling", b"a", False
    )
    assert parse_query(b"") == Query()
    assert parse_query(b"&&=&sid&j") == Query(is_jsonp=True)
