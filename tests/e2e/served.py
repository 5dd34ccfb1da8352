"""``fastim serve`` as a process, for tests that talk to it from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastim", *arguments]


def environment(**settings: str) -> dict[str, str]:
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
    return os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"} | settings


@dataclass
class Served:
    """A server that runs.

    Attributes:
        url: What it said it listens on.
        data: Its data folder.
    """

    process: subprocess.Popen[str]
    url: str
    data: Path

    def token(self, user: str, *arguments: str) -> str:
        out = subprocess.run(
            command("token", user, "--data", str(self.data), *arguments),
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=DEADLINE_S,
        )
        return out.stdout.strip()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def serve(data: Path, *arguments: str, port: int = 0, **settings: str) -> Iterator[Served]:
    """Run a server on a data folder until the block ends.

    Args:
        port: 0: one that is free.
        settings: Environment variables, such as ``FASTIM_LIMITS__MESSAGES_PER_MINUTE="0"``.
    """
    with (
        open(data.with_suffix(".log"), "a") as log,
        subprocess.Popen(
            command("serve", *arguments, "--port", str(port), "--data", str(data)),
            env=environment(**settings),
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
        ) as process,
    ):
        try:
            line = process.stdout.readline()
            assert line.startswith("fastim listening on "), data.with_suffix(".log").read_text()
            yield Served(process, line.split()[-1], data)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(DEADLINE_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
