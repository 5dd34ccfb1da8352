"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

__all__ = ["describe"]


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
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    found = [
        _first("/proc/cpuinfo", "model name"),
        f"{os.cpu_count()} CPUs",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}",
        f"TCP {congestion.read_text().strip()}" if congestion.exists() else "",
        f"load before {os.getloadavg()[0]:.1f}",
        f"commit {_commit()}",
    ]
    return ", ".join(part for part in found if part)


def _commit() -> str:
    out = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return out.stdout.strip() or "?"
