"""Hello, timers and dispatch, with a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from fastim._core.addresses import AddressRanges
from fastim.errors import CloseCode, ErrorCode, RequestError, TurnedAway
from fastim.guard.admission import Admission, AutoBans
from fastim.guard.blocklist import BlockList
from fastim.guard.limits import ConnectLimiter
from fastim.guard.tiers import TierPolicy
from fastim.guard.tokens import Claims, issue
from fastim.server.application.app import Context, FastIM
from fastim.server.connection import Connection
from fastim.server.front.front import Front, FrontOptions
from fastim.server.heartbeat import HeartbeatOptions
from tests.unit.server.fed_service import SECRET, Peer, running


async def test_hello_when_not_in_time_then_4014(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        world.pass_time(4.9)
        assert peer.close_code is None
        peer.send("hello", {"token": "bad"}, 1)  # a bad one does not count
        world.pass_time(0.2)
        assert peer.close_code == 4014
        assert not world.service.connections


async def test_hello_when_in_time_then_the_deadline_is_off(tmp_path: Path) -> None:
    async with running(tmp_path, heartbeat=HeartbeatOptions(interval_ns=0)) as world:
        peer = Peer(world)
        ok = await peer.hello()
        assert ok["heartbeat_ms"] == 0
        world.pass_time(60)
        assert peer.close_code is None


async def test_connection_when_silent_then_pinged_and_closed_if_it_stays_so(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        await peer.hello()
        world.pass_time(29)
        peer.turn()
        assert peer.pings == 0
        world.pass_time(1.1)
        peer.turn()  # the ping comes, the pong goes
        assert peer.pings == 1
        peer.answers_pings = False
        world.pass_time(30.1)
        peer.turn()
        assert peer.pings == 2
        world.pass_time(34)  # missed after 10 s, the next comes 15 s after it, the last 10 s after that
        assert peer.close_code is None
        assert peer.pings == 4
        world.pass_time(2)
        assert peer.close_code == 4009
        assert peer.pings == 4


async def test_connection_when_it_talks_then_pinged_once_in_the_longest_interval(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        await peer.hello()
        for _ in range(5):
            world.pass_time(20)
            peer.send("ping", {}, 2)
        assert peer.pings == 1


async def test_connection_when_in_the_background_then_pinged_seldom_until_it_is_back(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        await peer.hello()
        peer.send("presence", {"status": "away"}, 2)
        world.pass_time(59)
        peer.turn()
        assert peer.pings == 0
        world.pass_time(1.2)
        peer.turn()
        assert peer.pings == 1
        peer.send("presence", {"status": "online"}, 3)
        world.pass_time(31)
        peer.turn()
        assert peer.pings == 2


async def test_heartbeat_when_the_tier_names_another_interval_then_kept(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        token = issue(SECRET, "u", now_s=world.time_s(), tier="degraded")
        peer.send("hello", {"token": token}, 1)
        assert (await peer.receive())[1]["heartbeat_ms"] == 70_000
        world.pass_time(59)
        peer.turn()
        assert peer.pings == 0
        world.pass_time(1.2)
        peer.turn()
        assert peer.pings == 1


async def test_token_when_it_ends_then_warned_a_minute_before_and_closed(tmp_path: Path) -> None:
    async with running(tmp_path, heartbeat=HeartbeatOptions(interval_ns=0)) as world:
        peer = Peer(world)
        await peer.hello(ttl_s=100)
        world.pass_time(39)
        peer.turn()
        assert peer.packets == []
        world.pass_time(2)
        event, body = await peer.receive()
        assert event == "token_expiring"
        assert body["exp"] == pytest.approx(world.time_s() + 59, abs=2)
        for _ in range(3):
            world.pass_time(19)
            peer.turn()
            assert peer.close_code is None
        world.pass_time(3)
        assert peer.close_code == 4002
        assert peer.packets == []


async def test_token_when_refreshed_then_warned_anew(tmp_path: Path) -> None:
    async with running(tmp_path, heartbeat=HeartbeatOptions(interval_ns=0)) as world:
        peer = Peer(world)
        await peer.hello(ttl_s=30)
        assert (await peer.receive())[0] == "token_expiring"
        peer.send("refresh", {"token": world.token(ttl_s=200)}, 2)
        assert (await peer.receive())[0] == "ok"
        assert peer.packets == []
        world.pass_time(100)
        assert peer.close_code is None
        assert peer.packets == []
        world.pass_time(41)
        assert (await peer.receive())[0] == "token_expiring"


async def test_token_when_taken_within_the_leeway_then_the_connection_lasts_as_long(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        token = world.token(ttl_s=1)
        world.pass_time(4)
        peer.send("hello", {"token": token}, 1)
        assert (await peer.receive())[0] == "ok"
        assert (await peer.receive())[0] == "token_expiring"
        world.pass_time(5)
        assert peer.close_code is None
        world.pass_time(5)
        assert peer.close_code == 4002


async def test_token_when_good_for_centuries_then_no_timer_overflows(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        assert (await peer.hello(ttl_s=2**50))["user"] == "u"
        world.pass_time(1)
        assert peer.close_code is None


def make_application(log: list[Any]) -> FastIM:
    app = FastIM()
    gate = asyncio.Event()

    @app.on_connect
    async def connected(ctx: Context) -> None:
        await asyncio.sleep(0)
        log.append("connected")

    @app.on_disconnect
    def disconnected(ctx: Context) -> None:
        log.append("disconnected")

    @app.on("plain")
    def plain(ctx: Context, body: Any) -> Any:
        log.append(("plain", body))
        return body

    @app.on("slow")
    async def slow(ctx: Context, body: Any) -> Any:
        log.append(("slow", body))
        await gate.wait()
        return body

    @app.on("open")
    def open_gate(ctx: Context, body: Any) -> None:
        gate.set()

    @app.on("boom")
    def boom(ctx: Context, body: Any) -> Any:
        raise KeyError("boom")

    return app


async def test_packets_when_in_one_batch_then_started_in_order(tmp_path: Path) -> None:
    log: list[Any] = []
    async with running(tmp_path, make_application(log)) as world:
        peer = Peer(world)
        await peer.hello()
        # What comes before the async on_connect handler has returned waits for it.
        peer.send(["plain", 1, 1], ["slow", 2, 2], ["slow", 3, 3], ["plain", 4, 4], ["open", 5, 5])
        answers = [(await peer.receive())[2] for _ in range(5)]
        assert log[:5] == ["connected", ("plain", 1), ("slow", 2), ("slow", 3), ("plain", 4)]
        assert answers == [1, 4, 5, 2, 3]
        assert next(iter(world.service.connections)).work is None


async def test_handler_when_it_raises_then_the_rest_of_the_batch_is_served(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, make_application([])) as world:
        peer = Peer(world)
        await peer.hello()
        await world.turns()
        peer.send(["plain", 1, 1], ["boom", 2, 2], ["plain", 3, 3])
        packets = [await peer.receive() for _ in range(3)]
        errors = [packet for packet in packets if packet[0] == "error"]
        assert [packet[2] for packet in packets if packet[0] == "ok"] == [1, 3]
        assert errors[0][1]["code"] == "internal"
        assert errors[0][1]["id"] in caplog.text
        assert "KeyError" in caplog.text
        assert world.service.dispatcher.errors == {"internal": 1}


async def test_event_when_our_own_code_fails_then_only_that_connection_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, make_application([])) as world:
        bad, good = Peer(world), Peer(world)
        await bad.hello("bad")
        await good.hello("good")
        await world.turns()
        victim = world.service.hub.owner(bad.handle)
        receive = world.service.dispatcher.receive

        def fail(connection: Any, data: bytes, encoding: int) -> None:
            if connection is victim:
                raise AssertionError("a mistake of ours")
            receive(connection, data, encoding)

        monkeypatch.setattr(world.service.dispatcher, "receive", fail)
        with caplog.at_level(logging.ERROR):
            bad.send("plain", 1, 1)
        assert bad.close_code == 1011
        good.send("plain", 1, 1)
        assert await good.receive() == ["ok", 1, 1]


async def test_connection_when_gone_then_its_topics_and_tasks_are_let_go(tmp_path: Path) -> None:
    log: list[Any] = []
    async with running(tmp_path, make_application(log)) as world:
        peer = Peer(world)
        await peer.hello()
        await world.turns()
        connection = next(iter(world.service.connections))
        runtime = world.service.runtime
        runtime.join(connection, "t")
        runtime.join(connection, "t")
        room = runtime.rooms.find("/", "t")
        assert room is not None
        assert sum(room.counts) == 1
        peer.send("slow", 1, 1)
        world.service.hub.abort(peer.handle)
        world.service.poll()
        assert not len(runtime.rooms)
        assert not world.service.connections
        runtime.join(connection, "t")
        runtime.emit(connection, "event", (1,), 1)
        runtime.broadcast("t", runtime.outgoing("event", (1,)), None)
        assert not len(runtime.rooms)
        await world.turns()
        assert "disconnected" in log
        for task in list(world.service.tasks):
            task.cancel()
        await world.turns()


async def test_service_when_draining_then_new_work_is_unavailable(tmp_path: Path) -> None:
    async with running(tmp_path, make_application([])) as world:
        peer = Peer(world)
        await peer.hello()
        await world.turns()
        world.service.dispatcher.tables.refuse_work()
        for event in ("plain", "message", "history", "hello"):
            peer.send(event, {}, 7)
            answer = await peer.receive()
            assert (answer[0], answer[1]["code"]) == ("error", "unavailable")
        peer.send("ping", {}, 8)
        assert (await peer.receive())[0] == "ok"


async def test_packets_when_they_take_long_then_the_loop_has_a_turn_between_them(tmp_path: Path) -> None:
    app = FastIM()
    served: list[int] = []

    @app.on("work")
    def work(ctx: Context, number: int) -> None:
        served.append(number)
        world.ns += 1_000_000

    async with running(tmp_path, app) as world:
        peer = Peer(world)
        await peer.hello()
        for first in range(0, 1_000, 100):
            batch = [["work", first + number] for number in range(100)]
            peer.protocol.send_text(json.dumps(batch).encode())
        peer.turn()
        assert len(served) == 100  # a message is served whole
        between: list[int] = []
        asyncio.get_running_loop().call_soon(lambda: between.append(len(served)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert served == list(range(1_000))
        assert between[0] < 1_000


async def test_connection_when_closed_while_its_packets_wait_for_a_turn_then_told_last(
    tmp_path: Path,
) -> None:
    app = FastIM()
    served: list[str] = []

    @app.on("work")
    def work(ctx: Context, number: int) -> None:
        served.append("work")
        world.ns += 1_000_000

    @app.on_disconnect
    def gone(ctx: Context) -> None:
        served.append("gone")

    async with running(tmp_path, app) as world:
        peer = Peer(world)
        await peer.hello()
        for _ in range(5):
            peer.protocol.send_text(json.dumps([["work", 1]] * 50).encode())
        peer.turn()
        world.service.hub.feed_eof(peer.handle, world.ns)
        await world.turns(20)
        assert served == ["work"] * 250 + ["gone"]


async def test_requests_when_too_many_wait_for_the_store_then_rate_limited(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        peer = Peer(world)
        await peer.hello()
        peer.send("conversation_create", {"kind": "group", "members": []}, 1)
        conversation = (await peer.receive())[1]["conversation"]
        for first in (1_000, 2_000, 3_000):
            batch = [["history", {"conversation": conversation}, first + n] for n in range(1_000)]
            peer.protocol.send_text(json.dumps(batch).encode())
        answers = [await peer.receive() for _ in range(3_000)]
        assert sorted(answer[2] for answer in answers) == list(range(1_000, 4_000))
        assert {answer[2] for answer in answers if answer[0] == "ok"} >= set(range(1_000, 2_000))
        refused = [answer[1]["code"] for answer in answers if answer[0] == "error"]
        assert refused
        assert set(refused) == {"rate_limited"}
        peer.send("history", {"conversation": conversation}, 1)
        assert (await peer.receive())[0] == "ok"


async def test_token_when_refreshed_to_another_tier_then_its_outbox_is_the_new_ones(tmp_path: Path) -> None:
    app = FastIM()

    @app.on("flood")
    def flood(ctx: Context, body: Any) -> None:
        for _ in range(4):
            ctx.emit("drop", "x" * 50_000)

    tiers = {"degraded": TierPolicy(queued_messages=64), "standard": TierPolicy(queued_messages=1_024)}
    async with running(tmp_path, app, tiers=tiers) as world:

        def token(tier: str) -> str:
            return issue(SECRET, "u", tier=tier, now_s=world.time_s())

        peer = Peer(world)
        peer.send("hello", {"token": token("degraded")}, 1)
        assert (await peer.receive())[0] == "ok"
        peer.send("refresh", {"token": token("standard")}, 2)
        assert (await peer.receive())[0] == "ok"
        peer.send("flood", None)
        assert [(await peer.receive())[0] for _ in range(4)] == ["drop"] * 4
        peer.send("refresh", {"token": token("degraded")}, 3)
        assert (await peer.receive())[0] == "ok"
        peer.send("flood", None)
        assert not world.service.hub.alive(peer.handle)


async def test_hello_when_its_token_is_bad_again_and_again_then_the_address_is_banned(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        banned: list[tuple[str, str, float, str]] = []
        admission = Admission(
            BlockList(AddressRanges()),
            ConnectLimiter(0, 0),
            automatic=AutoBans(offences=3, address_s=7),
            ban=lambda *ban: banned.append(ban),
        )
        world.front = world.service.front = Front(world.service, FrontOptions(), admission)
        peer = Peer(world)
        old = issue(SECRET, "u", ttl_s=60, now_s=world.time_s() - 600)
        for token in ("bad", old, old, "bad", old):
            peer.send("hello", {"token": token}, 1)
        assert not banned
        peer.send("hello", {"token": "bad"}, 1)
        assert [ban[:3] for ban in banned] == [("address", "192.0.2.1", 7)]
        assert admission.stats()["refused_token_total"] == 6


async def test_hello_when_the_server_is_full_then_a_session_that_is_not_live_opens_no_door(
    tmp_path: Path,
) -> None:
    tiers = {tier: TierPolicy(connections=1) for tier in ("critical", "standard", "degraded")}
    async with running(tmp_path, tiers=tiers) as world:
        for user in ("ann", "bob"):
            await Peer(world).hello(user)
        late = Peer(world)
        late.send("hello", {"token": world.token("eve"), "resume": {"session": "x", "seen": {}}}, 1)
        assert (await late.receive())[1]["code"] == "unavailable"
        assert late.close_code == 4013
        await world.turns()
        assert world.messaging.stats()["users"] == 2
        assert world.messaging.sessions.stats()["detached"] == 0
        assert world.service.places.stats()["refused_total"] == 1


async def test_connection_when_the_application_refuses_it_then_nothing_of_it_is_served(
    tmp_path: Path,
) -> None:
    app = FastIM()
    served: list[Any] = []

    @app.on_connect
    def refuse(ctx: Context) -> None:
        raise RequestError(ErrorCode.FORBIDDEN, "not you")

    @app.on("work")
    def work(ctx: Context, body: Any) -> None:
        served.append(body)

    @app.on_disconnect
    def gone(ctx: Context) -> None:
        served.append("gone")

    async with running(tmp_path, app) as world:
        await Peer(world).hello()
        peer = Peer(world)  # its user is loaded: the hello is served before what comes behind it
        batch = [["hello", {"token": world.token()}, 1], ["work", "in the batch"], ["ping", {}, 2]]
        peer.protocol.send_text(json.dumps(batch).encode())
        peer.protocol.send_text(json.dumps(["work", "behind it"]).encode())
        assert peer.close_code == 4001
        await world.turns()
        assert served == ["gone", "gone"]
        assert sorted(packet[0] for packet in peer.packets) == ["forced_disconnect", "ok"]


async def test_connection_when_a_handler_closes_it_then_what_is_behind_in_the_batch_is_not_served(
    tmp_path: Path,
) -> None:
    app = FastIM()
    served: list[Any] = []

    @app.on("work")
    def work(ctx: Context, body: Any) -> None:
        served.append(body)
        ctx.close(4000, "enough")

    @app.on_disconnect
    def gone(ctx: Context) -> None:
        served.append("gone")

    async with running(tmp_path, app) as world:
        peer = Peer(world)
        await peer.hello()
        peer.protocol.send_text(json.dumps([["work", 1], ["work", 2], ["ping", {}, 1]]).encode())
        assert peer.close_code == 4000
        await world.turns()
        assert served == [1, "gone"]
        assert not peer.packets


async def test_hello_when_turned_away_then_another_one_behind_it_is_not_served(tmp_path: Path) -> None:
    app = FastIM()
    entered: list[str] = []
    app.on_connect(lambda ctx: entered.append(ctx.user))

    def check(connection: Connection, claims: Claims) -> None:
        if claims.user == "bad":
            raise TurnedAway(CloseCode.BANNED, "banned", ErrorCode.FORBIDDEN)

    async with running(tmp_path, app) as world:
        world.service.entrance.checks.append(check)
        await Peer(world).hello("good")
        peer = Peer(world)
        batch = [["hello", {"token": world.token(user)}, ref] for ref, user in enumerate(("bad", "good"), 1)]
        peer.protocol.send_text(json.dumps(batch).encode())
        assert peer.close_code == 4003
        assert [packet[0] for packet in peer.packets] == ["error", "forced_disconnect"]
        assert entered == ["good"]
        assert world.service.places.stats()["standard_connections"] == 1


async def test_volatile_event_when_the_client_is_behind_then_dropped(tmp_path: Path) -> None:
    app = FastIM()
    async with running(tmp_path, app) as world:
        peer = Peer(world)
        await peer.hello()
        hub = world.service.hub
        context = world.service.dispatcher.context(next(iter(world.service.connections)))
        context.emit("volatile", 1, volatile=True)
        assert await peer.receive() == ["volatile", 1]
        context.emit("large", "x" * 50_000)
        world.service.flush()
        peer.protocol.receive_data(hub.take(peer.handle, 100))
        assert hub.is_behind(peer.handle)
        context.emit("volatile", 2, volatile=True)
        context.emit("kept", 3)
        assert (await peer.receive())[0] == "large"
        assert await peer.receive() == ["kept", 3]
        app.bind(world.service.runtime)
        app.emit("volatile", 4, volatile=True)
        assert await peer.receive() == ["volatile", 4]


async def test_everybody_when_thousands_of_namespaces_were_sent_to_then_still_reached(tmp_path: Path) -> None:
    app = FastIM()
    app.namespace(re.compile(r"/\d+"))
    async with running(tmp_path, app) as world:
        app.bind(world.service.runtime)
        first = Peer(world)
        await first.hello()
        app.emit("event", 1)
        for number in range(3_000):
            app.emit("event", 0, namespace=f"/{number}")
        second = Peer(world)
        await second.hello()
        app.emit("event", 2)
        assert [await first.receive() for _ in range(2)] == [["event", 1], ["event", 2]]
        assert await second.receive() == ["event", 2]
        assert len(world.service.runtime.rooms) == 1
