"""What a process asked of the kernel, and in which order: the output of ``strace -f -y``, read and judged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SENDS = ("sendto", "sendmsg", "sendmmsg", "write", "writev")
WRITES = ("pwrite64", "pwritev", "write", "writev")
SYNCS = ("fdatasync", "fsync")

_BEGUN = re.compile(r"(\d+)\s+(\w+)\((.*?)(?: <unfinished \.\.\.>)?$")
_RESUMED = re.compile(r"(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
_RESULT = re.compile(r"\)\s+= (-?\d+|\?)[^\"]*$")
_DESCRIPTOR = re.compile(r"(\d+)<([^>]*)>")


@dataclass(slots=True)
class SystemCall:
    """One call.

    Attributes:
        name: As strace writes it.
        file: What the first argument, a descriptor, stands for: a path, ``TCP:[…]`` …
        text: All arguments.
        begun, ended: Lines of the trace; ``ended`` is past its end if the call never did.
        failed: It returned an error, or not at all.
    """

    name: str
    file: str
    text: str
    begun: int
    ended: int
    failed: bool


class OrderBroken(AssertionError):
    """Something was told before it was durable."""


def strace_command(trace: Path) -> list[str]:
    """The command that traces the program behind it, which keeps its process id."""
    names = ",".join(sorted({*SENDS, *WRITES, *SYNCS}))
    # -D: the tracer is a grandchild; -yy would look sockets' addresses up, which nobody needs.
    return ["strace", "-D", "-f", "-y", "-s", "1000000", "-e", f"trace={names}", "-o", str(trace), "--"]


def parse(lines: Iterable[str]) -> list[SystemCall]:
    """Read a trace; calls stand in the order in which they began."""
    calls: list[SystemCall] = []
    unfinished: dict[str, SystemCall] = {}
    number = 0
    for number, line in enumerate(lines):
        line = line.rstrip("\n")
        if resumed := _RESUMED.match(line):
            call = unfinished.pop(resumed[1])
            call.ended = number
            call.text += resumed[3]
            call.failed = _failed(resumed[3])
        elif begun := _BEGUN.match(line):
            descriptor = _DESCRIPTOR.match(begun[3])
            file = descriptor[2] if descriptor else ""
            call = SystemCall(begun[2], file, begun[3], number, number, _failed(line))
            calls.append(call)
            if line.endswith("<unfinished ...>"):
                call.failed = True
                unfinished[begun[1]] = call
    for call in unfinished.values():
        call.ended = number + 1
    return calls


def _failed(text: str) -> bool:
    result = _RESULT.search(text)
    return result is None or result[1] == "?" or int(result[1]) < 0


def check_synced_before_sent(calls: list[SystemCall], markers: Iterable[str], log: str) -> None:
    """Hold each marker to its order: written to the log, the log synced, and only then sent to anybody.

    Args:
        calls: The trace.
        markers: Each stands in one message, in the file as on the wire.
        log: The end of the log's path.

    Raises:
        OrderBroken: A marker was sent before a sync that began after its write had ended well.
    """
    writes = [call for call in calls if call.name in WRITES and call.file.endswith(log) and not call.failed]
    syncs = [call for call in calls if call.name in SYNCS and call.file.endswith(log) and not call.failed]
    sends = [call for call in calls if call.name in SENDS and not call.file.startswith("/")]
    for marker in markers:
        written = next((call for call in writes if marker in call.text), None)
        sent = next((call for call in sends if marker in call.text), None)
        if sent is None:
            raise OrderBroken(f"{marker} was never sent")
        if written is None:
            raise OrderBroken(f"{marker} was never written to the log")
        synced = next((call for call in syncs if call.begun > written.ended), None)
        if synced is None or synced.ended >= sent.begun:
            raise OrderBroken(
                f"{marker} was sent in line {sent.begun + 1}, before it was synced: written in line"
                f" {written.ended + 1}, synced in {synced.ended + 1 if synced else 'none'}"
            )
