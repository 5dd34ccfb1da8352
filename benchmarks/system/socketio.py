"""Socket.IO beside its servers on Node and on Python: one application on each, one client for all.

Users come with an HS256 token, which each server checks in its own way: fastim by itself, the peers in their
middleware and connect handler with what their languages bring.
"""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.system.load import Figures, polling_load, wsload
from benchmarks.system.rows import Options, Ratio, Result, Row, write_tokens
from benchmarks.system.servers import Server, fastim, peer

__all__ = ["SOCKETIO"]

PEERS = ("socketio", "pysocketio")
Load = Callable[[Server, Path], Figures]


@contextlib.contextmanager
def each_server(options: Options, name: str, users: int) -> Iterator[tuple[Server, Path]]:
    """Run one of the servers with its application; with it come the tokens of so many users."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if name == "fastim":
            ours = stack.enter_context(fastim(options.lab, application="benchmarks.system.socketio_app:app"))
            yield ours, write_tokens(ours.secret, users, folder)
        else:
            secret = secrets.token_hex(32).encode()
            theirs = stack.enter_context(peer(options.lab, name, "app", secret))
            yield theirs, write_tokens(secret, users, folder)


def over_servers(options: Options, users: int, load: Load) -> Result:
    result = {}
    for name in ("fastim", *PEERS):
        if name == "fastim" or options.peers is None or name in options.peers:
            with each_server(options, name, users) as (server, tokens):
                result[name] = load(server, tokens)
    return result


def hello(tokens: Path) -> list[str]:
    """Options with which wsload enters the namespace: a token of the file each."""
    path = ["--path", "/socket.io/?EIO=4&transport=websocket"]
    return [*path, "--hello", '40{"token":"%s"}', "--ready", "40{", "--tokens", str(tokens)]


def broadcast(options: Options) -> Result:
    count = options.count(1_000)
    words = ["--size", "64", "--secs", str(options.seconds), "--window", "16"]
    words += ["--pre", '42["pub","', "--post", '"]']
    return over_servers(
        options,
        count,
        lambda server, tokens: wsload(options.lab, "fanout", server, count, *words, *hello(tokens)),
    )


def acknowledged(options: Options) -> Result:
    count = options.count(200)
    words = ["--size", "64", "--secs", str(options.seconds), "--depth", "4"]
    words += ["--pre", '421["echo","', "--post", '"]']
    return over_servers(
        options,
        count,
        lambda server, tokens: wsload(options.lab, "echo", server, count, *words, *hello(tokens)),
    )


def idle(options: Options) -> Result:
    """Slope of the resident memory: two servers, the second with four times the connections."""
    few, many = options.count(4_000), options.count(16_000)

    def load(server: Server, tokens: Path, count: int) -> Figures:
        return wsload(options.lab, "idle", server, count, "--hold", "3", *hello(tokens))

    less = over_servers(options, many, lambda server, tokens: load(server, tokens, few))
    more = over_servers(options, many, lambda server, tokens: load(server, tokens, many))
    megabyte = 1024 * 1024
    return {
        name: {
            "bytes_per_connection": (more[name]["idle_rss_mb"] - less[name]["idle_rss_mb"])
            * megabyte
            / (many - few)
        }
        for name in more
    }


def connect(options: Options) -> Result:
    count = options.count(4_000)
    return over_servers(
        options,
        count,
        lambda server, tokens: wsload(options.lab, "idle", server, count, "--hold", "0.2", *hello(tokens)),
    )


def polling(options: Options) -> Result:
    count = options.count(200)

    def load(server: Server, tokens: Path) -> Figures:
        sessions = polling_load(options.lab, server, "sessions", tokens, count, options.seconds)
        messages = polling_load(options.lab, server, "messages", tokens, count, options.seconds)
        busy = max(sessions["load_busy_percent"], messages["load_busy_percent"])
        return sessions | messages | {"load_busy_percent": busy}

    return over_servers(options, count, load)


SOCKETIO = {
    "sio-broadcast": Row(
        "Socket.IO: broadcast to a room of 1,000 over WebSocket, 16 in flight, 64 bytes",
        broadcast,
        [
            Ratio("fastim.messages_per_s", "socketio.messages_per_s", at_least=12),
            Ratio("fastim.messages_per_s", "pysocketio.messages_per_s", at_least=40),
        ],
    ),
    "sio-ack": Row(
        "Socket.IO: emit with acknowledgement over WebSocket, 200 connections × 4, 64 bytes",
        acknowledged,
        [
            Ratio("fastim.cpu_us", "socketio.cpu_us", at_most=1 / 2),
            Ratio("fastim.cpu_us", "pysocketio.cpu_us", at_most=1 / 10),
            Ratio("fastim.messages_per_s", "socketio.messages_per_s"),
            Ratio("fastim.messages_per_s", "pysocketio.messages_per_s"),
        ],
    ),
    "sio-idle": Row(
        "Socket.IO: resident bytes of an idle connection over WebSocket that said its token",
        idle,
        [
            Ratio("fastim.bytes_per_connection", "socketio.bytes_per_connection", at_most=1 / 8),
            Ratio("fastim.bytes_per_connection", "pysocketio.bytes_per_connection"),
        ],
    ),
    "sio-connect": Row(
        "Socket.IO: connect over WebSocket with a token, a new one each: server CPU a connection",
        connect,
        [
            Ratio("fastim.connect_cpu_us", "socketio.connect_cpu_us", at_most=0.5),
            Ratio("fastim.connect_cpu_us", "pysocketio.connect_cpu_us"),
        ],
    ),
    "sio-polling": Row(
        "Socket.IO: 200 sessions over polling, posting and polling in turn, 64 bytes; and coming and going",
        polling,
        [
            Ratio("fastim.messages_per_s", "socketio.messages_per_s", at_least=0.7),
            Ratio("fastim.messages_per_s", "pysocketio.messages_per_s", at_least=3),
            Ratio("fastim.sessions_per_s", "socketio.sessions_per_s", at_least=0.7),
            Ratio("fastim.sessions_per_s", "pysocketio.sessions_per_s", at_least=3),
        ],
    ),
}
