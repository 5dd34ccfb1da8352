"""How much memory the process holds, and how much it may."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Final

__all__ = ["memory_limit_bytes", "resident_bytes"]

STATM: Final = Path("/proc/self/statm")
CGROUPS: Final = Path("/proc/self/cgroup")
CGROUP_ROOT: Final = Path("/sys/fs/cgroup")


def resident_bytes() -> int:
    """Return the process's resident memory; where there is no /proc, the most it ever had."""
    try:
        return int(STATM.read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def memory_limit_bytes() -> int:
    """Return what the machine has or, where that is less, the smallest limit of our control groups."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *(limit for limit in map(read_limit, limit_files()) if limit)])


def limit_files() -> list[Path]:
    """Return where the limits stand, of version 2 and 1; those inside a container are at the root."""
    try:
        lines = CGROUPS.read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = CGROUP_ROOT, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CGROUP_ROOT / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.strip("/")
        while True:
            files.append(group / name)
            if group == root or root not in group.parents:
                break
            group = group.parent
    return files


def read_limit(file: Path) -> int:
    """Return a limit; 0 for none."""
    try:
        text = file.read_text().strip()
    except OSError:
        return 0
    return int(text) if text.isdigit() else 0
