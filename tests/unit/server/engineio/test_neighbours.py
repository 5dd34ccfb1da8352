"""Sessions of Engine.IO where the rest of the server acts on them: the drain, bans, limits of connects."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastim._core.addresses import AddressRanges
from fastim._core.hub import Encoding
from fastim.errors import CloseCode
from fastim.guard.admission import Admission, AutoBans
from fastim.guard.blocklist import ADDRESS, BlockList
from fastim.guard.limits import ConnectLimiter
from fastim.guard.proxies import TrustedProxies
from fastim.server.connection import Connection, Phase
from fastim.server.entrance.bans import Bans
from fastim.server.front.handover import HandOver, HandOverOptions
from fastim.server.process.drain import Drain, DrainOptions
from tests.unit.server.engineio.engine_world import ADDRESS as PEER
from tests.unit.server.engineio.engine_world import Client, EngineWorld, WebSocket, serving
from tests.unit.server.engineio.test_polling import body
from tests.unit.server.fed_service import NS_PER_S


def make_drain(world: EngineWorld, clients: list[Client], sockets: list[WebSocket]) -> Drain:
    """Make a drain whose sleeping moves the clock; the clients take what they are sent meanwhile."""
    service = world.world.service
    http = HandOver(
        service.loop,
        lambda: None,
        lambda: None,  # type: ignore[arg-type,return-value]
        service.spawn,
        lambda path: False,
        HandOverOptions(),
    )

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(0)
        world.world.ns += int(seconds * NS_PER_S)
        for client in clients:
            if (answer := client.getting.answer()) is not None:
                client.answers.append(answer)
        for socket in sockets:
            socket.turn()

    drain = Drain(service, world.world.messaging, world.world.store, http, DrainOptions(), sleep=sleep)
    drain.others = world.endpoints.alone
    service.drain = drain
    return drain


async def test_drain_closes_sessions_in_their_turns_and_tells_open_polls(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        clients = [world.polling() for _ in range(10)]
        sockets = [world.websocket() for _ in range(10)]
        assert [client.get() for client in clients] == [None] * 10
        drain = make_drain(world, clients, sockets)
        assert drain.ask(4.0).connections == 20
        begin_ns = world.world.ns
        ended_ns: list[int] = []
        closed = world.echo.closed

        def note(*arguments: object) -> None:
            ended_ns.append(world.world.ns)
            closed(*arguments)  # type: ignore[arg-type]

        world.echo.closed = note  # type: ignore[method-assign]
        await drain.run(lambda: None)
        world.turn()

        assert [[body(answer) for answer in client.answers] for client in clients] == [[b"1"]] * 10
        assert {socket.close_code for socket in sockets} == {CloseCode.DRAINING}
        assert {code for _, code in world.echo.closed_with} == {CloseCode.DRAINING}
        assert len(ended_ns) == 20
        assert len(set(ended_ns)) > 10  # not all at once
        assert max(ended_ns) - begin_ns > 3 * NS_PER_S
        assert (drain.stats()["closed_total"], drain.stats()["left"]) == (20, 0)


async def test_drain_without_a_window_ends_all_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client, socket = world.polling(), world.websocket()
        assert client.get() is None
        drain = make_drain(world, [client], [socket])
        drain.ask(0)
        await drain.run(lambda: None)

        assert [body(answer) for answer in client.answers] == [b"1"]
        assert socket.close_code == CloseCode.DRAINING


async def test_ban_of_an_address_ends_its_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        blocklist = BlockList(AddressRanges())
        bans = Bans(world.world.service, blocklist, world.world.store, lambda: 0)
        client, _ = world.polling(), world.websocket()
        assert client.get() is None
        await bans.ban(ADDRESS, PEER, 0, "")
        world.turn()

        assert {code for _, code in world.echo.closed_with} == {CloseCode.ABNORMAL}
        assert not world.engine.sessions
        assert not world.world.service.bridges


async def test_ban_for_what_strangers_did_leaves_the_polls_of_the_known_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        blocklist = BlockList(AddressRanges())
        bans = Bans(world.world.service, blocklist, world.world.store, lambda: 0)
        client = world.polling()
        assert client.get() is None
        socket = Connection(world.world.service.hub, 0, Encoding.JSON)
        socket.phase = Phase.READY
        assert world.world.service.hub.open_channel(world.echo.sessions[0].handle, b"/", socket)
        bans.ban_automatically(ADDRESS, PEER, 60, "counted")
        await world.world.turns()

        assert world.echo.closed_with == []
        world.echo.sessions[0].send(b"here", False)
        assert body(client.getting.answer()) == b"4here"


async def test_handshakes_count_as_connects_and_other_requests_do_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.world.front.admission = Admission(BlockList(AddressRanges()), ConnectLimiter(0, 3))
        client = world.polling()
        for _ in range(10):
            client.send(b"4x")
            assert body(client.get()) == b"4x"
        socket = world.websocket(client.sid)  # it is there already
        assert socket.is_open
        world.polling()
        world.websocket()

        answer = world.http().ask("GET")
        assert answer is not None
        assert answer.status == 429
        assert int(answer.fields["retry-after"]) > 0
        assert not world.websocket().is_open


async def test_strangers_bad_packets_speak_against_their_address(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        banned: list[str] = []
        world.world.front.admission = Admission(
            BlockList(AddressRanges()),
            ConnectLimiter(0, 0),
            TrustedProxies(()),
            AutoBans(offences=4),
            lambda kind, subject, seconds, reason: banned.append(subject),
        )
        world.echo.lets_in = False
        for _ in range(2):
            world.polling().post(b"nonsense")
            world.websocket().send("nonsense")
            world.turn()
        assert banned == [PEER]


async def test_known_clients_bad_packets_do_not(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        client = world.polling()
        client.post(b"nonsense")
        world.turn()
        assert world.world.front.admission.stats()["offences_total"] == 0
