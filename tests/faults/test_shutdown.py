"""Signals under load: what was acknowledged is stored, clients know that they may come back."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from tests.e2e.serving import ServerProcess, Start, open_client, rest
from tests.e2e.test_bad_input import Raw
from tests.support.senders import Reader, Sender, check_history, read_history


class Load:
    """Senders that share a conversation with a reader."""

    def __init__(self, server: ServerProcess, enough: int) -> None:
        self.reached = asyncio.Event()
        self.senders = [
            Sender(f"s{n}", "c", binary=n % 2 == 0, window=32, padding=200, on_ok=self._count)
            for n in range(5)
        ]
        self.reader = Reader("reader")
        self.left = enough
        with rest(server) as http:
            members = [*(each.user for each in self.senders), "reader"]
            http.post("/v1/conversations", json={"members": members, "conversation": "c"})
        self.runs = [asyncio.create_task(each.run(server)) for each in (*self.senders, self.reader)]

    def _count(self) -> None:
        self.left -= 1
        if not self.left:
            self.reached.set()

    async def under_way(self) -> None:
        await asyncio.wait_for(self.reached.wait(), 30)

    async def ended(self) -> None:
        await asyncio.wait_for(asyncio.gather(*self.runs), 30)

    async def check_on(self, server: ServerProcess) -> None:
        """Check what is there after a restart, send the rest, and check again."""
        for complete in (False, True):
            async with open_client(server, "reader") as client:
                messages = await read_history(client, "c")
            check_history(messages, self.senders, complete=complete)
            found = {message["client_id"]: message["seq"] for message in messages}
            assert self.reader.seen.items() <= found.items()
            await asyncio.gather(*(each.run(server, new=False) for each in self.senders))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_when_under_load_then_an_end_in_order(start: Start, number: signal.Signals) -> None:
    server = start()
    load = Load(server, 400)
    await load.under_way()
    server.process.send_signal(number)
    await load.ended()
    assert server.wait() == 0
    for sender in load.senders:
        assert sender.shutdown is not None
        assert sender.shutdown["reconnect"] is True
        assert sender.close_code == (4012 if number == signal.SIGTERM else 1001)
        assert sender.refused.keys() <= {"unavailable"}
    log = server.data / "fastim.db-wal"
    assert not log.exists() or log.stat().st_size == 0
    # What the server took before the signal, it answered: what is stored was acknowledged.
    again = start()
    async with open_client(again, "reader") as client:
        stored = len(await read_history(client, "c"))
    assert stored == sum(len(sender.acknowledged) for sender in load.senders)
    await load.check_on(again)


async def test_signal_when_it_comes_twice_under_load_then_the_end_at_once(start: Start) -> None:
    server = start(FASTIM_DRAIN__DEADLINE_S="60")
    load = Load(server, 200)
    deaf = make_deaf(server)  # answers no close: the first signal alone would wait for the deadline
    await load.under_way()
    server.process.terminate()
    await load.ended()
    assert server.process.poll() is None
    server.process.terminate()
    assert server.wait() == -signal.SIGTERM
    deaf.socket.close()
    await load.check_on(start())


def make_deaf(server: ServerProcess) -> Raw:
    """Connect a client that will not read, nor answer."""
    raw = Raw(server)
    raw.send(0x81, json.dumps(["hello", {"token": server.token("reader")}, 1]).encode())
    assert b'"ok"' in raw.receive()[1]
    return raw


@pytest.mark.parametrize(
    ("number", "setting"),
    [(signal.SIGTERM, "FASTIM_DRAIN__DEADLINE_S"), (signal.SIGINT, "FASTIM_DRAIN__QUICK_DEADLINE_S")],
)
async def test_signal_when_a_client_takes_nothing_then_the_deadline_ends_it(
    start: Start, number: signal.Signals, setting: str
) -> None:
    other = "FASTIM_DRAIN__DEADLINE_S" if "QUICK" in setting else "FASTIM_DRAIN__QUICK_DEADLINE_S"
    server = start(**{setting: "0.5", other: "300"}, FASTIM_LIMITS__CLOSE_TIMEOUT_S="300")
    load = Load(server, 1)
    deaf = [make_deaf(server) for _ in range(3)]
    await load.under_way()
    server.process.send_signal(number)
    await load.ended()
    assert server.wait() == 0
    for each in deaf:
        each.socket.close()
    await load.check_on(start())
