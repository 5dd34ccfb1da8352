"""The small programs of this folder as processes, and the clients that drive them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NODE_FOLDER", "Program", "Report", "drive_with_node", "drive_with_python", "running"]

ROOT = Path(__file__).parents[2]
NODE_FOLDER = Path(__file__).parent / "node"
DEADLINE_S = 20.0
DRIVE_S = 90.0

Report = dict[str, str | None]
"""What went wrong in each scenario; None: nothing."""


# What stands in the log when the mistake is ours and not a client's.
OWN_MISTAKES = ("could not be served", "a tick failed", "background task failed", "Exception in callback")


@dataclass(frozen=True)
class Program:
    """A running one.

    Attributes:
        port: Where it listens, on this machine.
        pid: Of its process.
    """

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running(program: str, *arguments: str, **settings: str) -> Iterator[Program]:
    """Run a program on a free port. It has to end well, whatever was done to it.

    Args:
        settings: Environment variables.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTIM_")}
    environment["PYTHONPATH"] = os.pathsep.join((str(ROOT / "src"), environment.get("PYTHONPATH", "")))
    command = [sys.executable, str(ROOT / "tests/compliance" / program), "0", *arguments]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment | settings
        ) as process,
    ):

        def read_log() -> str:
            log.seek(0)
            return log.read()

        assert process.stdout is not None
        try:
            port = process.stdout.readline().strip().rpartition(":")[2]
            assert port, read_log()
            yield Program(int(port), process.pid)
        finally:
            process.terminate()
            status = process.wait(DEADLINE_S)
        assert status == 0, read_log()
        for sign in OWN_MISTAKES:
            assert sign not in read_log(), read_log()


def drive_with_node(url: str, *options: str) -> Report:
    """Run the scenarios of ``node/drive.mjs``."""
    if not (NODE_FOLDER / "node_modules").is_dir():
        raise FileNotFoundError(f"{NODE_FOLDER} has no node_modules: scripts/setup dev installs them")
    # What may have been put before the interpreter of the tests is not for this one.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return _report(["node", str(NODE_FOLDER / "drive.mjs"), url, *options], environment)


def drive_with_python(url: str, *options: str) -> Report:
    """Run the scenarios of ``python/drive.py``."""
    environment = dict(os.environ)
    command = [sys.executable, "-m", "tests.compliance.python.drive", url, *options]
    return _report(command, environment)


def _report(command: list[str], environment: dict[str, str]) -> Report:
    """Run a driver; of one that is not through in time, what it has reported."""
    try:
        done = subprocess.run(
            command, capture_output=True, cwd=ROOT, env=environment, timeout=DRIVE_S, check=False
        )
        output, problems = done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        output, problems = late.stdout or b"", b"not through in time"
    report: Report = {line["scenario"]: line["error"] for line in map(json.loads, output.splitlines())}
    if not report:
        raise RuntimeError(f"{' '.join(command)}: {problems.decode()}")
    return report
