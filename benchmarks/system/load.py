"""The load generators: the lab's wsload, our own for compressed fan-out, and a flood of tiny frames."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.system.servers import Lab, Server

__all__ = [
    "SOCKETIO",
    "deflate_load",
    "fastim_hello",
    "flood",
    "polling_load",
    "refused_load",
    "run",
    "spread_load",
    "spread_words",
    "typing_load",
    "wsload",
]

HERE = Path(__file__).parent
Figures = dict[str, float]

SOCKETIO = ["--path", "/socket.io/?EIO=4&transport=websocket", "--hello", "40", "--ready", "40{"]

# What wsload prints, by name.
PATTERNS = {
    "ready": r"connect: (\d+) ready",
    "wanted": r"ready of (\d+)",
    "connects_per_s": r"= (\d+)/s; server cpu [\d.]+ us/conn",
    "connect_cpu_us": r"server cpu ([\d.]+) us/conn",
    "idle_rss_mb": r"idle: server rss ([\d.]+) MB",
    "messages": r"\w+: (\d+) msgs in",
    "messages_per_s": r"msgs in [\d.]+ s = (\d+)/s",
    "cpu_us": r"server cpu ([\d.]+) us/msg",
    "user_us": r"us/msg \(user ([\d.]+) sys",
    "server_busy_percent": r"us/msg .*?busy (\d+)%",
    "lost": r"lost (-?\d+)",
    "p50_us": r"p50 (\d+)",
    "p99_us": r"p99 (\d+)",
    "acks": r"acks: (\d+) of",
    "acks_per_s": r"sent = (\d+)/s",
    "ack_cpu_us": r"server cpu ([\d.]+) us/ack",
    "pings": r"pings: (\d+) in",
    "ping_cpu_us": r"server cpu ([\d.]+) us/ping",
    "errors": r"errs (\d+)",
    "delivered": r"typing: (\d+) of \d+ delivered",
    "expected": r"typing: \d+ of (\d+) delivered",
    "sessions_per_s": r"sessions: \d+ in [\d.]+ s = (\d+)/s",
    "session_cpu_us": r"server cpu ([\d.]+) us/session",
    "churn_per_s": r"churn: \d+ in [\d.]+ s = (\d+)/s",
    "requests_per_s": r"requests: \d+ in [\d.]+ s = (\d+)/s",
    "request_cpu_us": r"server cpu ([\d.]+) us/request",
    "refused_per_s": r"refused: \d+ in [\d.]+ s = (\d+)/s",
    "refused": r"refused: (\d+) in",
    "answered": r"answered (\d+)",
    "load_busy_percent": r"client busy (\d+)%",
    "rss_mb": r"; rss ([\d.]+) MB",
}


def parse(output: str) -> Figures:
    """Read the figures that a load generator printed; of several, the last."""
    found = {name: re.findall(pattern, output) for name, pattern in PATTERNS.items()}
    return {name: float(values[-1]) for name, values in found.items() if values}


def run(command: Sequence[str]) -> Figures:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    figures = parse(done.stdout)
    if not figures or figures.get("ready", 0) < figures.get("wanted", 0):
        raise RuntimeError(f"the load failed: {' '.join(command)}\n{done.stdout}{done.stderr}")
    return figures


def wsload(lab: Lab, mode: str, server: Server, count: int, *options: str) -> Figures:
    """Run the lab's generator on the load's CPU.

    Args:
        mode: ``idle``, ``echo``, ``fanout`` or ``durable``.
        count: Connections.
        options: More of wsload's.
    """
    words = [
        lab.folder / "wsload",
        mode,
        "--port",
        str(server.port),
        "--n",
        str(count),
        "--pid",
        str(server.pid),
    ]
    return run([*lab.pinned(*words, load=True), *options])


def fastim_hello(tokens: Path) -> list[str]:
    """Options with which wsload opens fastim connections: a token of the file each."""
    hello = '["hello",{"token":"%s"},1]'
    return [
        "--path",
        "/ws",
        "--proto",
        "fastim.v1.json",
        "--hello",
        hello,
        "--tokens",
        str(tokens),
        "--ready",
        '"ok"',
    ]


def build_c(name: str) -> Path:
    """Compile one of our C programs into the system's temporary folder; return the program."""
    program = Path(tempfile.gettempdir()) / f"fastim-bench-{name}"
    source = HERE / f"{name}.c"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(program), str(source), "-lz"], check=True)
    return program


def deflate_load(lab: Lab, server: Server, count: int, *options: str) -> Figures:
    """Run the generator for compressed fan-out; the options are wsload's, see deflate_load.c."""
    words = [build_c("deflate_load"), "--port", str(server.port), "--n", str(count), "--pid", str(server.pid)]
    return run([*lab.pinned(*words, load=True), *options])


def spread_load(
    lab: Lab, server: Server, tokens: Path, conversations: int, seconds: float, rate: float = 0.0
) -> Figures:
    """Run the generator whose senders go round all of their conversations, see spread_load.py."""
    words = spread_words(server, tokens, conversations, seconds, rate)
    return run(lab.pinned(*words, load=True))


def spread_words(
    server: Server, tokens: Path, conversations: int, seconds: float, rate: float
) -> list[str | Path]:
    options = {
        "port": server.port,
        "pid": server.pid,
        "conversations": conversations,
        "secs": seconds,
        "rate": rate,
        "tokens": tokens,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "benchmarks.system.spread_load", *words]


@contextlib.contextmanager
def spread_beside(
    lab: Lab, server: Server, tokens: Path, conversations: int, seconds: float, rate: float
) -> Iterator[Figures]:
    """Run a steady load of durable messages beside the block; its figures are there behind the block."""
    figures: Figures = {}
    words = spread_words(server, tokens, conversations, seconds, rate)
    with subprocess.Popen(lab.pinned(*words, load=True), stdout=subprocess.PIPE, text=True) as process:
        yield figures
        figures |= parse(process.communicate()[0])


def typing_load(
    lab: Lab,
    server: Server,
    tokens: Path,
    churn: Path,
    rate: float,
    seconds: float,
    beside: contextlib.AbstractContextManager[Figures] | None = None,
) -> Figures:
    """Run the generator of typists, listeners and short visits, see typing_load.py.

    ``beside`` is entered when all are connected: to connect them is no part of the load. Its figures are
    named ``beside_…``.
    """
    options = {
        "port": server.port,
        "tokens": tokens,
        "churn-tokens": churn,
        "connects": rate,
        "secs": seconds,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    command = lab.pinned(sys.executable, "-m", "benchmarks.system.typing_load", *words, load=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        connected = process.stdout.readline()
        with beside or contextlib.nullcontext({}) as others:
            output = connected + process.communicate("begin\n", timeout=600)[0]
    figures = parse(output)
    if not figures or figures.get("ready", 0) < figures.get("wanted", 0):
        raise RuntimeError(f"the load failed: {output}")
    return figures | {f"beside_{name}": value for name, value in others.items()}


def polling_load(
    lab: Lab, server: Server, what: str, tokens: Path, count: int, seconds: float, message_bytes: int = 64
) -> Figures:
    """Run the generator of Socket.IO over HTTP long-polling, see polling_load.c.

    Args:
        what: ``messages`` or ``sessions``.
    """
    options = [server.port, count, seconds, server.pid, message_bytes]
    return run(lab.pinned(build_c("polling_load"), what, *map(str, options), tokens, load=True))


def refused_load(lab: Lab, server: Server, seconds: float) -> Figures:
    """Run the generator that connects from blocked addresses, see refused_load.c."""
    words = [build_c("refused_load"), str(server.port), str(seconds)]
    return run(lab.pinned(*words, load=True))


@contextlib.contextmanager
def flood(lab: Lab, server: Server, tokens: Path, count: int) -> Iterator[None]:
    """Have connections write tiny frames as fast as the server takes them, until the block ends."""
    words = [build_c("flood_load"), str(server.port), str(count), tokens]
    with subprocess.Popen(lab.pinned(*words, load=True), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline().startswith("flooding"):
                raise RuntimeError("the flood did not start")
            yield
        finally:
            process.terminate()
            process.wait()
