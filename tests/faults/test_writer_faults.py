"""The writer on a real file while it is locked, may not grow and meets rows that cannot be stored.

Whatever happens in between: every write is reported once and in order, what was reported as stored is there
once and without holes, and what was not can be sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim.errors import RequestError, StoreError
from fastim.store.base import Append, Mark, Write
from fastim.store.sqlite import SQLiteStore

POISON = b"\0"
POISONOUS = """
CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.content = x'00'
BEGIN SELECT RAISE(ABORT, 'poison'); END
"""

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 30)),
        st.tuples(st.just("poison"), st.integers(1, 2)),
        st.tuples(st.just("again"), st.integers(1, 10)),  # what was refused, or stored already
        st.tuples(st.just("lock"), st.just(0)),
        st.tuples(st.just("unlock"), st.just(0)),
        st.tuples(st.just("limit"), st.just(0)),
        st.tuples(st.just("unlimit"), st.just(0)),
        st.tuples(st.just("turn"), st.integers(0, 3)),
        st.tuples(st.just("flush"), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


class Trouble:
    """Makes a database's file locked or too small to grow, really."""

    def __init__(self, path: Path) -> None:
        self._other = sqlite3.connect(path, isolation_level=None, timeout=0)
        self._soft, self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        self._path = path

    def make(self, kind: str) -> None:
        if kind == "lock" and not self._other.in_transaction:
            with contextlib.suppress(sqlite3.OperationalError):  # the writer has it just now
                self._other.execute("BEGIN IMMEDIATE")
        elif kind == "unlock" and self._other.in_transaction:
            self._other.execute("ROLLBACK")
        elif kind == "limit":
            size = Path(f"{self._path}-wal").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 1 << 20), self._hard))
        elif kind == "unlimit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._soft, self._hard))

    def end(self) -> None:
        self.make("unlimit")
        self.make("unlock")

    def close(self) -> None:
        self.end()
        self._other.close()


class Scribe:
    """Writes, and remembers what was written and reported."""

    def __init__(self, store: SQLiteStore, keys: list[int]) -> None:
        self.store = store
        self.keys = keys
        self.submitted: list[Write] = []
        self.reported: list[Write] = []
        self.first: dict[str, Append] = {}

    def write(self, content: bytes) -> None:
        number = len(self.submitted)
        append = Append(self.keys[number % 2], 1, "ann", "d", "t", content, 0, 1, f"c{number}")
        self.first[f"c{number}"] = append
        self._submit(append)
        if number % 5 == 0:
            self._submit(Mark(self.keys[number % 2], 1, "d", delivered=1))

    def again(self, number: int) -> None:
        for first in list(self.first.values())[-number:]:
            self._submit(Append(first.conversation, 1, "ann", "d", "t", first.content, 0, 2, first.client_id))

    def _submit(self, write: Write) -> None:
        self.submitted.append(write)
        self.store.submit(write)  # type: ignore[arg-type]


async def live_through(path: Path, steps: list[tuple[str, int]]) -> None:
    reported: list[Write] = []
    store = SQLiteStore(path, busy_timeout_ms=0, synchronous="normal", max_batch=16, backoff_s=(0.001, 0.01))
    await store.open(reported.extend)
    keys = [(await store.create_conversation("group", "ann", [], "", 1))[0].key for _ in range(2)]
    setup = sqlite3.connect(path)
    setup.executescript(POISONOUS)
    setup.close()
    trouble = Trouble(path)
    scribe = Scribe(store, keys)
    try:
        for kind, count in steps:
            if kind == "write":
                for _ in range(count):
                    scribe.write(b"%d " % len(scribe.submitted) + b"x" * 3_000)
            elif kind == "poison":
                for _ in range(count):
                    scribe.write(POISON)
            elif kind == "again":
                scribe.again(count)
            elif kind == "turn":
                await asyncio.sleep(count / 1_000)
            elif kind == "flush":
                await store.flush()
            else:
                trouble.make(kind)
        trouble.end()
        await store.flush()
        async with asyncio.timeout(30):
            while not store.health.ok:  # noqa: ASYNC110 - health is polled, as a probe does
                await asyncio.sleep(0.002)
        scribe.again(len(scribe.first))
        await store.flush()
        assert (store.queued_count, store.queued_bytes) == (0, 0)
    finally:
        trouble.close()
        await store.close()
    check(path, scribe, reported)


def check(path: Path, scribe: Scribe, reported: list[Write]) -> None:
    assert [id(write) for write in reported] == [id(write) for write in scribe.submitted]
    stored: dict[int, list[tuple[int, str]]] = defaultdict(list)
    places: dict[str, int] = {}
    for write in reported:
        if not isinstance(write, Append):
            continue
        assert write.client_id is not None
        if write.content == POISON:
            assert isinstance(write.error, (RequestError, StoreError))
        elif write.error is not None:
            assert isinstance(write.error, StoreError)
            assert write.error.temporary
        elif write.duplicate:
            assert write.seq == places[write.client_id]
        else:
            assert write.client_id not in places, "acknowledged twice"
            places[write.client_id] = write.seq
            stored[write.conversation].append((write.seq, write.client_id))
    wanted = {client_id for client_id, first in scribe.first.items() if first.content != POISON}
    assert places.keys() == wanted  # the last round had no trouble
    with sqlite3.connect(path) as connection:
        for key in scribe.keys:
            rows = connection.execute(
                "SELECT seq, client_id FROM messages WHERE conversation = ? ORDER BY key", (key,)
            ).fetchall()
            assert rows == stored[key]
            assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1))
    connection.close()


@settings(max_examples=25)
@given(STEPS)
def test_writes_when_the_disk_fails_in_any_way_then_each_is_told_once_and_in_order(
    steps: list[tuple[str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live_through(Path(folder) / "store.db", steps))


async def test_store_when_it_stays_sick_then_tried_more_and_more_rarely_and_says_since_when(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    now_ms = [1_700_000_000_000]
    reported: list[Write] = []
    store = SQLiteStore(path, busy_timeout_ms=0, backoff_s=(0.001, 0.05), clock=lambda: now_ms[0])
    await store.open(reported.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1)
    assert store.health.since == 0
    trouble = Trouble(path)
    try:
        trouble.make("lock")
        for number in range(6):
            store.submit(Append(record.key, 1, "ann", "d", "t", b"x", 0, 1))
            await store.flush()
            assert isinstance(reported[-1].error, StoreError)
            assert reported[-1].error.temporary
            assert store.stats()["failures"] > number  # in a row; probes count too
            now_ms[0] += 1_000
        assert (store.health.ok, store.health.since) == (False, 1_700_000_000_000)
        assert store.stats()["failing_since_seconds"] == 1_700_000_000
        assert store.stats()["writes_failed_total"] == 6
        trouble.end()
        async with asyncio.timeout(30):
            while not store.health.ok:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert (store.health.since, store.stats()["failures"]) == (0, 0)
    finally:
        trouble.close()
        await store.close()


async def test_writes_when_the_next_attempt_is_far_then_told_and_not_kept(tmp_path: Path) -> None:
    """Who writes waits for the next attempt, but not for ever: then it is ``unavailable``, untried."""
    path = tmp_path / "store.db"
    reported: list[Write] = []
    store = SQLiteStore(path, busy_timeout_ms=0, backoff_s=(3_600.0, 3_600.0))
    await store.open(reported.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1)
    trouble = Trouble(path)
    try:
        trouble.make("lock")
        for _ in range(3):
            store.submit(Append(record.key, 1, "ann", "d", "t", b"x", 0, 1))
            await store.flush()
        trouble.end()  # and nobody looks for an hour
        for _ in range(50):
            store.submit(Append(record.key, 1, "ann", "d", "t", b"x", 0, 1))
            await store.flush()
        assert all(isinstance(write.error, StoreError) for write in reported)
        assert store.stats()["failures"] == 1
    finally:
        trouble.close()
        await store.close()  # nor does this wait for an hour
