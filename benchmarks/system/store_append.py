"""Durable messages a second through the SQLite store beside a busy event loop, and the writer's CPU for each.

    python benchmarks/system/store_append.py [--conversations 50] [--stored 0] [--busy] ...

The loop submits from a fixed number of messages in flight (each reported one is followed by a new one), as
senders that wait for their ``ok`` do. With ``--busy`` the loop burns CPU for the rest of its time, as a
loaded server does. ``--stored`` fills the store first. Everything runs on the CPU named by ``--cpu``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fastim.store.base import Append, Write
from fastim.store.sqlite import SQLiteStore

CONTENT = b'"' + b"x" * 62 + b'"'


def time_ordered_id(number: int) -> str:
    stamp = f"{time.time_ns() // 1_000_000:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7{number & 0xFFF:03x}-8000-{random.getrandbits(48):012x}"


class Load:
    """Keeps ``in_flight`` messages in the store and counts what comes back."""

    def __init__(self, store: SQLiteStore, keys: list[int], users: dict[str, int], in_flight: int) -> None:
        self.store = store
        self.senders = [(key, user, name) for key in keys for name, user in users.items()]
        self.in_flight = in_flight
        self.reported = 0
        self.batches = 0
        self.going = False
        self.number = 0
        self.latencies_ms: list[float] = []

    def submit(self, count: int) -> None:
        now_ms, now = time.time_ns() // 1_000_000, time.perf_counter()
        senders, submit = self.senders, self.store.submit
        for _ in range(count):
            self.number += 1
            key, user, name = senders[random.randrange(len(senders))]
            client_id = time_ordered_id(self.number)
            submit(Append(key, user, name, "device-1", "text", CONTENT, 0, now_ms, client_id, None, now))

    def on_commit(self, writes: Sequence[Write]) -> None:
        assert all(write.error is None for write in writes)
        self.reported += len(writes)
        self.batches += 1
        self.latencies_ms.append((time.perf_counter() - writes[0].context) * 1000)  # type: ignore[operator]
        if self.going:
            self.submit(len(writes))


async def fill(store: SQLiteStore, load: Load, stored: int) -> None:
    while load.reported < stored:
        load.submit(min(20_000, stored - load.reported))
        await store.flush()


def writer_cpu_s() -> float:
    """CPU time of the writer's thread, from the system."""
    for thread in threading.enumerate():
        if thread.name == "fastim-store-writer":
            fields = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()
            return int(fields[0]) / 1e9
    raise RuntimeError("no writer")


async def burn(until: float) -> int:
    """Turn the loop, a millisecond of pure Python a turn."""
    turns = 0
    while time.perf_counter() < until:
        end = time.perf_counter() + 0.001
        while time.perf_counter() < end:
            sum(range(200))
        turns += 1
        await asyncio.sleep(0)
    return turns


async def measure(options: argparse.Namespace, folder: Path) -> None:
    load: Load | None = None
    store = SQLiteStore(
        folder / "store.db",
        synchronous=options.synchronous,
        group_commit=not options.single,
        max_batch=options.max_batch,
    )
    await store.open(lambda writes: load.on_commit(writes) if load else None)
    names = [f"user-{n}" for n in range(4)]
    keys = []
    for start in range(0, options.conversations, 500):
        count = min(500, options.conversations - start)
        created = [store.create_conversation("group", names[0], names[1:], "", 1) for _ in range(count)]
        keys += [record.key for record, _ in await asyncio.gather(*created)]
    loaded = await store.load_users([(name, "") for name in names[:1]])
    del loaded
    users = {member.user: member.key for member in await store.member_records(keys[0], 10)}
    load = Load(store, keys, users, options.in_flight)
    await fill(store, load, options.stored)
    rates, cpus = [], []
    for _ in range(options.rounds):
        load.going = True
        load.submit(options.in_flight)
        load.latencies_ms.clear()
        first, batches, cpu = load.reported, load.batches, writer_cpu_s()
        process, start = time.process_time(), time.perf_counter()
        if options.busy:
            await burn(start + options.seconds)
        else:
            await asyncio.sleep(options.seconds)
        elapsed = time.perf_counter() - start
        count = load.reported - first
        rates.append(count / elapsed)
        cpus.append((writer_cpu_s() - cpu) / count * 1e6)
        latency = statistics.median(load.latencies_ms)
        load.going = False
        await store.flush()
        print(
            f"  {rates[-1]:10,.0f} messages/s  writer {cpus[-1]:6.2f} µs/message  "
            f"process {(time.process_time() - process) / count * 1e6:6.2f} µs/message  "
            f"{count / max(1, load.batches - batches):7.0f} a batch  latency {latency:6.1f} ms",
            flush=True,
        )
    print(
        f"median {statistics.median(rates):,.0f} messages/s, writer {statistics.median(cpus):.2f} µs/message "
        f"(range {min(cpus):.2f}–{max(cpus):.2f})"
    )
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--conversations", type=int, default=50, help="of four members each")
    parser.add_argument("--stored", type=int, default=0, help="messages stored before the clock starts")
    parser.add_argument("--in-flight", type=int, default=3200)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", action="store_true", help="the loop burns CPU beside the store")
    parser.add_argument("--single", action="store_true", help="one commit a message")
    parser.add_argument("--synchronous", choices=("full", "normal"), default="full")
    parser.add_argument("--max-batch", type=int, default=2048)
    parser.add_argument("--switch-interval-ms", type=float, default=0.5)
    parser.add_argument("--cpu", type=int, default=0)
    parser.add_argument("--folder", default="/var/tmp", help="where the file is made; not a tmpfs")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {options.cpu})
    sys.setswitchinterval(options.switch_interval_ms / 1000)
    folder = Path(tempfile.mkdtemp(prefix="fastim-store-", dir=options.folder))
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}; {vars(options)}"
    )
    try:
        asyncio.run(measure(options, folder))
        print(
            f"file {sum(f.stat().st_size for f in folder.iterdir()) / 1e6:.0f} MB, "
            f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
