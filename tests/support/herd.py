"""The handle of a swarm, which runs in a process of its own, and how its users and rooms are made."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastim.guard.tokens import issue

ROOT = Path(__file__).parents[2]
SLACK_S = 30.0  # on top of a command's own timeout


class Herd:
    """A swarm's process and the pipe to it; see ``Swarm`` for the commands.

    Args:
        cpu: The CPU to keep to, where the system can pin; None: any.
    """

    def __init__(self, cpu: int | None = None) -> None:
        command = [sys.executable, "-m", "tests.support.swarm"]
        if cpu is not None and shutil.which("taskset") is not None:
            command = ["taskset", "-c", str(cpu), *command]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)

    def begin(self, name: str, **arguments: Any) -> None:
        """Give a command; ``finish`` returns its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": name} | arguments).encode() + b"\n")
        self.process.stdin.flush()

    def finish(self, timeout_s: float = 150.0) -> Any:
        """Wait for the answer of the command that was given first."""
        out = self.process.stdout
        assert out is not None
        # One answer is read at a time, so none waits in the reader's buffer while the pipe is looked at.
        if not select.select([out], [], [], timeout_s)[0]:
            raise TimeoutError("the swarm did not answer in time")
        line = out.readline()
        if not line:
            raise RuntimeError("the swarm's process has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def call(self, name: str, **arguments: Any) -> Any:
        """Give a command and wait for its answer."""
        self.begin(name, **arguments)
        return self.finish(arguments.get("timeout_s", arguments.get("seconds", 120.0)) + SLACK_S)

    async def ask(self, name: str, **arguments: Any) -> Any:
        """Do the same and let the loop run meanwhile."""
        return await asyncio.to_thread(self.call, name, **arguments)

    def close(self) -> None:
        """End the process and with it all connections."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait(30)


@contextlib.contextmanager
def herding(cpu: int | None = None) -> Iterator[Herd]:
    """Run a swarm until the block ends."""
    herd = Herd(cpu)
    try:
        yield herd
    finally:
        herd.close()


def write_tokens(path: Path, secret: bytes, users: Sequence[str], **claims: Any) -> str:
    """Write a token a line; returns the file's name for ``connect``."""
    path.write_text("".join(issue(secret, user, ttl_s=86_400, **claims) + "\n" for user in users))
    return str(path)


def make_conversations(port: int, api_key: str, conversations: dict[str, list[str]]) -> None:
    """Make conversations with their members through ``/v1``, over a few connections that stay open."""

    def make(part: list[tuple[str, list[str]]]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
        try:
            for name, members in part:
                body = json.dumps({"kind": "group", "members": members, "conversation": name})
                connection.request("POST", "/v1/conversations", body, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status not in (200, 201):
                    raise RuntimeError(f"{name}: HTTP {answer.status} {text[:200]!r}")
        finally:
            connection.close()

    entries = list(conversations.items())
    ways = 4
    with ThreadPoolExecutor(ways) as pool:
        list(pool.map(make, [entries[way::ways] for way in range(ways)]))


def post_messages(port: int, api_key: str, conversations: Sequence[str], count: int) -> None:
    """Post messages of the system into each conversation through ``/v1``."""

    def post(part: Sequence[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"X-API-Key": api_key, "Content-Type": "application/json"}
        try:
            for name in part:
                for number in range(count):
                    body = json.dumps({"content": f"message {number}"})
                    connection.request("POST", f"/v1/conversations/{name}/messages", body, headers)
                    answer = connection.getresponse()
                    text = answer.read()
                    if answer.status != 201:
                        raise RuntimeError(f"{name}: HTTP {answer.status} {text[:200]!r}")
        finally:
            connection.close()

    ways = 8
    with ThreadPoolExecutor(ways) as pool:
        list(pool.map(post, [conversations[way::ways] for way in range(ways)]))


def read_metrics(port: int) -> dict[str, float]:
    """Read ``/metrics``: what has no labels, by name."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    rows = (line.split() for line in text.splitlines() if line and line[0] != "#" and "{" not in line)
    return {row[0]: float(row[1]) for row in rows}


def wait_for_metric(port: int, name: str, value: float, timeout_s: float = 30.0) -> None:
    """Look at a figure until it is what it is to be."""
    end_s = time.monotonic() + timeout_s
    while (now := read_metrics(port).get(name)) != value:
        assert time.monotonic() < end_s, f"{name} is {now}, not {value}"
        select.select([], [], [], 0.02)
