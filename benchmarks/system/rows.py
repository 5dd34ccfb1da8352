"""The rows of the table: each drives fastim and its peers once and returns their figures by name."""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.system.load import (
    SOCKETIO,
    Figures,
    deflate_load,
    fastim_hello,
    flood,
    spread_load,
    wsload,
)
from benchmarks.system.prepare import fill_store
from benchmarks.system.servers import FastimServer, Lab, Server, fastim, peer
from fastim.guard.tokens import issue

__all__ = ["ROWS", "Options", "Ratio", "Row"]

Result = dict[str, Figures]


@dataclass(frozen=True)
class Options:
    """How large and how long.

    Attributes:
        scale: Of all connection counts; for a quick look, not for figures to quote.
        stored, large_conversations: What durable-large finds in its store.
        idle_members: Of each conversation of the idle connections; all of them are connected.
        pairs: Of runs with the features on and off.
    """

    lab: Lab
    peers: Sequence[str] | None = None
    seconds: float = 4.0
    scale: float = 1.0
    stored: int = 1_000_000
    large_conversations: int = 10_000
    idle_members: int = 4
    pairs: int = 10

    def count(self, connections: int) -> int:
        return max(int(connections * self.scale), 4)


@dataclass(frozen=True)
class Ratio:
    """What a row has to reach: a figure of ours against one of another's, or a bound by itself.

    Attributes:
        ours, theirs: ``server.figure``; theirs empty: the figure alone is compared.
        at_least, at_most: The bound; one of them.
    """

    ours: str
    theirs: str = ""
    at_least: float | None = None
    at_most: float | None = None


@dataclass(frozen=True)
class Row:
    """A row: how to measure it and what it has to reach.

    Attributes:
        once: It takes its own medians, so that one run is enough.
    """

    what: str
    measure: Callable[[Options], Result]
    ratios: Sequence[Ratio]
    peers: Sequence[str] = field(default=())
    once: bool = False


def write_tokens(secret: bytes, count: int, folder: str) -> Path:
    """Write a token a line, each of its own user: u0, u1, …"""
    path = Path(folder) / "tokens"
    path.write_text("".join(issue(secret, f"u{number}", ttl_s=86_400) + "\n" for number in range(count)))
    return path


def post(server: FastimServer, path: str, body: object) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        data=json.dumps(body).encode(),
        headers={"X-API-Key": server.api_key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


def create_conversations(server: FastimServer, users: int, members: int) -> None:
    """Put each user into one conversation of ``members``: c0, c1, …"""

    def create(number: int) -> None:
        names = [f"u{user}" for user in range(number * members, min((number + 1) * members, users))]
        body = {"kind": "group", "creator": names[0], "members": names[1:], "conversation": f"c{number}"}
        post(server, "/v1/conversations", body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(create, range((users + members - 1) // members)))


def over_peers(
    options: Options, names: Sequence[str], mode: str, load: Callable[[Server], Figures]
) -> Result:
    result = {}
    for name in names:
        if options.peers is None or name in options.peers:
            with peer(options.lab, name, mode) as server:
                result[name] = load(server)
    return result


# -- fan-out and echo


def fanout(options: Options) -> Result:
    count, lab = options.count(1_000), options.lab
    common = ["--size", "64", "--secs", str(options.seconds), "--window", "16"]

    def load(server: Server) -> Figures:
        sio = [*SOCKETIO, "--pre", '42["pub","', "--post", '"]'] if server.name == "socketio" else []
        return wsload(lab, "fanout", server, count, *common, *sio)

    with tempfile.TemporaryDirectory() as folder, fastim(lab) as server:
        hello = fastim_hello(write_tokens(server.secret, count, folder))
        packet = ["--pre", '["pub",{"text":"', "--post", '"}]']
        result = {"fastim": wsload(lab, "fanout", server, count, *common, *hello, *packet)}
    return result | over_peers(options, ("uws", "socketio"), "fanout", load)


def deflate(options: Options) -> Result:
    count, lab = options.count(1_000), options.lab
    common = ["--size", "1024", "--secs", str(options.seconds), "--window", "16"]

    def load(server: Server) -> Figures:
        return deflate_load(lab, server, count, *common)

    with tempfile.TemporaryDirectory() as folder, fastim(lab) as server:
        hello = fastim_hello(write_tokens(server.secret, count, folder))
        packet = ["--pre", '["pub",{"text":{', "--post", "}}]"]
        result = {"fastim": deflate_load(lab, server, count, *common, *hello, *packet)}
    return result | over_peers(options, ("websockets", "uws"), "deflate", load)


def echo(options: Options) -> Result:
    count, lab = options.count(200), options.lab
    common = ["--size", "64", "--secs", str(options.seconds), "--depth", "4"]

    def load(server: Server) -> Figures:
        sio = [*SOCKETIO, "--pre", '42["pub","', "--post", '"]'] if server.name == "socketio" else []
        return wsload(lab, "echo", server, count, *common, *sio)

    with tempfile.TemporaryDirectory() as folder, fastim(lab) as server:
        hello = fastim_hello(write_tokens(server.secret, count, folder))
        packet = ["--pre", '["echo",{"text":"', "--post", '"},1]']
        result = {"fastim": wsload(lab, "echo", server, count, *common, *hello, *packet)}
    return result | over_peers(options, ("limit", "picows", "socketio"), "echo", load)


# -- connections


def idle(options: Options) -> Result:
    """Slope of the resident memory: two servers, the second with four times the connections."""
    few, many = options.count(4_000), options.count(16_000)
    rss_bytes = {}
    for count in (few, many):
        with tempfile.TemporaryDirectory() as folder, fastim(options.lab, application=None) as server:
            tokens = write_tokens(server.secret, many, folder)
            create_conversations(server, many, options.idle_members)
            figures = wsload(options.lab, "idle", server, count, "--hold", "3", *fastim_hello(tokens))
            rss_bytes[count] = figures["idle_rss_mb"] * 1024 * 1024
    slope = (rss_bytes[many] - rss_bytes[few]) / (many - few)
    return {"fastim": {"bytes_per_connection": slope}}


def connect(options: Options) -> Result:
    count, lab = options.count(8_000), options.lab

    def load(server: Server) -> Figures:
        return wsload(
            lab, "idle", server, count, "--hold", "0.2", *(SOCKETIO if server.name == "socketio" else [])
        )

    with tempfile.TemporaryDirectory() as folder, fastim(lab) as server:
        hello = fastim_hello(write_tokens(server.secret, count, folder))
        result = {"fastim": wsload(lab, "idle", server, count, "--hold", "0.2", *hello)}
    return result | over_peers(options, ("socketio", "uws"), "echo", load)


# -- durable messages


def durable_load(options: Options, server: FastimServer, folder: str, depth: int = 16) -> Figures:
    """200 senders in 50 conversations of four; the marker is the message's time-ordered ``client_id``."""
    count = options.count(200)
    figures = wsload(
        options.lab,
        "durable",
        server,
        count,
        *("--depth", str(depth), "--size", "32", "--secs", str(options.seconds)),
        *("--div", "4", "--ack", '"duplicate"'),
        *("--pre", '["message",{"conversation":"c%d","client_id":"'),
        *("--post", '","content":"a message of some sixty-four bytes, as people write them all."},1]'),
        *fastim_hello(write_tokens(server.secret, count, folder)),
    )
    # The marker is in each ok, too.
    figures["deliveries_per_ack"] = figures["messages"] / figures["acks"] - 1
    return figures


def durable(options: Options) -> Result:
    result = {}
    for name, settings in (("fastim", {}), ("one_commit_a_message", {"FASTIM_STORE__MAX_BATCH": "1"})):
        with (
            tempfile.TemporaryDirectory() as folder,
            fastim(options.lab, application=None, settings=settings) as server,
        ):
            create_conversations(server, options.count(200), 4)
            result[name] = durable_load(options, server, folder)
    return result


def durable_large(options: Options) -> Result:
    """Each sender goes round all of its conversations, in an empty store and in a full one."""
    return {
        "empty": durable_spread(options, 50, 0),
        "fastim": durable_spread(options, options.large_conversations, options.stored),
    }


def durable_spread(options: Options, conversations: int, stored: int) -> Figures:
    users = options.count(200)
    with tempfile.TemporaryDirectory(prefix="fastim-bench-", dir="/var/tmp") as home:
        data = Path(home) / "data"
        fill_store(data, conversations, stored, users)
        with fastim(options.lab, application=None, data=data) as server:
            tokens = write_tokens(server.secret, users, home)
            return spread_load(options.lab, server, tokens, conversations, options.seconds)


# -- fairness


def flooded(options: Options) -> Result:
    """A neighbour's echo while 20 connections write tiny frames as fast as they are taken."""
    packet = ["--pre", '["echo",{"text":"', "--post", '"},1]', "--size", "64", "--depth", "1"]
    with tempfile.TemporaryDirectory() as folder, fastim(options.lab) as server:
        tokens = write_tokens(server.secret, 20, folder)
        calm = [*packet, "--secs", str(options.seconds), *fastim_hello(tokens)]
        result = {"calm": wsload(options.lab, "echo", server, 1, *calm)}
        with flood(options.lab, server, tokens, 20):
            result["fastim"] = wsload(options.lab, "echo", server, 1, *calm)
    return result


ROWS = {
    "fanout": Row(
        "fan-out through `pub`, 1,000 connections, 16 in flight, 64 bytes",
        fanout,
        [
            Ratio("fastim.messages_per_s", "uws.messages_per_s", at_least=0.95),
            Ratio("fastim.messages_per_s", "socketio.messages_per_s", at_least=15),
        ],
    ),
    "deflate": Row(
        "the same with permessage-deflate, 1 KB of JSON",
        deflate,
        [
            Ratio("fastim.messages_per_s", "websockets.messages_per_s", at_least=20),
            Ratio("fastim.messages_per_s", "uws.messages_per_s", at_least=4),
        ],
    ),
    "echo": Row(
        "echo through `echo`, 200 connections, 4 deep: server CPU a message",
        echo,
        [
            Ratio("fastim.cpu_us", "picows.cpu_us", at_most=1.0),
            Ratio("fastim.cpu_us", "socketio.cpu_us", at_most=0.45),
            Ratio("fastim.cpu_us", "limit.cpu_us"),
        ],
    ),
    "idle": Row(
        "idle connection, own user and token, member of one conversation of 4: memory, slope 4,000 to 16,000",
        idle,
        [Ratio("fastim.bytes_per_connection", at_most=1_500)],
    ),
    "connect": Row(
        "connect + JWT + hello, a new token each: server CPU a connection",
        connect,
        [
            Ratio("fastim.connect_cpu_us", "socketio.connect_cpu_us", at_most=0.5),
            Ratio("fastim.connect_cpu_us", "uws.connect_cpu_us"),
        ],
    ),
    "durable": Row(
        "durable messages acknowledged, SQLite FULL, 200 senders 16 deep, 50 conversations of 4, delivered",
        durable,
        [
            Ratio("fastim.acks_per_s", at_least=20_000),
            Ratio("fastim.acks_per_s", "one_commit_a_message.acks_per_s", at_least=10),
        ],
    ),
    "durable-large": Row(
        "the same at 10,000 conversations and 1,000,000 stored messages",
        durable_large,
        [
            Ratio("fastim.acks_per_s", at_least=10_000),
            Ratio("fastim.ack_cpu_us", "empty.ack_cpu_us", at_most=2.0),
        ],
    ),
    "flood": Row(
        "a neighbour's echo p99 while 20 connections flood tiny frames, µs",
        flooded,
        [Ratio("fastim.p99_us", at_most=10_000), Ratio("fastim.p99_us", "calm.p99_us")],
    ),
}
