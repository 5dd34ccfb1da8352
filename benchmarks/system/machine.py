"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["describe", "same_congestion_control"]

CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


@contextmanager
def same_congestion_control(name: str = "cubic") -> Iterator[None]:
    """Give every server the congestion control that our listener asks for, while this lasts.

    The peers take the machine's default, and ``bbr`` collapses where server and load compete for a CPU.
    Without the right to change it, nothing is changed: ``describe`` names what was in force.
    """
    try:
        before = CONGESTION.read_text()
        CONGESTION.write_text(name)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        CONGESTION.write_text(before)


def _first(path: str, key: str) -> str:
    try:
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return "?"


def describe() -> str:
    """Describe the machine in one line."""
    found = [
        _first("/proc/cpuinfo", "model name"),
        f"{os.cpu_count()} CPUs",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"TCP {CONGESTION.read_text().strip()}" if CONGESTION.exists() else "",
        f"load before {os.getloadavg()[0]:.1f}",
        f"commit {_commit()}",
    ]
    return ", ".join(part for part in found if part)


def _commit() -> str:
    out = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return out.stdout.strip() or "?"
