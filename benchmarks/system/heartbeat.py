"""The heartbeat on real sockets, beside the least that a server can do for it: a bare loop in C."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.system.load import Figures, build_c, run
from benchmarks.system.rows import Options, Ratio, Result, Row, write_tokens
from benchmarks.system.servers import Lab, Server, fastim, free_port

__all__ = ["HEARTBEAT"]

INTERVAL_S = 2
SETTINGS = {
    f"FASTIM_HEARTBEAT__{name}": str(INTERVAL_S)
    for name in ("INTERVAL_S", "MIN_S", "MAX_S")  # no adapting: both servers send as many
}


@contextlib.contextmanager
def bare_loop(lab: Lab) -> Iterator[Server]:
    """Run the loop in C until the block ends, see ping_loop.c."""
    port = free_port()
    words = lab.pinned(build_c("ping_loop"), str(port), str(INTERVAL_S * 1000))
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Server("bare", process, port)
        finally:
            process.kill()


def pongs(options: Options, server: Server, *tokens: Path) -> Figures:
    """Hold connections that only answer pings, see pong_load.c."""
    count, seconds = str(options.count(10_000)), str(max(options.seconds, 2 * INTERVAL_S))
    words = [build_c("pong_load"), str(server.port), count, seconds, str(server.pid), *tokens]
    return run(options.lab.pinned(*words, load=True))


def heartbeat(options: Options) -> Result:
    """CPU of a ping and its pong, user and system."""
    with fastim(options.lab, settings=SETTINGS) as server, tempfile.TemporaryDirectory() as folder:
        ours = pongs(options, server, write_tokens(server.secret, 1_000, folder))
    with bare_loop(options.lab) as server:
        return {"fastim": ours, "bare": pongs(options, server)}


HEARTBEAT = {
    "heartbeat": Row(
        f"pings of 10,000 connections every {INTERVAL_S} s, against a bare loop in C",
        heartbeat,
        [Ratio("fastim.ping_cpu_us", "bare.ping_cpu_us", at_most=1.3)],
    ),
}
