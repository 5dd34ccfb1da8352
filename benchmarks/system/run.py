"""Measure the running server beside its peers and print ratios.

    LAB=FOLDER python -m benchmarks.system.run
        [fanout|deflate|echo|idle|connect|durable|durable-large|flood
         |stalled|typing|resume|refused|drain|features|heartbeat|requests
         |sio-broadcast|sio-ack|sio-idle|sio-connect|sio-polling ...]
        [--peers uws,picows,socketio,pysocketio,websockets] [--runs 3]

Server and peers run on CPU 0, the load on CPU 1, one after the other in the same run; deliveries are counted
at the receiver, CPU time is read from the system. A run in which the load was busy for more than 90 % says
so: then it is the load that was measured. Figures are medians over the runs, with the range behind them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.system.heartbeat import HEARTBEAT
from benchmarks.system.machine import describe, same_congestion_control
from benchmarks.system.requests import REQUESTS
from benchmarks.system.resilience import RESILIENCE
from benchmarks.system.rows import ROWS as TRAFFIC
from benchmarks.system.rows import Options, Ratio, Row
from benchmarks.system.servers import PEERS, Lab
from benchmarks.system.socketio import SOCKETIO

ROWS = TRAFFIC | RESILIENCE | HEARTBEAT | REQUESTS | SOCKETIO

SHOWN = {
    "messages_per_s": "messages/s",
    "cpu_us": "CPU µs/message",
    "acks_per_s": "acks/s",
    "ack_cpu_us": "CPU µs/ack",
    "pings": "pings",
    "requests_per_s": "requests/s",
    "request_cpu_us": "CPU µs/request",
    "ping_cpu_us": "CPU µs/ping",
    "deliveries_per_ack": "deliveries/ack",
    "connects_per_s": "connects/s",
    "connect_cpu_us": "CPU µs/connect",
    "bytes_per_connection": "bytes/connection",
    "per_member_per_s": "deliveries/s a member",
    "rss_mb": "MB resident",
    "grown_mb": "MB grown",
    "cut_off": "cut off",
    "sessions_per_s": "sessions/s",
    "session_cpu_us": "CPU µs/session",
    "churn_per_s": "other connects/s",
    "not_heard": "not heard",
    "server_cpu_s": "s of server CPU",
    "wall_s": "s",
    "store_reads": "store reads",
    "refused_per_s": "refused/s",
    "cpu_us_refused": "CPU µs/refused",
    "answered": "answered",
    "window_s": "s from first to last close",
    "uneven_percent": "% the worst second is off",
    "twice": "twice",
    "away": "not back",
    "user_us": "user CPU µs/message",
    "fanout": "user CPU of fan-out on / off",
    "echo": "user CPU of echo on / off",
    "fanout_all": "all CPU of fan-out on / off",
    "echo_all": "all CPU of echo on / off",
    "p50_us": "p50 µs",
    "p99_us": "p99 µs",
    "server_busy_percent": "server busy %",
    "load_busy_percent": "load busy %",
    "lost": "lost",
    "errors": "errors",
}


HIDDEN_AT_ZERO = frozenset({"errors", "cut_off", "answered"})


class Samples:
    """The figures of all runs of a row: ``server.figure`` → one value a run."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, run: dict[str, dict[str, float]]) -> None:
        for server, figures in run.items():
            for name, value in figures.items():
                self._values.setdefault(f"{server}.{name}", []).append(value)

    def servers(self) -> list[str]:
        return list(dict.fromkeys(key.partition(".")[0] for key in self._values))

    def get(self, key: str) -> np.ndarray | None:
        values = self._values.get(key)
        return None if values is None else np.array(values)

    def as_dict(self) -> dict[str, list[float]]:
        return self._values


def spread(values: np.ndarray, digits: int = 3) -> str:
    """Write a median and the range: "1.05 (1.01–1.09)"."""

    def short(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"

    middle = short(float(np.median(values)))
    return middle if len(values) == 1 else f"{middle} ({short(values.min())}–{short(values.max())})"


def ratio_line(ratio: Ratio, samples: Samples) -> str | None:
    """Write what a ratio came to; None if a server of it did not run."""
    ours, theirs = samples.get(ratio.ours), samples.get(ratio.theirs) if ratio.theirs else None
    if ours is None or (ratio.theirs and theirs is None):
        return None
    values = ours if theirs is None else ours / theirs
    median = float(np.median(values))
    what = ratio.ours if theirs is None else f"{ratio.ours} / {ratio.theirs}"
    if ratio.at_least is not None:
        verdict = f"≥ {ratio.at_least:g}: {'reached' if median >= ratio.at_least else 'NOT reached'}"
    elif ratio.at_most is not None:
        verdict = f"≤ {ratio.at_most:g}: {'reached' if median <= ratio.at_most else 'NOT reached'}"
    else:
        verdict = "to compare"
    return f"  {what} = {spread(values)}   [{verdict}]"


def report(row: Row, samples: Samples) -> Iterator[str]:
    """Write a row's figures."""
    yield f"## {row.what}"
    for server in samples.servers():
        parts = []
        for figure, unit in SHOWN.items():
            values = samples.get(f"{server}.{figure}")
            if values is not None and (figure not in HIDDEN_AT_ZERO or values.any()):
                parts.append(f"{unit} {spread(values)}")
        yield f"  {server}: " + ", ".join(parts)
        busy = samples.get(f"{server}.load_busy_percent")
        if busy is not None and np.median(busy) > 90:
            yield f"  WARNING: the load was busy for {np.median(busy):.0f} %: it is what was measured"
    yield from filter(None, (ratio_line(ratio, samples) for ratio in row.ratios))


def read_options() -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(
        "benchmarks.system.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--peers", help=f"of {','.join(PEERS)}; unset: those the row compares with")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--scale", type=float, default=1.0, help="of connection counts, for a quick look")
    parser.add_argument("--stored", type=int, default=1_000_000, help="messages of durable-large")
    parser.add_argument("--conversations", type=int, default=10_000, help="of durable-large")
    parser.add_argument("--members", type=int, default=4, help="of each idle connection's conversation")
    parser.add_argument("--pairs", type=int, default=10, help="of features")
    parser.add_argument("--lab", type=Path, default=Path(os.environ.get("LAB", ".lab")))
    parser.add_argument("--json", type=Path, help="write all samples there, too")
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    options = Options(
        Lab(arguments.lab.resolve()),
        None if arguments.peers is None else arguments.peers.split(","),
        arguments.seconds,
        arguments.scale,
        arguments.stored,
        arguments.conversations,
        arguments.members,
        arguments.pairs,
    )
    options.lab.check()
    return arguments, options


def main() -> None:
    arguments, options = read_options()
    with same_congestion_control():
        measure(arguments, options)


def measure(arguments: argparse.Namespace, options: Options) -> None:
    """Measure the rows asked for and print what came of them."""
    print(f"$ python -m benchmarks.system.run {' '.join(sys.argv[1:])}".rstrip())
    print(describe(), flush=True)
    everything = {}
    for name in arguments.rows or ROWS:
        samples = Samples()
        for _ in range(1 if ROWS[name].once else arguments.runs):
            samples.add(ROWS[name].measure(options))
        print("\n".join(report(ROWS[name], samples)), flush=True)
        everything[name] = samples.as_dict()
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1) + "\n")


if __name__ == "__main__":
    main()
