"""``kill -9`` under load: what was acknowledged is there, once, and the rest can be sent again."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from typing import Any

from tests.e2e.serving import ServerProcess, Start, open_client, rest
from tests.support.senders import Reader, Sender, check_history, read_history

ROUNDS = 9
CONVERSATIONS = ("left", "right")


class Load:
    """Senders and readers in two conversations, and a count of what was acknowledged."""

    def __init__(self) -> None:
        self.senders = [
            Sender(f"s{n}", CONVERSATIONS[n % 2], binary=n % 3 == 0, window=4 + 8 * n, on_ok=self._count)
            for n in range(6)
        ]
        self.readers = [Reader("reader"), Reader("other", binary=True)]
        self.users = [each.user for each in (*self.senders, *self.readers)]
        self.count = 0
        self._target = 0
        self._reached = asyncio.Event()

    def _count(self) -> None:
        self.count += 1
        if self.count >= self._target:
            self._reached.set()

    async def run_until_killed(self, server: ServerProcess, after: int, pause_s: float) -> None:
        """Send; kill the server a moment after so many more messages were acknowledged."""
        self._reached.clear()
        self._target = self.count + after
        runs = [asyncio.create_task(each.run(server)) for each in (*self.senders, *self.readers)]
        reached = asyncio.create_task(self._reached.wait())
        await asyncio.wait([*runs, reached], return_when=asyncio.FIRST_COMPLETED, timeout=30)
        assert reached.done(), server.log()
        asyncio.get_running_loop().call_later(pause_s, server.process.kill)
        await asyncio.gather(*runs)
        server.kill()


def create_conversations(server: ServerProcess, users: list[str]) -> None:
    with rest(server) as http:
        for conversation in CONVERSATIONS:
            answer = http.post("/v1/conversations", json={"members": users, "conversation": conversation})
            assert answer.status_code in (200, 201), answer.text


async def check(server: ServerProcess, load: Load, *, complete: bool) -> None:
    """Hold what the server has against what the clients were told."""
    for reader in load.readers:
        async with open_client(server, reader.user) as client:
            found: dict[str, int] = {}
            last: dict[str, int] = {}
            for conversation in CONVERSATIONS:
                messages = await read_history(client, conversation)
                senders = [each for each in load.senders if each.conversation == conversation]
                check_history(messages, senders, complete=complete)
                found |= {message["client_id"]: message["seq"] for message in messages}
                last[conversation] = len(messages)
            assert reader.seen.items() <= found.items(), "delivered, but not stored"
            _, page = await client.request("conversations", {})
            for row in page["conversations"]:
                name: str = row["conversation"]
                assert reader.marks.get(name, 0) <= row["read_seq"] <= last[name]
                assert row["unread"] == last[name] - row["read_seq"]


async def test_kill_when_again_and_again_under_load_then_nothing_acknowledged_is_lost(start: Start) -> None:
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    load = Load()
    for number in range(ROUNDS):
        server = start()
        if not number:
            create_conversations(server, load.users)
        elif number % 4 == 0:
            await check(server, load, complete=False)
        await load.run_until_killed(server, dice.randrange(1, 400), dice.uniform(0.0, 0.1))
    assert all(sender.unanswered for sender in load.senders)
    server = start()
    await check(server, load, complete=False)
    await asyncio.gather(*(sender.run(server, new=False) for sender in load.senders))
    await check(server, load, complete=True)
    assert all(reader.marks.keys() == set(CONVERSATIONS) for reader in load.readers)
    assert server.stop() == 0
    check_file(server)


def check_file(server: ServerProcess) -> None:
    connection = sqlite3.connect(server.data / "fastim.db")
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.close()


async def test_kill_when_the_answers_were_not_heard_then_the_same_messages_are_duplicates(
    start: Start,
) -> None:
    server = start()
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["deaf", "reader"], "conversation": "c"})
    enough = asyncio.Event()
    reader = Reader("reader", on_message=lambda: len(reader.seen) < 30 or enough.set())
    reading = asyncio.create_task(reader.run(server))
    bodies: list[dict[str, Any]] = [
        {"conversation": "c", "content": str(n), "client_id": f"d-{n}"} for n in range(200)
    ]
    await asyncio.wait_for(reader.entered.wait(), 10)
    async with open_client(server, "deaf") as deaf:
        for number, body in enumerate(bodies, 1):
            await deaf.send("message", body, number)
        await asyncio.wait_for(enough.wait(), 10)
        server.kill()
    await reading
    again = start()
    async with open_client(again, "deaf", binary=True) as client:
        answers = [await client.request("message", body) for body in bodies]
        assert {event for event, _ in answers} == {"ok"}
        seqs = {body["client_id"]: body["seq"] for _, body in answers}
        duplicates = {body["client_id"] for _, body in answers if body["duplicate"]}
        assert reader.seen.keys() <= duplicates
        assert reader.seen.items() <= seqs.items()
        messages = await read_history(client, "c")
        assert {message["client_id"]: message["seq"] for message in messages} == seqs
        assert [message["seq"] for message in messages] == list(range(1, len(bodies) + 1))
        event, error = await client.request("message", bodies[0] | {"content": "other"})
        assert (event, error["code"]) == ("error", "conflict")
