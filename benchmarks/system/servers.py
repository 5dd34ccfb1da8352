"""The servers that are measured, each a process pinned to one CPU: fastim and its peers."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "FastimServer", "Lab", "Server", "fastim", "free_port", "peer"]

ROOT = Path(__file__).parents[2]
PEER_SOURCES = Path(__file__).parent / "peers"
START_S = 20.0

# Nothing that protects a server against its users may stand in the way of a load generator.
UNLIMITED = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
    "FASTIM_DRAIN__WITHIN_S": "0",
    "FASTIM_SERVER__LOG_LEVEL": "warning",
}

PEERS = ("limit", "uws", "picows", "websockets", "socketio", "pysocketio")


@dataclass(frozen=True)
class Lab:
    """The folder with the load generator and the peers' packages, and the CPUs to use.

    Attributes:
        folder: Holds ``wsload``, ``venv`` and ``node``.
        server_cpu: Of the server.
        load_cpu: Of the load generator.
    """

    folder: Path
    server_cpu: int = 0
    load_cpu: int = 1

    def check(self) -> None:
        """Exit with an explanation if the load generator is not there."""
        if not (self.folder / "wsload").exists():
            sys.exit(
                f"There is no load generator at {self.folder / 'wsload'}.\n"
                "The lab is a folder with wsload (a WebSocket load generator), limit (a bare C loop),\n"
                "venv (websockets, uvloop, picows, socketify, python-socketio) and node (socket.io), made\n"
                "by its setup.sh; name it with LAB=FOLDER or --lab FOLDER."
            )

    def pinned(self, *command: str | Path, load: bool = False) -> list[str]:
        """Return the command so that it runs on its CPU, where the system can pin."""
        words = [str(word) for word in command]
        if shutil.which("taskset") is None:
            return words
        return ["taskset", "-c", str(self.load_cpu if load else self.server_cpu), *words]


@dataclass
class Server:
    """A running server."""

    name: str
    process: subprocess.Popen[bytes]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class FastimServer(Server):
    """A running ``fastim serve``."""

    data: Path

    @property
    def secret(self) -> bytes:
        return (self.data / "secret").read_bytes().strip()

    @property
    def api_key(self) -> str:
        return (self.data / "api_key").read_text().strip()


def free_port() -> int:
    """Find a port below the range of client sockets, which linger there after each measurement."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise RuntimeError("no port between 20000 and 32000 is free")


@contextlib.contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def fastim(
    lab: Lab,
    *,
    module: str = "fastim",
    application: str | None = "examples.echo_app:app",
    data: Path | None = None,
    settings: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[FastimServer]:
    """Run ``fastim serve`` until the block ends.

    Args:
        module: What is run; another than ``fastim`` takes the same command line.
        data: Its data folder, on a real disk; None: a new one that is removed.
        settings: More environment variables.
        port: Where it listens; 0: anywhere.
    """
    with contextlib.ExitStack() as stack:
        if data is None:
            # Not /tmp, which may be in memory: a sync has to reach a disk.
            data = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="fastim-bench-", dir="/var/tmp"))
            )
        words = [sys.executable, "-m", module, "serve", *([application] if application else [])]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTIM_")}
        environment |= UNLIMITED | dict(settings or {})
        environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        process = stack.enter_context(
            subprocess.Popen(
                lab.pinned(*words, "--port", str(port), "--data", data),
                stdout=subprocess.PIPE,
                env=environment,
                cwd=ROOT,
            )
        )
        stack.enter_context(_ended(process))
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        if not line.startswith("fastim listening on "):
            raise RuntimeError(f"fastim serve did not start: {line!r}")
        yield FastimServer("fastim", process, int(line.rpartition(":")[2]), data)


@contextlib.contextmanager
def peer(lab: Lab, name: str, mode: str, secret: bytes = b"") -> Iterator[Server]:
    """Run a peer until the block ends.

    Args:
        mode: ``echo``, ``fanout``, ``deflate`` (fan-out with permessage-deflate) or, of the peers that speak
            Socket.IO, ``app``: an application with rooms and acknowledgements, whose users have tokens.
        secret: What the tokens are signed with.
    """
    port = free_port()
    program = f"{name}_app" if mode == "app" else f"{name}_server"
    if name == "limit":
        command: list[str | Path] = [lab.folder / "limit", str(port), mode]
    elif name == "socketio":
        command = ["node", PEER_SOURCES / f"{program}.js", str(port), mode]
    else:
        command = [lab.folder / "venv/bin/python", PEER_SOURCES / f"{program}.py", str(port), mode]
    environment = os.environ | {
        "NODE_PATH": str(lab.folder / "node/node_modules"),
        "SECRET": secret.decode(),
    }
    # Peers tell of each connection that a load generator drops; whoever wonders finds it here.
    log = Path(tempfile.gettempdir()) / f"fastim-bench-{name}.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(lab.pinned(*command), env=environment, stdout=out, stderr=out) as process,
        _ended(process),
    ):
        _wait_for_port(port, process)
        yield Server(name, process, port)


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the peer ended with {process.returncode} before it listened")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the peer does not listen")
