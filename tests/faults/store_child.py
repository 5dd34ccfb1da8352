"""A process with a store, driven line by line over its standard input by the fault tests.

store_child.py FILE             commands: append N [BYTES] | limit BYTES | wait | quit; a JSON line each
store_child.py FILE --load      writes without end and prints each reported message, until it is killed
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence

from fastim.store.base import Append, Write
from fastim.store.sqlite import SQLiteStore


async def serve(path: str) -> None:
    done: list[Write] = []
    store = SQLiteStore(path, busy_timeout_ms=50)
    await store.open(done.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1, id="room")
    user = (await store.member_records(record.key, 1))[0].key
    loop = asyncio.get_running_loop()
    print(json.dumps({"ready": True}), flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *words = line.split()
        if command == "append":
            done.clear()
            for _ in range(int(words[0])):
                content = b"x" * int(words[1]) if len(words) > 1 else b"x"
                store.submit(Append(record.key, user, "ann", "d", "text", content, 0, 1))
            await store.flush()
        elif command == "limit":
            size = int(words[0])
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size if size else hard, hard))
            done.clear()
        elif command == "wait":
            done.clear()
            while not store.health.ok:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # health is polled, as a probe does
        elif command == "quit":
            break
        health = store.health
        stored = (await store.history(record.key, limit=500))[0] if not health.fatal else []
        print(
            json.dumps(
                {
                    "seqs": [write.seq for write in done if write.error is None],  # type: ignore[attr-defined]
                    "errors": sorted({str(getattr(w.error, "temporary", w.error)) for w in done if w.error}),
                    "ok": health.ok,
                    "fatal": health.fatal,
                    "reason": health.reason,
                    "last": stored[0].seq if stored else 0,
                }
            ),
            flush=True,
        )
    await store.close()


async def load(path: str) -> None:
    store = SQLiteStore(path, checkpoint_bytes=1 << 20)
    number = 0
    keys: list[int] = []
    user = 0

    def submit(count: int) -> None:
        nonlocal number
        now_ms = time.time_ns() // 1_000_000
        for _ in range(count):
            number += 1
            key = keys[number % len(keys)]
            client_id = f"{start:08}-{number:08}"
            store.submit(Append(key, user, "ann", "d", "text", b"%d" % number, 0, now_ms, client_id))

    def on_commit(writes: Sequence[Write]) -> None:
        messages = [write for write in writes if isinstance(write, Append)]
        lines = [f"{m.conversation} {m.seq} {m.id} {m.client_id}" for m in messages]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        submit(len(writes))

    await store.open(on_commit)
    for n in range(7):
        record, _ = await store.create_conversation("group", "ann", [], "", 1, id=f"room{n}")
        keys.append(record.key)
    user = (await store.member_records(keys[0], 1))[0].key
    start = sum([record.last_seq for key in range(7) if (record := await store.conversation(f"room{key}"))])
    submit(500)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run((load if "--load" in sys.argv else serve)(sys.argv[1]))
