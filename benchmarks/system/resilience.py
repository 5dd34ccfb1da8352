"""The rows of bad weather: stalled readers, storms of connects and resumes, blocked addresses, a drain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.system.load import (
    Figures,
    fastim_hello,
    refused_load,
    spread_beside,
    typing_load,
    wsload,
)
from benchmarks.system.rows import Options, Ratio, Result, Row, create_conversations, post
from benchmarks.system.servers import FastimServer, fastim, free_port
from benchmarks.system.spread_load import server_cpu_s
from fastim.client import Connection, connect
from fastim.guard.tokens import issue
from tests.support.herd import Herd, herding, make_conversations, read_metrics, write_tokens

__all__ = ["RESILIENCE"]

ROOM_MEMBERS = 100
MISSED = 50
RETURN_S = 120.0

# What the features of the connection and message layers are without: 0 turns each off.
FEATURES_OFF = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_HEARTBEAT__INTERVAL_S": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
    "FASTIM_LIMITS__PENDING_CONNECTIONS": "0",
    "FASTIM_LIMITS__PENDING_CONNECTIONS_PER_ADDRESS": "0",
    "FASTIM_LIMITS__HELLO_PACKETS": "0",
    "FASTIM_LIMITS__HELLO_BYTES": "0",
    "FASTIM_CACHE__ENTRIES": "0",
    "FASTIM_MESSAGING__ACK_RETRIES": "0",
}
# On, and so high that nothing is held back: what is measured is the counting.
FEATURES_ON = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "10000000",
    "FASTIM_STORM__CONVERSATION_PER_SECOND": "10000000",
    "FASTIM_STORM__SERVER_PER_SECOND": "10000000",
    "FASTIM_HEARTBEAT__INTERVAL_S": "30",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "1000000",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "10000000",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "10000000",
    "FASTIM_BANS__AUTOMATIC": "true",
    "FASTIM_MESSAGING__UNDELIVERED_AFTER_S": "5",
}


def rss_mb(server: FastimServer) -> float:
    for line in Path(f"/proc/{server.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def tokens_of(server: FastimServer, folder: str, name: str, users: list[str]) -> Path:
    return Path(write_tokens(Path(folder) / name, server.secret, users))


def rooms_of(users: list[str], members: int = ROOM_MEMBERS) -> dict[str, list[str]]:
    """Put users into rooms r0, r1, … of so many."""
    return {
        f"r{number}": users[number * members : (number + 1) * members]
        for number in range(-(-len(users) // members))
    }


# -- members that do not read


def stalled(options: Options) -> Result:
    """A room of 1,000, once with everybody reading and once with a tenth that reads nothing."""
    members = options.count(1_000)
    return {
        "all_read": room_with_stalled(options, members, 0),
        "fastim": room_with_stalled(options, members, members // 10),
    }


def room_with_stalled(options: Options, members: int, deaf: int) -> Figures:
    lab, healthy = options.lab, members - deaf
    with (
        tempfile.TemporaryDirectory() as folder,
        fastim(lab) as server,
        herding(lab.load_cpu) as herd,
    ):
        hello = fastim_hello(tokens_of(server, folder, "tokens", [f"u{n}" for n in range(healthy)]))
        if deaf:
            tokens = tokens_of(server, folder, "deaf", [f"deaf{n}" for n in range(deaf)])
            herd.call("connect", port=server.port, tokens=str(tokens), deaf=True)
            herd.call("returning", backoff_s=0.1)  # who is cut off stalls again
        before_mb = rss_mb(server)
        packet = ["--pre", '["pub",{"text":"', "--post", '"}]', "--size", "64", "--window", "16"]
        figures = wsload(lab, "fanout", server, healthy, "--secs", str(options.seconds), *packet, *hello)
        figures["per_member_per_s"] = figures["messages_per_s"] / healthy
        figures["grown_mb"] = figures["rss_mb"] - before_mb
        figures["cut_off"] = sum(herd.call("report")["codes"].values())
        return figures


# -- typing under load


def typing(options: Options) -> Result:
    """1,000 conversations with a typist every 3 s, 500 connects/s, 80 % of what is durable beside them."""
    lab, senders = options.lab, options.count(200)
    listeners = options.count(4_000) // 4 * 4
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(fastim(lab, application=None))
        create_conversations(server, senders, 4)
        users = [f"w{n}" for n in range(listeners)]  # none of the senders: what those send is not theirs
        conversations = {f"t{n}": users[n * 4 : n * 4 + 4] for n in range(listeners // 4)}
        make_conversations(server.port, server.api_key, conversations)
        tokens = tokens_of(server, folder, "tokens", [f"u{n}" for n in range(senders)])
        typists = tokens_of(server, folder, "typists", users)
        visitors = tokens_of(server, folder, "visitors", [f"v{n}" for n in range(4_000)])

        def beside(rate: float) -> contextlib.AbstractContextManager[Figures]:
            return spread_beside(lab, server, tokens, senders // 4, options.seconds + 4, rate)

        alone = typing_load(lab, server, typists, visitors, 0, options.seconds)
        full = typing_load(lab, server, typists, visitors, 500, options.seconds, beside(0))
        rate = 0.8 * full["beside_acks_per_s"]
        figures = typing_load(lab, server, typists, visitors, 500, options.seconds, beside(rate))
    for each in (full, figures):
        each["not_heard"] = each["expected"] - each["delivered"]
        each["acks_per_s"] = each["beside_acks_per_s"]
        each["load_busy_percent"] += each["beside_load_busy_percent"]
    return {"alone": alone, "full": full, "fastim": figures}


# -- everybody back at once


def resume(options: Options) -> Result:
    """19,000 clients of rooms of 100 are cut off, miss 50 messages each, and come back at once."""
    lab = options.lab
    users = [f"u{n}" for n in range(options.count(19_000) // ROOM_MEMBERS * ROOM_MEMBERS or ROOM_MEMBERS)]
    rooms = rooms_of(users)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(fastim(lab, application=None))
        make_conversations(
            server.port, server.api_key, {room: [*members, "writer"] for room, members in rooms.items()}
        )
        herd = stack.enter_context(herding(lab.load_cpu))
        writer = stack.enter_context(herding(lab.load_cpu))
        connect_herd(herd, server, folder, "tokens", users)
        connect_herd(writer, server, folder, "writer", ["writer"])
        say(writer, rooms, 1)
        expect(herd.call("wait", messages=len(users)))
        herd.call("drop")
        wait_for_connections(server, 1)
        say(writer, rooms, MISSED)
        herd.call("clear")
        before, cpu_s = read_metrics(server.port), server_cpu_s(server.pid)
        begin_s = time.monotonic()
        answer = expect(herd.call("resume", at_a_time=2_000))
        answer = expect(herd.call("wait", each=MISSED, timeout_s=120.0))
        cpu_s = server_cpu_s(server.pid) - cpu_s
        figures = {
            "server_cpu_s": cpu_s,
            "wall_s": time.monotonic() - begin_s,
            "lost": len(users) * MISSED - answer["counts"]["messages"] + answer["counts"].get("holes", 0),
            "twice": answer["counts"].get("repeated", 0),
            "away": len(users) - answer["resumed"],
            "store_reads": store_reads(read_metrics(server.port)) - store_reads(before),
        }
    return {"fastim": figures}


def store_reads(metrics: dict[str, float]) -> float:
    return metrics.get("fastim_store_reads_total", float("nan"))


def connect_herd(herd: Herd, server: FastimServer, folder: str, name: str, users: list[str]) -> None:
    tokens = tokens_of(server, folder, name, users)
    answer = herd.call("connect", port=server.port, tokens=str(tokens), hello={"batch": True})
    if answer["ready"] != len(users):
        raise RuntimeError(f"{answer['ready']} of {len(users)} came in: {answer['counts']}")


def say(writer: Herd, rooms: dict[str, list[str]], count: int) -> None:
    """Send so many messages into each room and wait until they are stored."""
    writer.call("clear")
    writer.call("post", posts=[[0, room, count] for room in rooms])
    expect(writer.call("wait", oks=len(rooms) * count))


def expect(answer: Any) -> Any:
    if not answer["in_time"]:
        raise RuntimeError(f"not in time: {answer}")
    return answer


def wait_for_connections(server: FastimServer, count: int) -> None:
    end_s = time.monotonic() + 60
    while read_metrics(server.port)["fastim_connections"] != count:
        if time.monotonic() > end_s:
            raise RuntimeError("the server did not notice that its clients are gone")
        time.sleep(0.1)


# -- whoever is shut out


def refused(options: Options) -> Result:
    """Connects from blocked addresses, as fast as the server closes them."""
    with fastim(options.lab, settings=BLOCKED) as server:
        post(server, "/v1/bans", {"address": "127.0.1.0/24", "reason": "benchmark"})
        before_mb, cpu_s = rss_mb(server), server_cpu_s(server.pid)
        figures = refused_load(options.lab, server, options.seconds)
        cpu_s = server_cpu_s(server.pid) - cpu_s
        figures["cpu_us_refused"] = cpu_s / figures["refused"] * 1e6
        # What it would come to if the server had nothing else to do and the load could keep up.
        figures["refused_per_core_s"] = figures["refused"] / cpu_s
        figures["grown_mb"] = rss_mb(server) - before_mb
    return {"fastim": figures}


BLOCKED = {"FASTIM_BANS__ALLOW": ""}  # else the load's addresses are allowed, being loopback


# -- the end, and a new beginning


class Writer:
    """A client that goes round its rooms with messages, through a drain and a restart."""

    def __init__(self, client: Connection, rooms: list[str]) -> None:
        self.client = client
        self.rooms = rooms
        self.sent: dict[str, list[int]] = {room: [] for room in rooms}
        self.silent = False

    async def write(self, pause_s: float) -> None:
        while not self.silent:
            for room in self.rooms:
                sent = await self.client.send(room, "a message in the middle of a drain", timeout_s=RETURN_S)
                self.sent[room].append(sent.seq)
                await asyncio.sleep(pause_s)


def drain(options: Options, within_s: float = 30.0) -> Result:
    """18,900 clients and 19 writers live through a drain of 30 s and a restart.

    There are 19,000 places where a process may have 20,000 descriptors.
    """
    users = [f"u{n}" for n in range(options.count(18_900) // ROOM_MEMBERS * ROOM_MEMBERS or ROOM_MEMBERS)]
    return {"fastim": asyncio.run(live_through_a_drain(options, users, within_s))}


async def live_through_a_drain(options: Options, users: list[str], within_s: float) -> Figures:
    lab, port, rooms = options.lab, free_port(), rooms_of(users)
    writers = [f"w{n}" for n in range(min(19, len(rooms)))]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastim-bench-", dir="/var/tmp"))
        data = Path(home) / "data"
        first = stack.enter_context(contextlib.ExitStack())
        server = first.enter_context(fastim(lab, application=None, data=data, port=port))
        members = {
            room: [*members, writers[number % len(writers)]]
            for number, (room, members) in enumerate(rooms.items())
        }
        make_conversations(port, server.api_key, members)
        herd = stack.enter_context(herding(lab.load_cpu))
        connect_herd(herd, server, folder, "tokens", users)
        herd.call("returning", backoff_s=1.0)
        async with writing(server, writers, list(rooms)) as hands:
            await until(lambda: all(all(hand.sent.values()) for hand in hands))
            begin_s = time.monotonic()
            await asyncio.to_thread(post, server, "/v1/drain", {"within_s": within_s})
            await asyncio.to_thread(server.process.wait, within_s + 30)
            ended_s = time.monotonic() - begin_s
            closes = [at - begin_s for at, _, code in (await herd.ask("events"))["closes"] if code == 4012]
            first.close()
            server = stack.enter_context(fastim(lab, application=None, data=data, port=port))
            back = await herd.ask("wait", ready=len(users), timeout_s=RETURN_S)
            for hand in hands:
                hand.silent = True
        last = {room: max(seqs) for hand in hands for room, seqs in hand.sent.items() if seqs}
        await herd.ask("run", seconds=1.0)
        seen = (await herd.ask("seen"))["seen"]
        report = await herd.ask("report")
        figures = evenness(closes, within_s) | {
            "wall_s": ended_s,
            "away": len(users) - back["ready"],
            "lost": report["counts"].get("holes", 0) + missing(seen, last) + unstored(hands),
            "twice": report["counts"].get("repeated", 0) + stored_twice(server, hands),
        }
        herd.close()
        return figures


@contextlib.asynccontextmanager
async def writing(
    server: FastimServer, names: list[str], rooms: list[str], pause_s: float = 0.5
) -> AsyncIterator[list[Writer]]:
    """Have writers go round their rooms until the block ends."""
    hands = []
    async with contextlib.AsyncExitStack() as stack:
        for number, name in enumerate(names):
            token = issue(server.secret, name, ttl_s=86_400)
            client = connect(
                f"http://127.0.0.1:{server.port}", token=token, compression=False, open_timeout_s=RETURN_S
            )
            await stack.enter_async_context(client)
            hands.append(Writer(client, rooms[number :: len(names)]))
        tasks = [asyncio.create_task(hand.write(pause_s)) for hand in hands]
        yield hands
        for hand in hands:
            hand.silent = True
        await asyncio.gather(*tasks)


async def until(condition: Any, timeout_s: float = 60.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - counters that others move have no event
            await asyncio.sleep(0.05)


def evenness(closes: list[float], within_s: float) -> Figures:
    """How far from the mean the worst second was, and how long all took."""
    seconds = max(1, round(within_s))
    counts = Counter(min(int(at_s), seconds - 1) for at_s in closes)
    mean = len(closes) / seconds
    worst = max(abs(counts[second] - mean) for second in range(seconds))
    return {
        "window_s": max(closes) - min(closes),
        "uneven_percent": worst / mean * 100,
        "closed": len(closes),
    }


def missing(seen: list[dict[str, int]], last: dict[str, int]) -> int:
    """Messages behind what members have seen."""
    return sum(max(0, last.get(room, 0) - seq) for each in seen for room, seq in each.items())


def unstored(hands: list[Writer]) -> int:
    """Seqs of a room that nobody was told of: each room has one writer, who was told of all of its own."""
    return sum(max(seqs, default=0) - len(set(seqs)) for hand in hands for seqs in hand.sent.values())


def stored_twice(server: FastimServer, hands: list[Writer]) -> int:
    """Messages in the store that are more than were sent."""
    return sum(
        last_seq(server, room) - len(seqs) for hand in hands for room, seqs in hand.sent.items() if seqs
    )


def last_seq(server: FastimServer, room: str) -> int:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}/v1/conversations/{room}", headers={"X-API-Key": server.api_key}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(json.load(answer)["last_seq"])


# -- what it all costs


def features(options: Options) -> Result:
    """CPU a message with the features on and off, interleaved; the median of the pairs.

    Beside user CPU there is all of it: the kernel tells the two apart by samples, 100 a second.
    """
    ratios: dict[str, list[float]] = {"fanout": [], "echo": [], "fanout_all": [], "echo_all": []}
    for number in range(options.pairs):
        order = ("on", "off") if number % 2 else ("off", "on")
        for mode in ("fanout", "echo"):
            found = {
                name: cost(options, mode, FEATURES_ON if name == "on" else FEATURES_OFF) for name in order
            }
            for key, figure in ((mode, "user_us"), (f"{mode}_all", "cpu_us")):
                if found["off"][figure]:  # none in so short a time, on a busy machine
                    ratios[key].append(found["on"][figure] / found["off"][figure])
    return {"fastim": {key: median(values) for key, values in ratios.items()}}


def cost(options: Options, mode: str, settings: dict[str, str]) -> Figures:
    lab = options.lab
    if mode == "fanout":
        count, shape = options.count(1_000), ["--pre", '["pub",{"text":"', "--post", '"}]', "--window", "16"]
    else:
        count, shape = options.count(200), ["--pre", '["echo",{"text":"', "--post", '"},1]', "--depth", "4"]
    with tempfile.TemporaryDirectory() as folder, fastim(lab, settings=settings) as server:
        hello = fastim_hello(tokens_of(server, folder, "tokens", [f"u{n}" for n in range(count)]))
        common = ["--size", "64", "--secs", str(options.seconds)]
        return wsload(lab, mode, server, count, *common, *shape, *hello)


RESILIENCE = {
    "stalled": Row(
        "healthy members of a room of 1,000 while a tenth of it reads nothing: deliveries/s each",
        stalled,
        [
            Ratio("fastim.per_member_per_s", "all_read.per_member_per_s", at_least=0.95),
            Ratio("fastim.grown_mb", at_most=200),
        ],
    ),
    "typing": Row(
        "typing to delivery: a typist a conversation every 3 s, 500 connects/s, 80 % of the durable capacity",
        typing,
        [Ratio("fastim.p99_us", at_most=100_000), Ratio("fastim.p99_us", "alone.p99_us")],
    ),
    "resume": Row(
        "19,000 resumes at once, 50 missed messages each: seconds of server CPU",
        resume,
        [
            Ratio("fastim.server_cpu_s", at_most=10),
            Ratio("fastim.lost", at_most=0),
            Ratio("fastim.twice", at_most=0),
            Ratio("fastim.away", at_most=0),
            Ratio("fastim.store_reads", at_most=19_000 / 10),
        ],
    ),
    "refused": Row(
        "connects from a blocked address: refused a second and core, memory",
        refused,
        [Ratio("fastim.refused_per_core_s", at_least=8_000), Ratio("fastim.grown_mb", at_most=5)],
    ),
    "drain": Row(
        "drain of 19,000 connections within 30 s, with messages on the way, and a restart",
        drain,
        [
            Ratio("fastim.window_s", at_most=31),
            Ratio("fastim.window_s", at_least=29),
            Ratio("fastim.uneven_percent", at_most=20),
            Ratio("fastim.lost", at_most=0),
            Ratio("fastim.twice", at_most=0),
            Ratio("fastim.away", at_most=0),
        ],
    ),
    "features": Row(
        "user CPU a message with the features on and off, median of interleaved pairs",
        features,
        [Ratio("fastim.fanout", at_most=1.15), Ratio("fastim.echo", at_most=1.15)],
        once=True,
    ),
}
