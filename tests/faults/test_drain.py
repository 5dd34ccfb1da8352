"""Draining a running server: all leave in turn, come back by themselves, and have lost nothing."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastim.client import Connection, connect
from tests.e2e.serving import ServerProcess, Start, open_client, raw_socket, read_all, rest, run_fastim
from tests.e2e.test_bad_input import HANDSHAKE
from tests.e2e.test_migrate import Pair, token
from tests.support.herd import herding, make_conversations, read_metrics, write_tokens
from tests.support.senders import read_history

ROOM = "room"


class Talker:
    """A client that talks without a pause and notes what it hears, over as many servers as there are."""

    def __init__(self, client: Connection, ways: int = 4, pause_s: float = 0.01) -> None:
        self.client = client
        self.ways = ways
        self.pause_s = pause_s
        self.sent: dict[int, str] = {}
        self.heard: list[tuple[int, str]] = []
        self.told: list[dict[str, Any]] = []
        self.closed: list[int] = []
        self.returns = 0
        self.silent = asyncio.Event()

    async def talk(self) -> None:
        """Keep a few messages on the way until told to be silent."""
        numbers = iter(range(10**9))

        async def send_some() -> None:
            while not self.silent.is_set():
                content = f"{self.client.user} {next(numbers)}"
                sent = await self.client.send(ROOM, content, timeout_s=60)
                assert sent.seq not in self.sent
                self.sent[sent.seq] = content
                await asyncio.sleep(self.pause_s)

        await asyncio.gather(*(send_some() for _ in range(self.ways)))

    async def listen(self) -> None:
        async for event in self.client:
            if event.name == "new_message":
                self.heard.append((event.body["seq"], event.body["content"]))
            elif event.name == "server_shutdown":
                self.told.append(event.body)
            elif event.name == "fastim.disconnected":
                self.closed.append(event.body["code"])
            elif event.name == "fastim.connected":
                self.returns += 1


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_clients_when_they_talk_through_a_drain_and_a_restart_then_nothing_is_lost_or_twice(
    start: Start, eventually: Any
) -> None:
    port = free_port()
    settings = {"PORT": str(port), "FASTIM_DRAIN__RETRY_AFTER_MS": "100"}
    server = start(**settings)
    users = [f"t{number}" for number in range(8)]
    make_conversations(port, server.api_key, {ROOM: [*users, "witness"]})
    options: dict[str, Any] = {"backoff_base_s": 0.05, "backoff_cap_s": 0.2, "open_timeout_s": 60}
    talkers = [
        Talker(
            connect(
                server.ws, token=server.token(user), encoding=["json", "msgpack"][n % 2], acks=True, **options
            )
        )
        for n, user in enumerate(users)
    ]
    for talker in talkers:
        await talker.client.start()
    listening = [asyncio.create_task(talker.listen()) for talker in talkers]
    talking = [asyncio.create_task(talker.talk()) for talker in talkers]
    await eventually(lambda: min(len(talker.sent) for talker in talkers) > 5)
    done = await asyncio.to_thread(run_fastim, "drain", "--within", "2s", "--data", str(server.data))
    assert (done.returncode, done.stdout) == (0, "draining 8 connections within 2 s\n"), done.stderr
    assert await asyncio.to_thread(server.wait) == 0
    again = await asyncio.to_thread(start, **settings)
    await eventually(lambda: all(talker.returns and talker.client.is_online for talker in talkers), 60)
    goal = max(max(talker.sent) for talker in talkers) + 50
    await eventually(lambda: max(max(talker.sent) for talker in talkers) > goal)
    for talker in talkers:
        talker.silent.set()
    await asyncio.gather(*talking)
    everything = {seq: content for talker in talkers for seq, content in talker.sent.items()}
    assert sorted(everything) == list(range(1, len(everything) + 1))
    for talker in talkers:
        others = [pair for pair in sorted(everything.items()) if pair[0] not in talker.sent]
        await eventually(lambda talker=talker, others=others: len(talker.heard) >= len(others))
        assert talker.heard == others
        # Closed once by the server, told once, and back by itself.
        assert talker.closed[0] == 4012
        assert [body["reconnect"] for body in talker.told] == [True]
    waits_ms = sorted(talker.told[0]["retry_after_ms"] for talker in talkers)
    assert waits_ms == list(range(100, 2_100, 250))
    async with open_client(again, "witness") as client:
        assert {each["seq"]: each["content"] for each in await read_history(client, ROOM)} == everything
    for talker in talkers:
        await talker.client.close()
    await asyncio.gather(*listening)


async def test_clients_when_another_server_takes_over_then_they_talk_on_there_and_nothing_is_lost(
    tmp_path: Path, eventually: Any
) -> None:
    pair = Pair(tmp_path)
    await pair.a.start()
    await pair.b.start()
    users = [f"m{number}" for number in range(6)]
    await pair.a.messaging.create_conversation("group", "", users, id=ROOM)
    # Slowly enough for the limits, which are on here.
    talkers = [Talker(await connect(pair.a.url, token=token(user), device="d"), 1, 0.15) for user in users]
    listening = [asyncio.create_task(talker.listen()) for talker in talkers]
    talking = [asyncio.create_task(talker.talk()) for talker in talkers]
    sessions = [talker.client.welcome.session for talker in talkers if talker.client.welcome]
    await eventually(lambda: min(len(talker.sent) for talker in talkers) > 5)
    pair.a.drain.ask(1.5, pair.b.url)
    await pair.a.stop()
    await eventually(lambda: len(pair.b.service.connections) == len(users))
    goal = max(max(talker.sent) for talker in talkers) + 20
    await eventually(lambda: max(max(talker.sent) for talker in talkers) > goal)
    for talker in talkers:
        talker.silent.set()
    await asyncio.gather(*talking)
    everything = {seq: content for talker in talkers for seq, content in talker.sent.items()}
    assert sorted(everything) == list(range(1, len(everything) + 1))
    for talker in talkers:
        others = [pair for pair in sorted(everything.items()) if pair[0] not in talker.sent]
        await eventually(lambda talker=talker, others=others: len(talker.heard) >= len(others))
        assert talker.heard == others
        assert talker.returns == 1
    # The very sessions, by tickets and not by tokens.
    assert [talker.client.welcome.session for talker in talkers if talker.client.welcome] == sessions
    assert pair.b.migration.stats()["taken_total"] == len(users)
    for talker in talkers:
        await talker.client.close()
    await asyncio.gather(*listening)
    pair.b.drain.ask_quick()
    await pair.b.stop()


def test_drain_when_on_then_the_gates_are_closed_and_who_is_in_is_served(start: Start) -> None:
    server = start()
    with rest(server) as http:
        assert http.get("/v1/drain").json() == {"draining": False}
        refused = http.post("/v1/drain", json={"within_s": -1})
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, "within_s")
        assert http.post("/v1/drain", json={"to": "somewhere"}).status_code == 422
        assert httpx.post(f"{server.http}/v1/drain", json={}, trust_env=False).status_code == 401
        asyncio.run(look_at_a_drain(server, http))
    assert server.wait() == 0


async def look_at_a_drain(server: ServerProcess, http: httpx.Client) -> None:
    make_conversations(server.port, server.api_key, {ROOM: ["a", "b"]})
    async with open_client(server, "a") as one, open_client(server, "b") as two:
        begun = await asyncio.to_thread(http.post, "/v1/drain", json={"within_s": 4})
        assert begun.status_code == 202
        assert begun.json()["connections"] == 2
        assert (await asyncio.to_thread(http.post, "/v1/drain", json={})).status_code == 409
        ready = await asyncio.to_thread(http.get, "/readyz")
        assert (ready.status_code, ready.json()["reason"]) == (503, "the server is shutting down")
        with raw_socket(server) as late:
            late.sendall(HANDSHAKE.format(port=server.port, more="").encode())
            answer = await asyncio.to_thread(read_all, late)
        assert answer.startswith(b"HTTP/1.1 503 ")
        retry_after_s = int(answer.lower().partition(b"retry-after: ")[2].split(b"\r\n")[0])
        assert 1 <= retry_after_s <= 9
        metrics = await asyncio.to_thread(read_metrics, server.port)
        assert metrics["fastim_drain_draining"] == 1
        assert metrics["fastim_drain_left"] + metrics["fastim_drain_closed_total"] == 2
        # Whose turn has not come goes on: one of the two is closed after two seconds, the other after four.
        assert (await two.request("message", {"conversation": ROOM, "content": "still here"}))[0] == "ok"
        assert (await one.receive_event("new_message"))["content"] == "still here"
        assert (await one.closed())[0] == (await two.closed())[0] == 4012


async def test_presence_when_the_server_drains_then_nobody_is_told_that_everybody_leaves(
    start: Start,
) -> None:
    server = start(FASTIM_PRESENCE__GRACE_S="0.05")
    users = [f"p{number}" for number in range(6)]
    make_conversations(server.port, server.api_key, {ROOM: users})
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(server, user)) for user in users]
        for client in clients:
            await client.request("presence_subscribe", {"users": users})
        with rest(server) as http:
            begun = await asyncio.to_thread(http.post, "/v1/drain", json={"within_s": 2})
            assert begun.status_code == 202
        for client in clients:
            told = [
                update["status"]
                async for event, body, *_ in client.receive_until_closed()
                if event == "state_batch"
                for update in body["updates"]
            ]
            assert set(told) <= {"online"}
            assert client.socket.close_code == 4012
    assert await asyncio.to_thread(server.wait) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_signal_when_it_is_the_second_then_the_window_is_not_waited_for(
    start: Start, second: signal.Signals
) -> None:
    server = start(FASTIM_DRAIN__WITHIN_S="3600")
    async with open_client(server, "a") as client:
        server.process.terminate()
        assert (await client.receive_event("server_shutdown"))["retry_after_ms"] >= 1000
        status = await asyncio.to_thread(server.stop, second)
        assert status == -second


async def test_signal_when_a_drain_was_asked_for_then_term_waits_for_it_and_int_cuts_it_short(
    start: Start,
) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        server = start(data=number.name)
        async with open_client(server, "a") as client:
            within_s = 1 if number == signal.SIGTERM else 3600
            with rest(server) as http:
                assert http.post("/v1/drain", json={"within_s": within_s}).status_code == 202
            server.process.send_signal(number)
            assert (await client.closed())[0] == 4012
        assert await asyncio.to_thread(server.wait) == 0


def test_drain_when_there_are_many_then_all_are_closed_in_even_slices_and_return(
    start: Start, tmp_path: Path
) -> None:
    count, within_s = 2_000, 4
    port = str(free_port())
    server = start(PORT=port)
    users = [f"u{number}" for number in range(count)]
    tokens = write_tokens(tmp_path / "tokens", (server.data / "secret").read_bytes().strip(), users)
    with herding() as herd:
        assert herd.call("connect", port=server.port, tokens=tokens)["ready"] == count
        herd.call("keep", events=["server_shutdown"])
        herd.call("returning", backoff_s=0.2)
        with rest(server) as http:
            begun_s = time.monotonic()
            assert http.post("/v1/drain", json={"within_s": within_s}).json()["connections"] == count
        herd.begin("run", seconds=within_s + 1.0)
        assert server.wait() == 0
        herd.finish()
        log = herd.call("events")
        closes = [(at_s - begun_s, code) for at_s, _, code in log["closes"] if code != 1006]
        assert Counter(code for _, code in closes) == {4012: count}
        # A quarter each second; half of that either way, as this machine may have other things to do.
        a_second = Counter(min(int(at_s), within_s - 1) for at_s, _ in closes)
        assert all(count / within_s / 2 < a_second[s] < count / within_s * 1.5 for s in range(within_s)), (
            a_second
        )
        waits_ms = sorted(body["retry_after_ms"] for _, _, _, body in log["events"])
        assert waits_ms == [1000 + within_s * 1000 * place // count for place in range(count)]
        again = start(PORT=port)
        assert herd.call("wait", ready=count)["in_time"]
        assert read_metrics(again.port)["fastim_connections"] == count
