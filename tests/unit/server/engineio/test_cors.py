"""Pages of other origins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.server.engineio.engine_world import serving

PAGE = "https://app.example.com"


async def test_page_of_the_servers_own_origin_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        answer = world.http().ask("GET", Origin="http://unit.test")

        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_page_of_another_origin_is_refused_by_default(tmp_path: Path, method: str) -> None:
    async with serving(tmp_path) as world:
        answer = world.http().ask(method, Origin=PAGE, Access_Control_Request_Method="GET")

        assert answer is not None
        assert answer.error == (403, 4, "This origin may not connect.")
        assert "access-control-allow-origin" not in answer.fields
        socket = world.websocket(Origin=PAGE)
        assert not socket.is_open
        assert socket.refusal["code"] == 4


async def test_page_of_another_origin_may_not_use_a_sid_either(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        answer = client.post(b"4x", Origin=PAGE)

        assert answer is not None
        assert answer.error[:2] == (403, 4)
        assert not world.echo.received_messages


async def test_page_of_a_named_origin_is_told_so_in_every_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(PAGE,)) as world:
        for query in ("EIO=4&transport=polling", "EIO=4&transport=polling&sid=unknown"):
            answer = world.http().ask("GET", query, Origin=PAGE)
            assert answer is not None
            assert answer.fields["access-control-allow-origin"] == PAGE
            assert answer.fields["vary"] == "Origin"
            assert "access-control-allow-credentials" not in answer.fields
        assert world.websocket(Origin=PAGE).is_open


async def test_credentials_are_allowed_by_setting_to_named_origins_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(PAGE, "*"), credentials=True) as world:
        named = world.http().ask("GET", Origin=PAGE)
        other = world.http().ask("GET", Origin="https://evil.example.com")

        assert named is not None
        assert other is not None
        assert named.fields["access-control-allow-origin"] == PAGE
        assert named.fields["access-control-allow-credentials"] == "true"
        assert other.fields["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in other.fields


async def test_preflight_is_answered_and_the_connection_kept(tmp_path: Path) -> None:
    async with serving(tmp_path, allowed_origins=(PAGE,)) as world:
        http = world.http()
        answer = http.ask(
            "OPTIONS",
            Origin=PAGE,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="x-token, content-type",
        )

        assert answer is not None
        assert answer.status == 204
        assert answer.body == b""
        assert answer.fields["access-control-allow-origin"] == PAGE
        assert answer.fields["access-control-allow-methods"] == "GET, POST"
        assert answer.fields["access-control-allow-headers"] == "x-token, content-type"
        assert int(answer.fields["access-control-max-age"]) > 0
        again = http.ask("GET", Origin=PAGE)
        assert again is not None
        assert again.status == 200
