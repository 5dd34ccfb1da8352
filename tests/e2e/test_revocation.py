"""Revocations and kicks on a running server: they reach live connections, every token, and a restart."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from fastim.guard.tokens import issue
from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest

APPLICATION = "tests.e2e.application:app"


def token_of(server: ServerProcess, user: str = "ann", age_s: float = 0, **claims: Any) -> str:
    secret = (server.data / "secret").read_bytes().strip()
    return issue(secret, user, now_s=time.time() - age_s, ttl_s=3_600 + age_s, **claims)


async def say_hello(client: Client, token: str, **hello: Any) -> list[Any]:
    answer = await client.request("hello", {"token": token, **hello})
    client.ok = answer[1]
    return answer


async def is_refused(server: ServerProcess, token: str, **hello: Any) -> bool:
    """Whether a token is turned away, with 4001."""
    async with open_client(server) as client:
        event, _ = await say_hello(client, token, **hello)
        if event == "ok":
            return False
        assert (await client.closed())[0] == 4001
        return True


def revoke(server: ServerProcess, **body: Any) -> dict[str, Any]:
    with rest(server) as http:
        answer = http.post("/v1/revocations", json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


async def ending(client: Client) -> tuple[list[str], int]:
    events = [packet[0] async for packet in client.receive_until_closed()]
    return events, client.socket.close_code or 0


async def test_token_when_revoked_then_its_connections_are_closed_and_it_is_refused_for_ever(
    start: Start,
) -> None:
    server = start()
    bad, good = token_of(server, jti="j1"), token_of(server, jti="j2")
    async with open_client(server) as first, open_client(server) as other, open_client(server) as waiting:
        assert (await say_hello(first, bad))[0] == "ok"
        assert (await say_hello(other, good))[0] == "ok"
        assert revoke(server, jti="j1", reason="lost")["closed"] == 1
        assert await ending(first) == (["forced_disconnect"], 4001)
        assert (await other.request("ping", {}))[0] == "ok"
        event, error = await other.request("refresh", {"token": bad})
        assert (event, error["code"]) == ("error", "unauthorized")
        assert (await other.request("ping", {}))[0] == "ok"
        assert (await say_hello(waiting, bad))[0] == "error"
        assert (await waiting.closed())[0] == 4001
    assert await is_refused(server, bad, resume={"session": first.ok["session"]})
    with pytest.raises(InvalidStatus) as refused:
        async with open_client(server, additional_headers={"Authorization": f"Bearer {bad}"}):
            pass
    assert refused.value.response.status_code == 401
    assert server.stop() == 0
    again = start()
    assert await is_refused(again, bad)
    assert not await is_refused(again, good)


async def test_user_when_revoked_then_older_tokens_of_all_devices_and_newer_ones_are_good(
    start: Start,
) -> None:
    server = start(APPLICATION)
    old = token_of(server, age_s=5, device="phone")
    async with (
        open_client(server) as phone,
        open_client(server) as desktop,
        open_client(server, "bob") as bob,
    ):
        await say_hello(phone, old)
        await say_hello(desktop, token_of(server, age_s=5, device="desktop"))
        async with open_client(server) as tablet:
            await say_hello(tablet, token_of(server, age_s=5, device="tablet"))
        assert revoke(server, user="ann")["closed"] == 2
        for client in (phone, desktop):
            assert await ending(client) == (["forced_disconnect"], 4001)
        _, told = await bob.request("ended", "ann")
        assert sorted((device, reason) for _, device, _, reason in told) == [
            ("desktop", "removed"),
            ("phone", "removed"),
            ("tablet", "removed"),
        ]
        assert (await bob.request("ping", {}))[0] == "ok"
    assert await is_refused(server, old)
    assert not await is_refused(server, token_of(server, age_s=-2))


async def test_user_when_tokens_before_a_time_are_revoked_then_those_issued_later_stay(start: Start) -> None:
    server = start()
    async with open_client(server) as older, open_client(server) as newer:
        await say_hello(older, token_of(server, age_s=100))
        await say_hello(newer, token_of(server, age_s=10))
        before = int((time.time() - 50) * 1000)
        assert revoke(server, user="ann", before=before)["closed"] == 1
        assert (await older.closed())[0] == 4001
        assert (await newer.request("ping", {}))[0] == "ok"


async def test_device_when_revoked_then_it_is_refused_by_whichever_way_it_names_itself(start: Start) -> None:
    """The old device must not stay while the new login is refused."""
    server = start()
    nameless = token_of(server, age_s=5)
    async with open_client(server) as stolen, open_client(server) as desktop:
        await say_hello(stolen, nameless, device="phone")
        await say_hello(desktop, nameless, device="desktop")
        assert revoke(server, user="ann", device="phone")["closed"] == 1
        assert (await stolen.closed())[0] == 4001
        assert (await desktop.request("ping", {}))[0] == "ok"
        assert await is_refused(server, nameless, device="phone")
        assert await is_refused(server, token_of(server, age_s=5, device="phone"))
        assert not await is_refused(server, nameless, device="other")
        assert not await is_refused(server, token_of(server, age_s=-2, device="phone"))


async def test_session_when_kicked_then_closed_with_4005_and_not_resumable_the_token_stays_good(
    start: Start,
) -> None:
    server = start()
    token = token_of(server)
    async with open_client(server) as phone, open_client(server) as desktop:
        await say_hello(phone, token, device="phone")
        await say_hello(desktop, token, device="desktop")
        with rest(server) as http:
            listed = http.get("/v1/sessions", params={"user": "ann"}).json()["sessions"]
            assert [(s["device"], s["live"]) for s in listed] == [("phone", True), ("desktop", True)]
            answer = http.delete("/v1/sessions", params={"user": "ann", "device": "phone"})
            assert answer.json() == {"closed": 1}
        assert await ending(phone) == (["forced_disconnect"], 4005)
        assert (await desktop.request("ping", {}))[0] == "ok"
        async with open_client(server) as back:
            resume = {"session": phone.ok["session"]}
            assert (await say_hello(back, token, device="phone", resume=resume))[0] == "ok"
            assert back.ok["resumed"] is False


def test_revocations_when_listed_and_lifted_then_gone_after_a_restart_too(start: Start) -> None:
    server = start()
    revoke(server, user="ann", device="d", reason="stolen", until=2**50)
    revoke(server, jti="j")
    with rest(server) as http:
        listed = http.get("/v1/revocations").json()
        assert listed["count"] == 2
        assert [(r["kind"], r.get("user"), r.get("device"), r.get("jti")) for r in listed["revocations"]] == [
            ("device", "ann", "d", None),
            ("token", None, None, "j"),
        ]
        assert http.delete("/v1/revocations", params={"user": "ann"}).status_code == 404
        assert http.delete("/v1/revocations", params={"user": "ann", "device": "d"}).status_code == 204
    assert server.stop() == 0
    again = start()
    with rest(again) as http:
        assert http.get("/v1/revocations").json()["count"] == 1
    text = httpx.get(f"{again.http}/metrics", trust_env=False).text
    assert "fastim_revocations_in_force 1.0" in text


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "expected either jti or user"),
        ({"jti": "a", "user": "b"}, "expected either jti or user"),
        ({"jti": "a", "device": "d"}, "device and before go with user"),
        ({"jti": ""}, "jti"),
        ({"user": "ann", "before": -1}, "before"),
        ({"user": "ann", "until": 1}, "until: it is past"),
        ({"user": "ann", "typo": 1}, "typo"),
        ({"user": "a\0"}, "user"),
    ],
)
def test_revocation_when_malformed_then_the_field_is_named(
    shared: ServerProcess, body: dict[str, Any], named: str
) -> None:
    with rest(shared) as http:
        answer = http.post("/v1/revocations", json=body)
    assert answer.status_code == 422
    assert named in answer.json()["detail"]
