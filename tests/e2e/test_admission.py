"""Admission on the running server: who is let in, in which order, and what a refusal costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import threading
from collections import Counter

import pytest

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
from tests.e2e.serving import Start, open_client, read_all, wait_until

PROXY = "127.0.9.1"
BEHIND_PROXY = {**NOBODY_ALLOWED, "FASTIM_SERVER__TRUSTED_PROXIES": "127.0.9.0/24"}
BAD = "Authorization: Bearer x.y.z"


def test_forwarded_address_when_a_client_says_loopback_then_its_own_counts(start: Start) -> None:
    """The whole header taken for the address: a client that sends 127.0.0.1 walks past every ban."""
    server = start(
        FASTIM_SERVER__TRUSTED_PROXIES="127.0.9.0/24",
        FASTIM_BANS__ALLOW="127.0.0.1",
        FASTIM_BANS__ADDRESS_OFFENCES="3",
    )
    forged = "X-Forwarded-For: 127.0.0.1"
    assert [status_from(server, "127.0.1.7", forged, BAD) for _ in range(3)] == [401] * 3
    assert status_from(server, "127.0.1.7", forged) == 0
    behind = "X-Forwarded-For: 127.0.0.1, 203.0.113.7"
    assert [status_from(server, PROXY, behind, BAD) for _ in range(3)] == [401] * 3
    assert status_from(server, PROXY, behind) == 403
    assert status_from(server, PROXY, "X-Forwarded-For: 203.0.113.8") == 101
    assert status_from(server, PROXY, "X-Forwarded-For: nonsense") == 101


def test_clients_when_behind_a_proxy_then_each_has_its_own_limits_and_bans(start: Start) -> None:
    """Behind a proxy no ban matches, or all share one limit: the proxy's address is taken for theirs."""
    server = start(**BEHIND_PROXY, FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="2")
    for client in ("203.0.113.7", "2001:db8::7"):
        header = f"X-Forwarded-For: {client}"
        assert [status_from(server, PROXY, header) for _ in range(3)] == [101, 101, 429]
    head = http_head("/v1/bans?user=x", "X-Forwarded-For: 203.0.113.9", f"X-API-Key: {server.api_key}")
    assert answer_from(server, PROXY, head).startswith(b"HTTP/1.1 200 ")
    assert "203.0.113.9 GET '/v1/bans' 200" in server.log()


def test_connects_when_one_address_hammers_then_others_come_in(start: Start) -> None:
    """A limiter that ignores its key: one attacker's connects lock everyone out."""
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="5")
    assert [status_from(server, "127.0.1.7") for _ in range(20)] == [101] * 5 + [429] * 15
    assert status_from(server, "127.0.1.8") == 101
    assert figures(server)["fastim_admission_refused_address_limit_total"] == 15


def test_connects_when_tokens_are_good_then_an_office_behind_one_address_gets_in(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="2")
    good = f"Authorization: Bearer {server.token('ann')}"
    assert [status_from(server, "127.0.1.7", good) for _ in range(10)] == [101] * 10


async def test_hellos_when_tokens_are_good_then_an_office_behind_one_address_gets_in(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="2")
    for number in range(6):
        async with open_client(server, f"user{number}", local_addr=("127.0.1.7", 0)):
            pass
    assert [status_from(server, "127.0.1.7") for _ in range(3)] == [101, 101, 429]


async def test_connects_when_they_resume_a_session_then_they_do_not_count(start: Start) -> None:
    server = start(FASTIM_LIMITS__CONNECTS_PER_MINUTE="3")
    async with open_client(server, "ann", hello={"device": "d"}) as client:
        session = client.ok["session"]
    for _ in range(6):
        hello = {"device": "d", "resume": {"session": session, "seen": {}}}
        async with open_client(server, "ann", hello=hello) as client:
            assert client.ok["resumed"]
    assert [status_from(server, "127.0.0.1") for _ in range(3)] == [101, 101, 503]


def test_refused_client_when_its_head_is_answered_then_it_holds_no_socket(start: Start) -> None:
    """Checks after the upgrade: a blocked client holds its socket for 45 s."""
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="1")
    assert status_from(server, "127.0.1.7") == 101
    for lines in ((), (BAD,)):
        with open_from(server, "127.0.1.7") as client:
            client.sendall(upgrade_head(*lines))
            assert read_all(client).startswith(b"HTTP/1.1 429 ")  # to its end
    wait_until(lambda: figures(server)["fastim_hub_connections"] == 0, "all are gone")


def test_silent_connections_when_one_address_has_many_then_429_for_it_alone(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__PENDING_CONNECTIONS_PER_ADDRESS="3")
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(open_from(server, "127.0.1.7"))
        wait_until(lambda: figures(server)["fastim_hub_pending"] >= 3, "they are accepted")
        assert answer_from(server, "127.0.1.7", b"").startswith(b"HTTP/1.1 429 ")
        assert status_from(server, "127.0.1.8") == 101
    wait_until(lambda: status_from(server, "127.0.1.7") == 101, "their places are free")


def test_hellos_when_too_many_or_too_large_then_4011(start: Start) -> None:
    server = start(**NOBODY_ALLOWED, FASTIM_LIMITS__HELLO_PACKETS="5", FASTIM_LIMITS__HELLO_BYTES="4096")
    ping = masked_text("ping", {}, 1)
    batch = masked_text(*[["ping", {}, number] for number in range(1, 9)])
    for flood in (ping * 6, batch, masked_text("hello", {"token": "x" * 5000}, 1)):
        with open_from(server, "127.0.1.7") as client:
            client.sendall(upgrade_head())
            assert b" 101 " in client.recv(4096)
            client.sendall(flood)
            received = read_all(client)
            assert b"\x0f\xab" + b"too much before hello" in received
    assert figures(server)["fastim_admission_offences_total"] == 3


async def test_client_when_it_floods_then_it_is_read_at_its_rate_and_others_at_once(start: Start) -> None:
    server = start("tests.e2e.application:app", FASTIM_LIMITS__PACKETS_PER_SECOND="100")
    async with open_client(server, "flooder") as flooder, open_client(server, "other") as other:
        for number in range(1, 301):
            await flooder.send("echo", number, number)
        assert await other.request("echo", 1) == ["ok", 1]
        assert [(await flooder.receive())[2] for _ in range(300)] == list(range(1, 301))
    assert (await asyncio.to_thread(figures, server))["fastim_hub_throttled_total"] > 0


@pytest.mark.parametrize("path", ["/healthz", "/v1/bans"])
def test_http_when_the_address_behind_the_proxy_is_banned_then_403(start: Start, path: str) -> None:
    server = start(**BEHIND_PROXY, FASTIM_BANS__ADDRESS_OFFENCES="1")
    banned = "X-Forwarded-For: 203.0.113.7"
    assert status_from(server, PROXY, banned, BAD) == 401
    assert answer_from(server, PROXY, http_head(path, banned)).startswith(b"HTTP/1.1 403 ")
    assert not answer_from(server, PROXY, http_head(path)).startswith(b"HTTP/1.1 403 ")


def test_accepts_when_descriptors_are_exhausted_then_they_pause_and_the_server_stays(start: Start) -> None:
    server = start()
    assert status_from(server, "127.0.0.1") == 101
    pid = server.process.pid
    room = len(os.listdir(f"/proc/{pid}/fd")) + 20
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (room, room))
    with contextlib.ExitStack() as stack:
        for _ in range(60):  # more than there is room for: the rest waits in the kernel
            stack.enter_context(open_from(server, "127.0.0.1"))
        wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= room, "no descriptor is left")
        assert server.process.poll() is None
    wait_until(lambda: status_from(server, "127.0.0.1") == 101, "it serves again")
    assert "Traceback" not in server.log()


async def test_chat_when_50_addresses_try_wrong_tokens_then_it_goes_on_and_they_are_banned(
    start: Start,
) -> None:
    """Some thousand wrong tokens a second, as fast as one thread can show them."""
    server = start(
        **NOBODY_ALLOWED,
        FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0",
        FASTIM_BANS__ADDRESS_OFFENCES="20",
    )
    addresses = [f"127.0.1.{number}" for number in range(1, 51)]
    stopping = threading.Event()
    answered: Counter[int] = Counter()

    def attack() -> None:
        while not stopping.is_set():
            for address in addresses:
                answered[status_from(server, address, BAD)] += 1

    attacker = threading.Thread(target=attack, daemon=True)
    async with open_client(server, "alice") as alice, open_client(server, "bob") as bob:
        event, body = await alice.request("conversation_create", {"kind": "group", "members": ["bob"]})
        assert event == "ok"
        conversation = body["conversation"]
        attacker.start()
        try:
            number = 0
            while (await asyncio.to_thread(figures, server))["fastim_bans_addresses"] < 50:
                for _ in range(10):
                    number += 1
                    event, _ = await alice.request(
                        "message", {"conversation": conversation, "content": str(number)}
                    )
                    assert event == "ok"
                    assert (await bob.receive_event("new_message"))["content"] == str(number)
            before = answered[0]
            await asyncio.to_thread(wait_until, lambda: answered[0] > before + 500, "refused at accept")
            assert (await alice.request("ping", {}))[0] == "ok"
        finally:
            stopping.set()
            await asyncio.to_thread(attacker.join, 20)
    assert answered[401] >= 50 * 20
    assert set(answered) <= {0, 401}
    assert figures(server)["fastim_hub_blocked_peers_total"] >= answered[0] > 500
