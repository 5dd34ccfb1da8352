"""Store reads of a mixed load: people who come, look around, write, type and go, and services beside them.

The same visits, in the same order, against a server with its cache and one without; the reads are counted by
the server (``fastim_store_reads_total``). Run it with ``python -m benchmarks.system.mixed_load``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.system.machine import describe
from benchmarks.system.prepare import MEMBERS, fill_store
from benchmarks.system.servers import FastimServer, Lab, fastim
from fastim.guard.tokens import issue

USERS: Final = 200
CONVERSATIONS: Final = 100
MESSAGES: Final = 20_000
AT_A_TIME: Final = 32
OFF: Final = {
    "FASTIM_CACHE__ENTRIES": "0",
    "FASTIM_MESSAGING__RINGS_TOTAL_BYTES": "0",
}
KINDS: Final = ("conversation", "users", "inbox", "history", "members", "replay")


class Visitor:
    """A user's connection: requests are answered in turn, what else comes is passed over."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ref = 0
        self.seen: dict[str, int] = {}

    async def ask(self, event: str, body: Any) -> Any:
        self._ref += 1
        await self._socket.send(json.dumps([event, body, self._ref]))
        while True:
            name, answer, *ref = json.loads(await self._socket.recv())
            if name == "new_message":
                self.seen[answer["conversation"]] = answer["seq"]
            if ref == [self._ref]:
                if name == "error":
                    raise RuntimeError(f"{event}: {answer}")
                return answer

    async def tell(self, event: str, body: Any) -> None:
        await self._socket.send(json.dumps([event, body]))


class Mix:
    """The visits to a server.

    Args:
        server: It.
        seed: Decides who comes when and does what.
    """

    def __init__(self, server: FastimServer, seed: int) -> None:
        self._server = server
        self._random = random.Random(seed)
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.port}",
            headers={"X-API-Key": server.api_key},
            trust_env=False,
            limits=httpx.Limits(max_connections=8),
        )
        self._sessions: dict[str, tuple[str, dict[str, int]]] = {}
        self._device: dict[str, str] = {}
        self.actions = 0

    async def run(self, visits: int) -> None:
        """Let so many visits happen, some at a time."""
        gate = asyncio.Semaphore(AT_A_TIME)
        busy: set[str] = set()

        async def visit(number: int, seed: int) -> None:
            async with gate:
                chance = random.Random(seed)
                user = f"u{chance.randrange(USERS)}"
                while user in busy:
                    user = f"u{chance.randrange(USERS)}"
                busy.add(user)
                try:
                    await (self._call(user, chance) if number % 4 == 3 else self._visit(user, chance))
                finally:
                    busy.discard(user)

        seeds = [self._random.getrandbits(32) for _ in range(visits)]
        async with asyncio.TaskGroup() as group:
            for number, seed in enumerate(seeds):
                group.create_task(visit(number, seed))
        await self._http.aclose()

    async def _visit(self, user: str, chance: random.Random) -> None:
        """Somebody opens the application: the list, two conversations, a few words, and away."""
        url = f"ws://127.0.0.1:{self._server.port}/ws"
        token = issue(self._server.secret, user)
        async with connect(url, subprotocols=["fastim.v1.json"], compression=None, proxy=None) as socket:  # type: ignore[list-item]
            visitor = Visitor(socket)
            hello: dict[str, Any] = {"token": token, "device": "phone", "acks": False}
            before = self._sessions.get(user)
            if before is not None and chance.random() < 0.5:
                hello["resume"] = {"session": before[0], "seen": before[1]}
            ok = await visitor.ask("hello", hello)
            listed = await visitor.ask("conversations", {"limit": 20})
            lines = listed["conversations"]
            for line in lines:
                visitor.seen[line["conversation"]] = line["last_seq"]
            for line in chance.sample(lines, min(2, len(lines))):
                name = line["conversation"]
                await visitor.ask("history", {"conversation": name, "limit": 30})
                await visitor.ask("members", {"conversation": name})
                await visitor.ask("presence_subscribe", {"conversation": name})
                await visitor.tell("typing", {"conversation": name, "typing": True})
                sent = await visitor.ask("message", {"conversation": name, "content": "a few words " * 4})
                visitor.seen[name] = sent["seq"]
                await visitor.ask("read_receipt", {"conversation": name, "seq": sent["seq"]})
                self.actions += 6
            self._sessions[user] = (ok["session"], visitor.seen)
            self.actions += 2

    async def _call(self, user: str, chance: random.Random) -> None:
        """A service looks a conversation up, reads it, and posts as a user."""
        group = chance.randrange(CONVERSATIONS)
        path = f"/v1/conversations/c{group}"
        member = f"u{(group * MEMBERS + chance.randrange(MEMBERS)) % USERS}"
        for request in (
            self._http.get(path),
            self._http.get(f"{path}/messages", params={"limit": 20}),
            self._http.post(f"{path}/messages", json={"content": "from a service", "sender": member}),
        ):
            (await request).raise_for_status()
            self.actions += 1


def figures(server: FastimServer) -> dict[str, float]:
    """Read the server's counters."""
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False).text
    found: dict[str, float] = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def measure(name: str, settings: Mapping[str, str], visits: int, cpus: tuple[int, int]) -> float:
    """Run the mix against a server of its own; prints a row and returns the reads for an action."""
    with tempfile.TemporaryDirectory(prefix="fastim-bench-", dir="/var/tmp") as folder:
        data = Path(folder) / "data"
        fill_store(data, CONVERSATIONS, MESSAGES, USERS)
        lab = Lab(Path(folder), *cpus)
        with fastim(lab, application=None, data=data, settings=settings) as server:
            mix = Mix(server, seed=1)
            before = figures(server)
            start = time.monotonic()
            asyncio.run(mix.run(visits))
            took = time.monotonic() - start
            after = figures(server)

    def grown(metric: str) -> float:
        return after.get(metric, 0) - before.get(metric, 0)

    reads = grown("fastim_store_reads_total")
    kinds = "  ".join(f"{kind} {grown(f'fastim_store_reads_{kind}_total'):.0f}" for kind in KINDS)
    hits, misses = grown("fastim_cache_hits_total"), grown("fastim_cache_misses_total")
    share = f", cache hits {hits / (hits + misses):.0%}" if hits + misses else ""
    print(
        f"{name:<8} {mix.actions} actions in {took:.1f} s: {reads:.0f} reads, {reads / mix.actions:.3f} each"
        f" ({kinds}){share}; server CPU {grown('process_cpu_seconds_total'):.1f} s"
    )
    return reads / mix.actions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=2_000)
    parser.add_argument("--only", choices=("with", "without"))
    arguments = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    pair = (cpus[0], cpus[-1])
    print(describe())
    rates = {
        name: measure(name, settings, arguments.visits, pair)
        for name, settings in {"without": OFF, "with": {}}.items()
        if arguments.only in (None, name)
    }
    if len(rates) == 2:
        saved = 1 - rates["with"] / rates["without"]
        print(f"{saved:.1%} fewer reads with the cache and the rings")
        sys.exit(saved < 0.9)


if __name__ == "__main__":
    main()
