"""Migration between two servers of the same secret and store: nothing lost, and a ticket is good once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import InvalidStatus

from fastim import client
from fastim.client.connection import Connection as ClientConnection
from fastim.guard.revocations import Revocation, RevocationKind
from fastim.guard.tickets import LIFE_MS, Ticket, Tickets
from fastim.guard.tokens import issue
from fastim.server.connection import Connection
from fastim.server.process.run import Server
from fastim.server.settings import load_settings
from fastim.store.sqlite import SQLiteStore
from tests.support.shared_store import SharedStore

SECRET = "the secret that both servers have, 32 bytes"


class Pair:
    """Two servers, here in one process, over one store."""

    def __init__(self, folder: Path) -> None:
        self.shared = SharedStore(SQLiteStore(folder / "shared.db", synchronous="normal"))
        self.a, self.b = (self._make(folder / name) for name in "ab")

    def _make(self, data: Path) -> Server:
        data.mkdir()
        flags = {"server.port": 0, "server.data": str(data), "auth.secret": SECRET}
        return Server(load_settings(flags=flags), None, store=self.shared.door())

    @staticmethod
    def connection(server: Server, user: str) -> Connection:
        """The server's side of a user's one connection."""
        (found,) = [c for c in server.service.connections if c.user_id == user]
        return found


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    pair = Pair(tmp_path)
    await pair.a.start()
    await pair.b.start()
    yield pair
    for server in (pair.a, pair.b):
        server.drain.ask_quick()
        await server.stop()


def token(user: str, **claims: Any) -> str:
    return issue(SECRET.encode(), user, **claims)


class Raw:
    """A connection that does only what a test says."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket

    async def hello(self, text: str, **fields: Any) -> Any:
        """Say hello and return the body of the answer."""
        await self.socket.send(json.dumps(["hello", {"token": text, **fields}, 1]))
        while True:
            packet = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
            if packet[2:] == [1]:
                return packet[1]

    async def event(self, name: str) -> Any:
        while True:
            packet = json.loads(await asyncio.wait_for(self.socket.recv(), 10))
            if packet[0] == name:
                return packet[1]


@contextlib.asynccontextmanager
async def raw(server: Server, **options: Any) -> AsyncIterator[Raw]:
    url = server.url.replace("http", "ws", 1) + "/ws"
    async with connect_socket(url, proxy=None, subprotocols=["fastim.v1.json"], **options) as socket:
        yield Raw(socket)


async def ticket_for(pair: Pair, user: str = "ann", **fields: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Come in at the first server; return the ok and what ``migrate`` said."""
    async with raw(pair.a) as peer:
        ok = await peer.hello(token(user), **fields)
        assert pair.a.migration.offer(pair.connection(pair.a, user), pair.b.url, 5)
        return ok, await peer.event("migrate")


async def is_refused(server: Server, text: str, **hello: Any) -> str:
    """Say hello with a text that must not be taken; return the message."""
    async with raw(server) as peer:
        answer = await peer.hello(text, **hello)
        assert answer.get("code") == "unauthorized", answer
        return str(answer["message"])


# -- a client that moves


async def test_client_when_told_to_migrate_then_goes_on_there_with_its_session_and_nothing_lost(
    pair: Pair,
) -> None:
    async with (
        client.connect(pair.a.url, token=lambda: token("ann")) as ann,
        client.connect(pair.a.url, token=lambda: token("bob"), device="phone", acks=True) as bob,
    ):
        room = str((await ann.create_conversation(["bob"]))["conversation"])
        session = bob.welcome.session if bob.welcome else ""
        got: list[int] = []

        async def read() -> None:
            while len(got) < 90:
                event = await bob.receive(10)
                if event.name == "new_message":
                    got.append(event.body["seq"])

        async def write() -> None:
            for burst in range(9):
                await asyncio.gather(*(ann.send(room, str(number)) for number in range(10)))
                if burst == 3:
                    assert pair.a.migration.offer(pair.connection(pair.a, "bob"), pair.b.url)

        await asyncio.gather(read(), write())
        assert got == list(range(1, 91))
        assert bob.welcome is not None
        assert (bob.welcome.session, bob.welcome.resumed, bob.welcome.device) == (session, True, "phone")
        assert bob.welcome.node == pair.b.service.options.node
        assert [c.user_id for c in pair.b.service.connections] == ["bob"]
        sent = await bob.send(room, "from there")
        assert sent.seq == 91


async def test_client_when_asked_something_while_it_moves_then_it_is_answered(pair: Pair) -> None:
    async with client.connect(pair.a.url, token=lambda: token("ann")) as ann:
        room = str((await ann.create_conversation())["conversation"])
        sends = [asyncio.create_task(ann.send(room, str(number))) for number in range(50)]
        await asyncio.sleep(0)
        assert pair.a.migration.offer(pair.connection(pair.a, "ann"), pair.b.url)
        sends += [asyncio.create_task(ann.send(room, str(number))) for number in range(50)]
        answers = await asyncio.gather(*sends)
        assert sorted(sent.seq for sent in answers) == list(range(1, 101))
        await until_at(ann, pair.b)


async def until_at(connection: ClientConnection, server: Server) -> None:
    while connection.welcome is None or connection.welcome.node != server.service.options.node:
        await asyncio.wait_for(connection.receive(), 10)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/ws", None])
async def test_client_when_the_other_server_or_its_ticket_is_no_good_then_back_with_its_token(
    pair: Pair, url: str | None
) -> None:
    async with client.connect(
        pair.a.url, token=lambda: token("ann"), backoff_base_s=0.01, backoff_cap_s=0.01
    ) as ann:
        connection = pair.connection(pair.a, "ann")
        before = ann.welcome
        if url is None:  # the ticket is used up by somebody else before the client comes
            body = {"token": "fastim-ticket.x.y", "expires_at": 0, "retry_after_ms": 0, "url": pair.b.url}
            connection.send_event("migrate", body)
        else:
            assert pair.a.migration.offer(connection, url)
        while (event := await ann.receive(10)).name != "fastim.connected":
            assert event.name in ("migrate", "fastim.disconnected")
            assert "token" not in event.body
        assert ann.welcome is not None
        assert before is not None
        assert ann.welcome.resumed
        assert (ann.welcome.session, ann.welcome.node) == (before.session, before.node)


# -- what a ticket is good for


async def test_ticket_when_used_twice_then_refused_at_either_server(pair: Pair) -> None:
    ok, told = await ticket_for(pair, device="phone")
    assert told["url"] == pair.b.url
    assert told["retry_after_ms"] == 5
    assert 0 < told["expires_at"] - time.time() * 1000 <= LIFE_MS
    resume = {"session": ok["session"]}
    async with raw(pair.b) as peer:
        again = await peer.hello(told["token"], resume=resume)
        assert (again["resumed"], again["session"], again["device"], again["user"]) == (
            True,
            ok["session"],
            "phone",
            "ann",
        )
    for server in (pair.a, pair.b):
        offences = server.front.admission.stats()["offences_total"]
        assert "used before" in await is_refused(server, told["token"], resume=resume)
        assert server.front.admission.stats()["offences_total"] == offences + 1


async def test_ticket_when_shown_by_many_at_once_then_one_gets_in(pair: Pair) -> None:
    ok, told = await ticket_for(pair)
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw(server)) for server in (pair.a, pair.b) * 5]
        hellos = [peer.hello(told["token"], resume={"session": ok["session"]}) for peer in peers]
        answers = await asyncio.gather(*hellos)
    assert sum("session" in answer for answer in answers) == 1


async def test_ticket_when_for_another_session_or_device_then_refused_and_still_good(pair: Pair) -> None:
    ok, told = await ticket_for(pair, device="phone")
    other, _ = await ticket_for(pair, "bob")
    assert "session" in await is_refused(pair.b, told["token"])
    assert "session" in await is_refused(pair.b, told["token"], resume={"session": other["session"]})
    wrong_device = {"device": "desktop", "resume": {"session": ok["session"]}}
    assert "device" in await is_refused(pair.b, told["token"], **wrong_device)
    async with raw(pair.b) as peer:
        assert (await peer.hello(told["token"], resume={"session": ok["session"]}))["resumed"] is True


async def test_ticket_when_forged_or_unsigned_or_expired_then_refused(pair: Pair) -> None:
    """An unsigned ticket of a random id, bound to nothing and good for ever, is none."""
    ok, told = await ticket_for(pair)
    resume = {"session": ok["session"]}
    text = told["token"]
    head, payload, signature = text.split(".")
    swapped = "A" if payload[20] != "A" else "B"
    for forged in (
        f"{head}.{payload}.",
        f"{head}.{payload}",
        f"{head}.{payload[:20]}{swapped}{payload[21:]}.{signature}",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}.{'A' * len(signature)}",
        f"{head}..",
        head + ".",
    ):
        assert "token refused" in await is_refused(pair.b, forged, resume=resume)
    mine = Tickets([SECRET.encode()])
    ticket = mine.open(text, 0)
    foreign = Tickets([b"another secret of another server, 32 bytes"]).sign(ticket)
    expired = mine.sign(
        Ticket(**{name: getattr(ticket, name) for name in ticket.__struct_fields__} | {"expires": 1})
    )
    assert foreign is not None
    assert expired is not None
    assert "signature" in await is_refused(pair.b, foreign, resume=resume)
    assert "expired" in await is_refused(pair.b, expired, resume=resume)


async def test_ticket_when_shown_as_a_token_then_refused_and_no_token_is_a_ticket(pair: Pair) -> None:
    ok, told = await ticket_for(pair)
    with pytest.raises(InvalidStatus) as refused:
        async with raw(pair.b, additional_headers={"Authorization": f"Bearer {told['token']}"}):
            pass
    assert refused.value.response.status_code == 401
    disguised = "fastim-ticket." + token("ann").split(".", 1)[1]
    assert "signature" in await is_refused(pair.b, disguised, resume={"session": ok["session"]})
    async with raw(pair.b) as peer:
        await peer.hello(token("ann"))
        await peer.socket.send(json.dumps(["refresh", {"token": told["token"]}, 2]))
        while (packet := json.loads(await peer.socket.recv()))[2:] != [2]:
            pass
        assert packet[1]["code"] == "unauthorized"


async def test_ticket_when_its_token_is_revoked_then_refused(pair: Pair) -> None:
    async with raw(pair.a) as peer:
        ok = await peer.hello(token("ann", jti="j"))
        assert pair.a.migration.offer(pair.connection(pair.a, "ann"))
        told = await peer.event("migrate")
        assert "url" not in told
    await pair.b.revoker.revoke(Revocation(RevocationKind.TOKEN, "j", "", 0, 2**50, "", 0))
    async with raw(pair.b) as peer:
        answer = await peer.hello(told["token"], resume={"session": ok["session"]})
        assert answer["code"] == "unauthorized"
        await asyncio.wait_for(peer.socket.wait_closed(), 10)
        assert peer.socket.close_code == 4001


async def test_session_when_moved_then_presence_and_rights_move_with_it(pair: Pair) -> None:
    async with raw(pair.a) as peer:
        claims = {"scope": ["name_conversations"], "tier": "critical", "device_class": "mobile"}
        ok = await peer.hello(token("ann", **claims))
        await peer.socket.send(json.dumps(["presence", {"status": "busy", "metadata": {"in": "talk"}}, 2]))
        assert await peer.event("ok") == {}
        assert pair.a.migration.offer(pair.connection(pair.a, "ann"))
        told = await peer.event("migrate")
    async with raw(pair.b) as peer:
        again = await peer.hello(told["token"], resume={"session": ok["session"]})
        assert (again["resumed"], again["tier"]) == (True, "critical")
        moved = pair.connection(pair.b, "ann")
        assert (moved.device_class, moved.scope) == ("mobile", frozenset({"name_conversations"}))
        assert moved.status == 3
        assert json.loads(moved.metadata.data) == {"in": "talk"}
