"""Bans on the running server: endpoints, commands, live connections, restarts, and automatic ones."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

import httpx
import pytest

from tests.compliance.raw_websocket import Opcode, frame
from tests.e2e.admission_clients import (
    NOBODY_ALLOWED,
    answer_from,
    figures,
    http_head,
    masked_text,
    open_from,
    status_from,
    upgrade_head,
)
from tests.e2e.serving import ServerProcess, Start, open_client, read_all, rest, run_fastim, wait_until

BAD = "Authorization: Bearer x.y.z"


def ban(server: ServerProcess, **body: Any) -> dict[str, Any]:
    with rest(server) as client:
        answer = client.post("/v1/bans", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()  # type: ignore[no-any-return]


async def test_address_when_banned_then_its_live_connections_end_with_4003_and_new_ones_without_a_byte(
    start: Start,
) -> None:
    """A ban that is looked at only when somebody comes never reaches those who are there."""
    server = start(**NOBODY_ALLOWED)
    async with (
        open_client(server, "mallory", local_addr=("127.0.1.7", 0)) as mallory,
        open_client(server, "alice") as alice,
    ):
        with open_from(server, "127.0.1.7") as silent:
            wait_until(lambda: figures(server)["fastim_hub_pending"] >= 1, "the silent one")
            answer = await asyncio.to_thread(ban, server, address="127.0.1.0/24", reason="spam")
            assert answer["closed"] == 2
            assert await mallory.receive_event("forced_disconnect") == {"reason": "spam"}
            assert await mallory.closed() == (4003, "spam")
            with pytest.raises(ConnectionResetError):
                silent.recv(1)
        assert status_from(server, "127.0.1.7") == status_from(server, "127.0.1.99") == 0
        assert status_from(server, "127.0.2.7") == 101
        assert await alice.request("ping", {}) != []
        counted = figures(server)
        assert counted["fastim_hub_blocked_peers_total"] == 2
        assert counted["fastim_bans_addresses"] == 1
        assert counted["fastim_bans_closed_connections_total"] == 2


def test_address_when_banned_then_it_does_not_come_in_again_over_the_transport_that_it_has(
    start: Start,
) -> None:
    """A namespace ends alone, and its client may enter it again: here that must not be."""
    server = start(**NOBODY_ALLOWED)
    received = b""
    with open_from(server, "127.0.1.7") as client:

        def wait_for(mark: bytes) -> None:
            nonlocal received
            while mark not in received:
                part = client.recv(65536)
                assert part, received
                received += part

        client.sendall(upgrade_head(path="/socket.io/?EIO=4&transport=websocket"))
        wait_for(b'0{"sid":')
        client.sendall(frame(Opcode.TEXT, b'40{"token":"%b"}' % server.token("mallory").encode()))
        wait_for(b'40{"sid":')
        assert ban(server, address="127.0.1.7", reason="spam")["closed"] == 1
        wait_for(struct.pack("!H", 4003) + b"spam")
        assert b'42["forced_disconnect",{"reason":"spam"}]' in received


async def test_user_when_banned_then_live_connections_end_and_no_token_lets_in(start: Start) -> None:
    """A kick that only the next handshake sees leaves the old device where it is."""
    server = start()
    async with (
        open_client(server, "mallory") as one,
        open_client(server, "mallory", binary=True) as two,
        open_client(server, "alice") as alice,
    ):
        assert (await asyncio.to_thread(ban, server, user="mallory", reason="rude", for_s=600))["closed"] == 2
        for client in (one, two):
            assert await client.receive_event("forced_disconnect") == {"reason": "rude"}
            assert (await client.closed())[0] == 4003
        assert await alice.request("ping", {}) != []
    bearer = f"Authorization: Bearer {server.token('mallory')}"
    answer = answer_from(server, "127.0.0.1", upgrade_head(bearer))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"rude" in answer
    async with open_client(server) as late:
        event, error = await late.request("hello", {"token": server.token("mallory")})
        assert (event, error["code"]) == ("error", "forbidden")
        assert await late.receive_event("forced_disconnect") == {"reason": "rude"}
        assert await late.closed() == (4003, "rude")


async def test_ban_when_the_server_starts_again_then_it_holds_until_its_end_or_taken_back(
    start: Start,
) -> None:
    server = start(**NOBODY_ALLOWED)
    ban(server, address="127.0.1.7", reason="for ever")
    ban(server, address="127.0.2.0/24", for_s=3600)
    ban(server, user="mallory")
    ban(server, address="127.0.3.7", for_s=0.001)
    assert server.stop() == 0
    server = start(**NOBODY_ALLOWED)
    assert status_from(server, "127.0.1.7") == status_from(server, "127.0.2.9") == 0
    assert status_from(server, "127.0.3.7") == 101
    with rest(server) as client:
        listed = client.get("/v1/bans").json()
        assert [item.get("address") or item["user"] for item in listed["bans"]] == [
            "127.0.1.7/32", "127.0.2.0/24", "mallory",
        ]  # fmt: skip
        assert [item["until"] is None for item in listed["bans"]] == [True, False, True]
        assert not listed["more"]
        assert client.get("/v1/bans", params={"limit": 1, "offset": 1}).json() == {
            "bans": listed["bans"][1:2],
            "more": True,
        }
        for params in ({"address": "127.0.1.7"}, {"address": "127.0.2.77/24"}, {"user": "mallory"}):
            assert client.delete("/v1/bans", params=params).status_code == 204
            assert client.delete("/v1/bans", params=params).status_code == 404
    assert status_from(server, "127.0.1.7") == status_from(server, "127.0.2.9") == 101


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({}, 422, "an address or a user"),
        ({"address": "192.0.2.1", "user": "ann"}, 422, "an address or a user"),
        ({"address": "192.0.2.1/33"}, 400, "192.0.2.1/33"),
        ({"address": "host"}, 400, "address: 'host' is no address"),
        ({"user": "a\nb"}, 400, "user: "),
        ({"address": "192.0.2.1", "for_s": -1}, 422, "for_s"),
        ({"address": "192.0.2.1", "reason": "x" * 121}, 422, "reason"),
        ({"address": "192.0.2.1", "until": 5}, 422, "until"),
        ({"address": "127.3.0.0/16"}, 409, "allow list"),
    ],
)
def test_endpoint_when_the_body_is_bad_then_a_problem_names_what(
    shared: ServerProcess, body: dict[str, Any], status: int, what: str
) -> None:
    with rest(shared) as client:
        answer = client.post("/v1/bans", json=body)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert what in answer.json()["detail"]
        assert client.get("/v1/bans").json() == {"bans": [], "more": False}


def test_endpoints_when_without_the_key_then_401(shared: ServerProcess) -> None:
    with httpx.Client(base_url=shared.http, trust_env=False) as client:
        assert client.get("/v1/bans").status_code == 401
        assert client.post("/v1/bans", json={"user": "ann"}).status_code == 401
        assert client.delete("/v1/bans", params={"user": "ann"}).status_code == 401


async def test_commands_when_a_server_runs_then_they_change_it(start: Start) -> None:
    server = start(**NOBODY_ALLOWED)
    data = ("--data", str(server.data))
    async with open_client(server, "mallory") as mallory:
        done = await asyncio.to_thread(
            run_fastim, "ban", "--user", "mallory", "--for", "1h", "--reason", "rude", *data
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("banned user mallory until ")
        assert done.stdout.endswith("(operator): rude; 1 connection closed\n")
        assert (await mallory.closed())[0] == 4003
    assert run_fastim("ban", "127.0.1.77/24", *data).stdout.startswith("banned 127.0.1.0/24 for ever")
    listed = run_fastim("bans", *data).stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["user", "127.0.1.0/24"]
    assert run_fastim("unban", "127.0.1.0/24", *data).returncode == 0
    again = run_fastim("unban", "127.0.1.0/24", *data)
    assert (again.returncode, again.stderr) == (1, "fastim: there is no ban of address 127.0.1.0/24\n")
    assert status_from(server, "127.0.1.7") == 101


def test_commands_when_used_wrongly_then_one_line_says_how(start: Start) -> None:
    server = start()
    data = ("--data", str(server.data))
    for arguments, status, what in [
        (("ban",), 2, "name an address"),
        (("ban", "192.0.2.1", "--user", "ann"), 2, "name an address"),
        (("ban", "192.0.2.1", "--for", "soon"), 2, "is no duration"),
        (("ban", "nowhere"), 1, "is no address"),
        (("ban", "127.0.0.1"), 1, "allow list"),
    ]:
        done = run_fastim(*arguments, *data)
        assert (done.returncode, done.stdout) == (status, "")
        assert what in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert server.stop() == 0
    gone = run_fastim("bans", *data)
    assert (gone.returncode, "no server answers at" in gone.stderr) == (2, True)


# -- bans that come by themselves


def test_address_when_its_tokens_are_bad_again_and_again_then_banned_for_the_time(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_BANS__ADDRESS_OFFENCES="5", FASTIM_BANS__ADDRESS_S="2")
    assert [status_from(server, "127.0.1.7", BAD) for _ in range(5)] == [401] * 5
    banned_s = time.monotonic()
    assert status_from(server, "127.0.1.7") == 0
    assert status_from(server, "127.0.1.8", BAD) == 401
    with rest(server) as client:
        [record] = client.get("/v1/bans").json()["bans"]
    assert (record["address"], record["source"]) == ("127.0.1.7/32", "automatic")
    wait_until(lambda: status_from(server, "127.0.1.7") == 101, "the ban's end")
    assert time.monotonic() - banned_s > 1


def test_address_when_bad_tokens_come_in_hellos_or_bytes_make_no_sense_then_banned(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_BANS__ADDRESS_OFFENCES="6")
    with open_from(server, "127.0.1.7") as client:
        client.sendall(upgrade_head())
        assert b" 101 " in client.recv(4096)
        for _ in range(2):
            client.sendall(masked_text("hello", {"token": "x.y.z"}, 1))
        client.sendall(b"\x81\x83" + bytes(4) + b"%%%")  # no packet
        client.sendall(b"\x81\x01x")  # no frame of a client: not masked
        read_all(client)
    answer_from(server, "127.0.1.7", b"GET /ws HTTP/1.1\r\nbad field\r\n\r\n")
    assert status_from(server, "127.0.1.7", BAD) == 401
    assert status_from(server, "127.0.1.7") == 0


async def test_address_when_banned_by_itself_then_those_stay_who_have_shown_who_they_are(
    start: Start,
) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_BANS__ADDRESS_OFFENCES="3")
    async with (
        open_client(server, "alice", local_addr=("127.0.1.7", 0)) as alice,
        open_client(server, local_addr=("127.0.1.7", 0)) as unknown,
    ):
        assert [status_from(server, "127.0.1.7", BAD) for _ in range(3)] == [401] * 3
        assert (await unknown.closed())[0] == 4003
        assert (await alice.request("ping", {}))[0] == "ok"


def test_allowed_address_when_its_tokens_are_bad_then_never_banned(start: Start) -> None:
    server = start(FASTIM_BANS__ADDRESS_OFFENCES="1")
    assert [status_from(server, "127.0.0.1", BAD) for _ in range(20)] == [401] * 20
    assert figures(server)["fastim_admission_bans"] == 0


async def test_user_when_packets_are_refused_again_and_again_then_banned(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_BANS__USER_VIOLATIONS="5")
    async with open_client(server, "mallory") as mallory, open_client(server, "alice") as alice:
        for _ in range(4):
            await mallory.socket.send("no packet")
        assert (await mallory.request("ping", {}))[0] == "ok"
        await mallory.socket.send("no packet")
        reason = (await mallory.receive_event("forced_disconnect"))["reason"]
        assert reason == "too many packets that were refused"
        assert (await mallory.closed())[0] == 4003
        assert (await alice.request("ping", {}))[0] == "ok"
    bearer = f"Authorization: Bearer {server.token('mallory')}"
    assert status_from(server, "127.0.9.9", bearer) == 403


def test_keys_when_wrong_again_and_again_then_the_address_is_banned(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_BANS__ADDRESS_OFFENCES="3")
    head = http_head("/v1/bans", "X-API-Key: guess")
    assert [answer_from(server, "127.0.1.7", head)[9:12] for _ in range(4)] == [b"401"] * 3 + [b""]
