"""The drain over a fed service: turns by an injected clock, and what breaks in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from fastim.errors import ErrorCode, RequestError
from fastim.server.application.app import Context, FastIM
from fastim.server.front.handover import HandOver, HandOverOptions
from fastim.server.process.drain import Drain, DrainOptions
from tests.unit.server.fed_service import NS_PER_S, Peer, World, running


class Draining:
    """A world with a drain, whose sleeping moves the clock, and the clients in it."""

    def __init__(self, world: World, **options: Any) -> None:
        service = world.service
        http = HandOver(
            service.loop,
            answer_nothing,  # type: ignore[arg-type]
            lambda: None,  # type: ignore[arg-type,return-value]
            service.spawn,
            lambda path: False,
            HandOverOptions(),
        )
        self.world = world
        self.peers: list[Peer] = []
        self.begin_ns = world.ns
        self.flush = world.store.flush
        self.ended_s: dict[Peer, float] = {}
        self.unlistened_s: float | None = None
        self.drain = Drain(
            service, world.messaging, world.store, http, DrainOptions(**options), sleep=self.sleep
        )
        service.drain = self.drain

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # what was started has its first step
        await self.flush()  # and, behind it in the store's line, its commit
        self.look()
        self.world.ns += int(seconds * NS_PER_S)

    def look(self) -> None:
        for peer in self.peers:
            if peer.close_code is not None:
                self.ended_s.setdefault(peer, self.passed_s)

    @property
    def passed_s(self) -> float:
        return (self.world.ns - self.begin_ns) / NS_PER_S

    async def enter(self, count: int) -> None:
        for number in range(count):
            peer = Peer(self.world)
            await peer.hello(f"u{number}")
            self.peers.append(peer)

    async def run(self) -> None:
        def unlisten() -> None:
            self.unlistened_s = self.passed_s

        await self.drain.run(unlisten)
        self.look()

    def told(self) -> list[dict[str, Any]]:
        """What each client was told of the shutdown."""
        return [body for peer in self.peers for event, body, *_ in peer.packets if event == "server_shutdown"]


async def answer_nothing(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no request is made here")


@asynccontextmanager
async def draining(
    folder: Path, count: int, application: FastIM | None = None, **options: Any
) -> AsyncIterator[Draining]:
    async with running(folder, application) as world:
        one = Draining(world, **options)
        await one.enter(count)
        yield one


@pytest.mark.parametrize(("count", "within_s"), [(40, 4.0), (7, 7.0), (90, 3.0), (3, 30.0)])
async def test_drain_when_run_then_turns_are_spread_evenly_over_the_declared_window(
    tmp_path: Path, count: int, within_s: float
) -> None:
    async with draining(tmp_path, count) as one:
        one.drain.ask(within_s)
        await one.run()
        ended_s = sorted(one.ended_s.values())
        assert len(ended_s) == count
        assert {peer.close_code for peer in one.peers} == {4012}
        for place, at_s in enumerate(ended_s, 1):
            assert at_s == pytest.approx(within_s * place / count, abs=0.15)
        assert one.unlistened_s == pytest.approx(within_s, abs=0.2)
        assert one.drain.stats()["closed_total"] == count
        assert one.drain.stats()["left"] == 0


async def test_clients_when_told_then_each_has_its_own_time_spread_evenly(tmp_path: Path) -> None:
    async with draining(tmp_path, 20, retry_after_ms=500) as one:
        plan = one.drain.ask(10)
        await one.run()
        told = one.told()
        assert len(told) == 20
        assert {body["reconnect"] for body in told} == {True}
        assert {body["shutdown_at"] for body in told} == {plan.ends_at_ms}
        waits_ms = sorted(body["retry_after_ms"] for body in told)
        assert waits_ms == list(range(500, 10_500, 500))
        # Who is told to come back later is closed later: nobody is away for longer than another.
        by_turn = sorted(one.peers, key=lambda peer: one.ended_s[peer])
        order = [body["retry_after_ms"] for peer in by_turn for event, body, *_ in peer.packets]
        assert all(one <= other for one, other in pairwise(order))


async def test_drain_when_nobody_is_there_then_it_ends_at_once(tmp_path: Path) -> None:
    async with draining(tmp_path, 0) as one:
        one.drain.ask(3600)
        await one.run()
        assert one.passed_s == 0


async def test_drain_when_all_leave_by_themselves_then_it_ends_before_its_time(tmp_path: Path) -> None:
    async with draining(tmp_path, 4) as one:
        one.drain.ask(3600)
        for peer in one.peers:
            peer.protocol.send_close(1000)
            peer.turn()
        await one.run()
        assert one.passed_s < 1


async def test_drain_when_no_window_is_declared_then_few_are_not_kept_waiting(tmp_path: Path) -> None:
    async with draining(tmp_path, 5) as one:
        plan = one.drain.ask()
        assert plan.window_ns == 50_000_000
        await one.run()
        assert len(one.ended_s) == 5


async def test_drain_when_the_window_is_nothing_then_all_are_closed_at_once(tmp_path: Path) -> None:
    async with draining(tmp_path, 5, within_s=0.0) as one:
        one.drain.ask()
        await one.run()
        assert set(one.ended_s.values()) == {one.ended_s[one.peers[0]]}
        assert len(one.told()) == 5


async def test_drain_when_asked_again_then_conflict(tmp_path: Path) -> None:
    async with draining(tmp_path, 1) as one:
        one.drain.ask(1)
        with pytest.raises(RequestError) as refused:
            one.drain.ask(1)
        assert refused.value.code is ErrorCode.CONFLICT
        await one.run()


async def test_drain_when_hurried_then_the_rest_of_the_window_is_cut_off(tmp_path: Path) -> None:
    async with draining(tmp_path, 10) as one:
        one.drain.ask(100)
        sleep = one.sleep

        async def sleep_until_hurried(seconds: float) -> None:
            await sleep(seconds)
            if one.passed_s > 35:
                one.drain.ask_quick()

        one.drain._sleep = sleep_until_hurried
        await one.run()
        assert len(one.ended_s) == 10
        assert sorted(one.ended_s.values())[:3] == pytest.approx([10, 20, 30], abs=0.2)
        assert max(one.ended_s.values()) < 37


async def test_client_when_it_came_in_after_the_beginning_then_it_is_told_at_its_turn(
    tmp_path: Path,
) -> None:
    async with draining(tmp_path, 0) as one:
        late = Peer(one.world)
        one.peers.append(late)
        one.drain.ask(1)
        await late.hello()
        await one.run()
        assert [packet[0] for packet in late.packets] == ["server_shutdown"]
        assert late.close_code == 4012


async def test_client_when_its_message_is_on_the_way_at_its_turn_then_the_answer_comes_first(
    tmp_path: Path,
) -> None:
    async with draining(tmp_path, 2) as one:
        await one.world.messaging.create_conversation("group", "", ["u0", "u1"], id="c")
        one.drain.ask(1)
        for peer in one.peers:
            peer.send("message", {"conversation": "c", "content": "last words"}, 9)
        await one.run()
        for peer in one.peers:
            assert [packet[0] for packet in peer.packets if packet[2:] == [9]] == ["ok"]
            assert peer.close_code == 4012


async def test_handler_when_it_runs_at_its_clients_turn_then_it_finishes_and_the_others_go_on(
    tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    app = FastIM()
    release = asyncio.Event()

    @app.on("work")
    async def work(ctx: Context, body: object) -> str:
        await release.wait()
        return "done"

    async with draining(tmp_path, 10, app, deadline_s=60.0) as one:
        busy = one.peers[0]
        busy.send("work", None, 5)
        await one.world.turns()
        one.drain.ask(1)
        running_drain = asyncio.create_task(one.run())
        await eventually(lambda: len(one.ended_s) == 9)
        assert busy not in one.ended_s
        release.set()
        await running_drain
        assert ["ok", "done", 5] in busy.packets
        assert busy.close_code == 4012


def raise_attribute_error(*_: object, **__: object) -> Any:
    raise AttributeError("the object does not have it")


BREAKS: dict[str, Callable[[Draining], object]] = {
    "muting presence": lambda one: setattr(one.world.messaging, "drain", raise_attribute_error),
    "stopping the conversations": lambda one: setattr(one.world.messaging, "stop", raise_attribute_error),
    "ending HTTP": lambda one: setattr(one.drain._http, "stop", raise_attribute_error),
    "the store": lambda one: setattr(one.world.store, "flush", raise_attribute_error),
    "asking who is busy": lambda one: setattr(one.world.service.dispatcher, "is_busy", raise_attribute_error),
    "handing out tickets": lambda one: setattr(one.drain, "migrate", raise_attribute_error),
}


@pytest.mark.parametrize("name", BREAKS)
async def test_drain_when_something_fails_in_the_middle_then_it_comes_to_its_end_all_the_same(
    tmp_path: Path, name: str
) -> None:
    async with draining(tmp_path, 12, to="ws://next.example.com/ws") as one:
        BREAKS[name](one)
        one.drain.ask(2)
        await one.run()
        assert one.unlistened_s is not None
        assert len(one.ended_s) == 12
        assert {peer.close_code for peer in one.peers} == {4012}
        assert len(one.told()) == 12
        assert one.drain.stats()["closed_total"] == 12
