"""``fastim serve`` as a process, on a port of its own, and clients that know nothing of fastim."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fastim.guard.tokens import issue

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from fastim.cli.main import main; main()"]
START_S = 20.0
WAIT_S = 10.0

CODES = {
    2: "typing",
    5: "system",
    11: "ok",
    12: "error",
    13: "new_message",
    14: "receipt",
    15: "state_batch",
    21: "server_shutdown",
    23: "forced_disconnect",
    28: "conversation",
}


class ServerProcess:
    """A running ``fastim serve``.

    Args:
        data: Its data folder.
        arguments: Of the command.
        environment: More of it.
        before: A command that runs what follows it in its own place, as ``env`` does.
        command: What is run.

    Attributes:
        port: Where it listens.
        data: Its data folder.
    """

    def __init__(
        self,
        data: Path,
        arguments: tuple[str, ...],
        environment: dict[str, str],
        before: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.data = data
        self.stderr_path = data.parent / f"{data.name}.stderr"
        self._stderr = self.stderr_path.open("ab")
        self.process = subprocess.Popen(
            [
                *before,
                *command,
                "serve",
                *arguments,
                "--port",
                environment.pop("PORT", "0"),
                "--data",
                str(data),
            ],
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            cwd=ROOT,
            env=make_environment(environment),
        )
        self.line = self._first_line()
        self.scheme, _, rest = self.line.removeprefix("fastim listening on ").partition("://")
        self.port = int(rest.rpartition(":")[2])

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], START_S)
        line = self.process.stdout.readline().decode().strip() if ready else ""
        if not line.startswith("fastim listening on "):
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not start: {line!r}\n{self.log()}")
        return line

    @property
    def http(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        return f"{'wss' if self.scheme == 'https' else 'ws'}://127.0.0.1:{self.port}/ws"

    @property
    def api_key(self) -> str:
        return (self.data / "api_key").read_text().strip()

    def token(self, user: str, **claims: Any) -> str:
        return issue((self.data / "secret").read_bytes().strip(), user, **claims)

    def log(self) -> str:
        return self.stderr_path.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Return the exit status of a process that was told to end."""
        status = self.process.wait(WAIT_S)
        self._close()
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        if not self._stderr.closed:
            self._stderr.close()
        if self.process.stdout is not None:
            self.process.stdout.close()


def make_environment(more: dict[str, str]) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTIM_")}
    path = [str(ROOT / "src"), str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(item for item in path if item)
    return environment | more


def run_fastim(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env=make_environment(environment),
        check=False,
    )


Start = Callable[..., ServerProcess]


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[Start]:
    """Start servers in a folder: ``start(*arguments, data="data", before=(), **environment)``."""
    started: list[ServerProcess] = []

    def start(
        *arguments: str,
        data: str = "data",
        before: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        **environment: str,
    ) -> ServerProcess:
        server = ServerProcess(folder / data, arguments, environment, before, command)
        started.append(server)
        return server

    try:
        yield start
    finally:
        for server in started:
            server.kill()


class Client:
    """A WebSocket client of the native protocol that checks nothing by itself."""

    def __init__(self, socket: ClientConnection, binary: bool) -> None:
        self.socket = socket
        self.binary = binary
        self.ok: dict[str, Any] = {}
        self._waiting: list[list[Any]] = []
        self._ref = 100

    async def send(self, *packet: Any) -> None:
        await self.socket.send(msgpack.packb(list(packet)) if self.binary else json.dumps(list(packet)))

    async def receive(self) -> list[Any]:
        """Return the next packet; batches are taken apart."""
        while not self._waiting:
            data = await asyncio.wait_for(self.socket.recv(), WAIT_S)
            packet = msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data)
            packets = packet if isinstance(packet[0], list) else [packet]
            self._waiting += [[CODES.get(item[0], item[0]), *item[1:]] for item in packets]
        return self._waiting.pop(0)

    async def receive_event(self, event: str) -> Any:
        """Return the body of the next packet of an event; others are dropped."""
        while True:
            packet = await self.receive()
            if packet[0] == event:
                return packet[1]

    async def request(self, event: str, body: Any) -> list[Any]:
        """Return the answer's event and body; other packets are kept for later."""
        self._ref += 1
        ref = self._ref
        await self.send(event, body, ref)
        others: list[list[Any]] = []
        while True:
            packet = await self.receive()
            if len(packet) == 3 and packet[2] == ref and packet[0] in ("ok", "error"):
                self._waiting = others + self._waiting
                return packet[:2]
            others.append(packet)

    async def receive_until_closed(self) -> AsyncIterator[list[Any]]:
        """Yield packets until the connection ends, however it ends."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                yield await self.receive()

    async def closed(self) -> tuple[int, str]:
        """Wait until the server has closed; return code and reason."""
        await asyncio.wait_for(self.socket.wait_closed(), WAIT_S)
        return self.socket.close_code or 0, self.socket.close_reason or ""


@contextlib.asynccontextmanager
async def open_client(
    server: ServerProcess,
    user: str | None = None,
    *,
    binary: bool = False,
    compression: str | None = None,
    hello: dict[str, Any] | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Connect and, for a user, say hello."""
    protocol = "fastim.v1.msgpack" if binary else "fastim.v1.json"
    async with connect(
        server.ws,
        subprotocols=[protocol],
        compression=compression,
        proxy=None,
        **{"max_queue": None, **options},
    ) as socket:
        client = Client(socket, binary)
        if user is not None:
            body = {"token": server.token(user)} | (hello or {})
            event, client.ok = await client.request("hello", body)
            assert event == "ok", client.ok
        yield client


@contextlib.contextmanager
def raw_socket(server: ServerProcess) -> Iterator[socket.socket]:
    """Connect a plain socket."""
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes or resets."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return received


def rest(server: ServerProcess, **options: Any) -> httpx.Client:
    """Make a client of ``/v1`` with the key."""
    return httpx.Client(
        base_url=server.http, headers={"X-API-Key": server.api_key}, trust_env=False, **options
    )


def figures(server: ServerProcess) -> dict[str, float]:
    """What the metrics tell, by name and labels."""
    with rest(server) as http:
        lines = http.get("/metrics").text.splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look at a condition that another process makes true until the deadline."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"not in time: {what}"
        select.select([], [], [], 0.01)
