"""The parts of the SQLite store: migrations, statements over many rows, message ids, query plans, pruning."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from fastim.errors import StoreError
from fastim.store import sqlite_schema
from fastim.store.base import Append, Write
from fastim.store.sqlite import SQLiteStore
from fastim.store.sqlite_batch import SETTLE, BatchStore, MessageIds, MultiRow, ladder
from fastim.store.sqlite_schema import connect_writer, migrate, migrations, schema_version


@pytest.fixture
def connection(tmp_path: Path):  # type: ignore[no-untyped-def]
    path = str(tmp_path / "store.db")
    opened = connect_writer(path, synchronous="normal", cache_kib=1024, busy_timeout_ms=10)
    yield opened
    opened.close()


def test_migrate_when_empty_then_every_step_runs_once(connection: sqlite3.Connection) -> None:
    migrate(connection)
    assert schema_version(connection) == len(migrations())
    before = connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall()
    migrate(connection)
    assert connection.execute("SELECT sql FROM sqlite_schema ORDER BY name").fetchall() == before


def test_migrate_when_a_step_fails_then_the_file_is_as_the_one_before_left_it(
    connection: sqlite3.Connection,
) -> None:
    steps = [(1, "CREATE TABLE a (x)"), (2, "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)")]
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, lambda: steps)
    assert schema_version(connection) == 1
    assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("a",)]
    steps[1] = (2, "CREATE TABLE b (x)")
    migrate(connection, lambda: steps)
    assert schema_version(connection) == 2


async def test_open_when_the_schema_is_newer_then_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version=9999")
    other.close()
    with pytest.raises(StoreError, match="newer fastim") as refused:
        await SQLiteStore(path).open(lambda writes: None)
    assert not refused.value.temporary


def test_ladder_when_any_count_then_a_step_at_most_a_half_larger() -> None:
    for most in (1, 2, 3, 7, 100, 2048):
        steps = ladder(most)
        assert steps[-1] == most
        for count in range(1, most + 1):
            step = next(step for step in steps if step >= count)
            assert step <= count * 1.5


@pytest.mark.parametrize("limit", [6, 7, 100, 32766])
def test_multi_row_when_variables_are_few_then_in_parts(connection: sqlite3.Connection, limit: int) -> None:
    connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, limit)
    connection.execute("CREATE TABLE t (a, b, c)")
    insert = MultiRow("INSERT INTO t SELECT * FROM {rows} WHERE true", 3, limit, 500)
    for count in (0, 1, 2, 5, 50):
        connection.execute("DELETE FROM t")
        rows = [(n, None, "x" * n) for n in range(count)]
        insert.execute_all(connection, rows)
        assert connection.execute("SELECT * FROM t").fetchall() == rows


def test_statements_when_planned_then_no_table_is_scanned(connection: sqlite3.Connection) -> None:
    migrate(connection)
    store = BatchStore(connection, 64)
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    for multi_row in vars(store).values():
        if isinstance(multi_row, MultiRow):
            multi_row.execute(connection, [None] * multi_row._columns)
    connection.set_trace_callback(None)
    trigger = SETTLE[SETTLE.index("BEGIN") + 5 : SETTLE.rindex("END")]
    for name, value in (("NEW.base", "0"), ("NEW.tails", "'[]'"), ("NEW.readers", "'[]'")):
        trigger = trigger.replace(name, value)
    statements += [statement.strip() for statement in trigger.split(";")]
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    planned = 0
    for statement in statements:
        if not statement:
            continue
        planned += 1
        for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
            assert not (detail.startswith("SCAN") and detail.split()[1] in {*tables, "m", "b", "c"}), (
                statement
            )
    assert planned == 9


def test_ids_when_made_then_unique_sorted_uuid7() -> None:
    ids = MessageIds()
    made = [ids.make(ids.prefix(1_700_000_000_000 + n // 1000)) for n in range(9000)]
    assert len(set(made)) == 9000
    assert made[:4000] == sorted(made[:4000])
    assert all(len(id) == 36 and id[14] == "7" and id[19] in "89ab" for id in made)
    assert int(made[0].replace("-", "")[:12], 16) == 1_700_000_000_000


async def test_batch_when_its_report_takes_long_then_the_loop_has_its_turns_and_the_order_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastim.store.sqlite.REPORT_NS", 0)
    loop, reported, turns = asyncio.get_running_loop(), list[Write](), [0]
    parts: list[tuple[int, int]] = []

    def turn() -> None:
        turns[0] += 1
        ticking.append(loop.call_soon(turn))
        ticking.pop(0)

    def on_commit(writes: Sequence[Write]) -> None:
        parts.append((turns[0], len(writes)))
        reported.extend(writes)

    def submit(count: int) -> list[Write]:
        writes = [Append(key, 1, "ann", "d", "t", b"1", 0, 1) for _ in range(count)]
        for write in writes:
            store.submit(write)
        return list[Write](writes)

    store = SQLiteStore(tmp_path / "store.db", synchronous="normal")
    await store.open(on_commit)
    key = (await store.create_conversation("group", "ann", [], "", 1))[0].key
    ticking = [loop.call_soon(turn)]
    writes = submit(40)
    await store.flush()
    assert reported == writes
    assert [count for _, count in parts] == [16, 16, 8]
    assert len({number for number, _ in parts}) == 3
    assert (store.queued_count, store.queued_bytes, store.stats()["batches_total"]) == (0, 0, 1)
    writes += submit(40)
    await store.close()
    ticking[0].cancel()
    assert reported == writes
    assert [write.seq for write in reported if isinstance(write, Append)] == list(range(1, 81))


async def test_client_ids_when_past_their_life_then_forgotten_a_few_at_a_time(tmp_path: Path) -> None:
    now = [1_000_000]
    done: list[Write] = []
    store = SQLiteStore(
        tmp_path / "store.db", client_id_life_s=100, clock=lambda: now[0], synchronous="normal"
    )
    await store.open(done.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1)

    async def send(client_id: str) -> Append:
        done.clear()
        store.submit(Append(record.key, 1, "ann", "d", "text", b"x", 0, now[0], client_id))
        await store.flush()
        assert isinstance(done[0], Append)
        return done[0]

    for n in range(3000):
        store.submit(Append(record.key, 1, "ann", "d", "text", b"x", 0, now[0], f"old{n}"))
    await store.flush()
    now[0] += 99_000
    assert (await send("old0")).duplicate
    assert (await send("young")).seq == 3001
    now[0] += 62_000
    number = 0
    while True:  # each batch prunes a little
        number += 1
        now[0] += 1001
        (left,) = count_client_ids(tmp_path / "store.db", "old")
        if not left:
            break
        assert number < 30
        assert not (await send(f"new{number}")).duplicate
    assert not (await send("old0")).duplicate
    assert (await send("young")).duplicate or now[0] > 1_199_000
    await store.close()


def count_client_ids(path: Path, prefix: str) -> tuple[int]:
    connection = sqlite3.connect(path)
    (count,) = connection.execute(
        "SELECT count(*) FROM client_ids WHERE client_id GLOB ? || '*'", (prefix,)
    ).fetchone()
    connection.close()
    return (count,)


def test_classify_when_the_disk_is_to_blame_then_not_the_row() -> None:
    assert sqlite_schema.classify(ValueError()) is sqlite_schema.Fault.ROW
    assert sqlite_schema.classify(sqlite3.IntegrityError()) is sqlite_schema.Fault.ROW
    assert sqlite_schema.classify(MemoryError()) is sqlite_schema.Fault.TEMPORARY
    for name, fault in (
        ("SQLITE_BUSY", "TEMPORARY"),
        ("SQLITE_BUSY_SNAPSHOT", "TEMPORARY"),
        ("SQLITE_FULL", "TEMPORARY"),
        ("SQLITE_IOERR_WRITE", "TEMPORARY"),
        ("SQLITE_IOERR_FSYNC", "LASTING"),
        ("SQLITE_IOERR", "LASTING"),
        ("SQLITE_CORRUPT_INDEX", "LASTING"),
        ("SQLITE_NOTADB", "LASTING"),
        ("SQLITE_CONSTRAINT_CHECK", "ROW"),
        ("SQLITE_TOOBIG", "ROW"),
    ):
        error = sqlite3.OperationalError(name)
        error.sqlite_errorcode = getattr(sqlite3, name)
        assert sqlite_schema.classify(error) is sqlite_schema.Fault[fault]


def test_file_when_made_then_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    opened = connect_writer(str(path), synchronous="normal", cache_kib=1024, busy_timeout_ms=10)
    opened.execute("CREATE TABLE a (b)")
    try:
        assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
        assert len(list(tmp_path.iterdir())) == 3
    finally:
        opened.close()
