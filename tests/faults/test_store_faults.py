"""The SQLite store when its process is killed and its file does not play along; every cause is a real one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastim.errors import RequestError, StoreError
from fastim.store.base import Append, Write
from fastim.store.sqlite import SQLiteStore

CHILD = Path(__file__).with_name("store_child.py")

FAILING_SYNC = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>
static int fails(void) {
    if (access(getenv("SYNC_FAILS"), F_OK) != 0) return 0;
    errno = EIO;
    return 1;
}
int fsync(int fd) { return fails() ? -1 : (int)0 * fd; }
int fdatasync(int fd) { return fails() ? -1 : (int)0 * fd; }
"""


class Child:
    """A process with a store."""

    def __init__(self, path: Path, *, before: Sequence[str] = (), env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, str(CHILD), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.answer() == {"ready": True}

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def __call__(self, command: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate("quit\n", timeout=30)


def test_kill_when_under_load_then_all_that_was_reported_is_there_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    reported: set[tuple[int, int, str, str]] = set()
    for round_number in range(6):
        process = subprocess.Popen(
            [sys.executable, str(CHILD), str(path), "--load"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(800 + 900 * round_number)]
        process.kill()
        lines += process.stdout.read().splitlines(keepends=True)
        process.wait()
        process.stdout.close()
        for line in lines:
            fields = line.split()
            if line.endswith("\n") and len(fields) == 4:
                reported.add((int(fields[0]), int(fields[1]), fields[2], fields[3]))
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = connection.execute("SELECT conversation, seq, id, client_id FROM messages").fetchall()
            assert len(rows) == len(set(rows))
            assert reported <= set(rows)
            gaps = connection.execute(
                "SELECT conversation FROM messages JOIN tails USING (conversation) GROUP BY conversation"
                " HAVING max(seq) != count(*) OR min(seq) != 1 OR max(seq) != last_seq"
            ).fetchall()
            assert gaps == []
            unread = connection.execute(
                "SELECT count(*) FROM members JOIN tails USING (conversation) WHERE read != last_seq"
            ).fetchone()
            assert unread == (0,)
            (ids,) = connection.execute("SELECT count(*) FROM client_ids").fetchone()
            assert ids == len(rows)
        connection.close()
    assert len(reported) > 10_000


def test_full_when_files_may_not_grow_then_temporary_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Child(path) as child:
        assert child("append 10")["seqs"] == list(range(1, 11))
        child(f"limit {200_000}")
        refused = child("append 20 50000")
        assert refused["errors"] == ["True"]
        assert (refused["seqs"], refused["last"]) == ([], 10)
        assert (refused["ok"], refused["fatal"]) == (False, False)
        child("limit 0")
        assert child("wait")["ok"]
        assert child("append 20 50000")["seqs"] == list(range(11, 31))


def test_full_when_the_disk_is_then_temporary_and_recovers(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    script = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && " if unshare else ""
    probe = subprocess.run(
        [unshare or "false", "-m", "sh", "-c", script + "true"], capture_output=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip("a disk of its own needs the right to mount")
    folder = str(tmp_path)
    filler = f'head -c 1400000 /dev/zero > {folder}/filler; exec "$@"'
    before = [unshare or "", "-m", "sh", "-c", script + filler, "sh"]
    with Child(tmp_path / "store.db", before=before) as child:
        assert child("append 10")["last"] == 10
        refused = child("append 200 10000")
        assert refused["errors"] == ["True"]
        assert (refused["ok"], refused["fatal"]) == (False, False)
        assert "FULL" in refused["reason"]
        assert refused["last"] == len(refused["seqs"]) + 10
        os.unlink(f"/proc/{child.process.pid}/root{folder}/filler")
        assert child("wait")["ok"]
        after = child("append 5 1000")
        assert after["seqs"] == [refused["last"] + n for n in range(1, 6)]


def test_locked_when_another_process_writes_then_temporary_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with Child(path) as child:
        assert child("append 3")["last"] == 3
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            refused = child("append 5")
            assert (refused["errors"], refused["ok"], refused["fatal"]) == (["True"], False, False)
            assert "locked" in refused["reason"]
            assert refused["last"] == 3
        other.execute("ROLLBACK")
        other.close()
        assert child("wait")["ok"]
        assert child("append 2")["seqs"] == [4, 5]


@pytest.fixture(scope="module")
def failing_sync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(FAILING_SYNC)
    library = folder / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(folder / "shim.c")], check=True)
    return library


def test_sync_when_it_fails_then_no_more_writes_for_good(tmp_path: Path, failing_sync: Path) -> None:
    path, switch = tmp_path / "store.db", tmp_path / "sync-fails"
    preload = [*os.environ.get("LD_PRELOAD", "").split(), str(failing_sync)]  # behind a sanitizer's runtime
    env = {"LD_PRELOAD": " ".join(preload), "SYNC_FAILS": str(switch)}
    with Child(path, env=env) as child:
        assert child("append 3")["last"] == 3
        switch.touch()
        refused = child("append 5")
        assert (refused["errors"], refused["ok"], refused["fatal"]) == (["False"], False, True)
        assert "FSYNC" in refused["reason"]
        switch.unlink()
        refused = child("append 5")
        assert (refused["errors"], refused["fatal"]) == (["False"], True)
    with Child(path) as child:  # what was not reported may be there, in whole batches and dense
        last = child("append 0")["last"]
        assert last in (3, 8)
        assert child("append 1")["seqs"] == [last + 1]


async def reported(store: SQLiteStore, done: list[Write], key: int, user: int) -> Write:
    done.clear()
    store.submit(Append(key, user, "ann", "d", "text", b"x", 0, 1))
    await store.flush()
    return done[0]


async def test_corrupt_when_found_while_writing_then_no_more_writes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    done: list[Write] = []
    store = SQLiteStore(path)
    await store.open(done.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1, id="room")
    assert (await reported(store, done, record.key, 1)).error is None
    await store.close()
    connection = sqlite3.connect(path)
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'messages_by_seq'"
    ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xa5" * 4096)
    store = SQLiteStore(path)
    await store.open(done.extend)
    for _ in range(2):
        write = await reported(store, done, record.key, 1)
        assert isinstance(write.error, StoreError)
        assert not write.error.temporary
        assert (store.health.ok, store.health.fatal) == (False, True)
    with pytest.raises(StoreError) as refused:
        await store.create_conversation("group", "ann", [], "", 1)
    assert not refused.value.temporary
    await store.close()


async def test_corrupt_when_found_while_reading_then_no_more_writes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = SQLiteStore(path)
    await store.open(lambda writes: None)
    await store.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 4096 * 4)
    store = SQLiteStore(path)
    done: list[Write] = []
    with pytest.raises(StoreError) as refused:  # noqa: PT012 (either may be the first to find out)
        await store.open(done.extend)
        await store.load_users([("ann", "")])
    assert not refused.value.temporary
    await store.close()


@pytest.mark.parametrize("content", [b"this is no database" * 1000, b"\0" * 8192])
async def test_open_when_the_file_is_no_database_then_a_lasting_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(StoreError) as refused:
        await SQLiteStore(path).open(lambda writes: None)
    assert not refused.value.temporary


async def test_open_when_the_folder_is_missing_then_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        await SQLiteStore(tmp_path / "none" / "store.db").open(lambda writes: None)


async def test_poison_when_only_sqlite_refuses_then_it_fails_alone_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    done: list[Write] = []
    store = SQLiteStore(path)
    await store.open(done.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1)
    other = sqlite3.connect(path)
    other.executescript(
        "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.content = x'00'"
        " BEGIN SELECT RAISE(ABORT, 'poison'); END"
    )
    other.close()
    contents = [b"\0" if n in (0, 77, 78, 199) else b"%d" % n for n in range(200)]
    for n, content in enumerate(contents):
        store.submit(Append(record.key, 1, "ann", "d", "text", content, 0, 1, f"c{n}"))
    await store.flush()
    refused = [write for write in done if write.error is not None]
    assert [write.content for write in refused] == [b"\0"] * 4  # type: ignore[attr-defined]
    assert all(isinstance(write.error, RequestError) for write in refused)
    stored = [write for write in done if write.error is None]
    assert [write.seq for write in stored] == list(range(1, 197))  # type: ignore[attr-defined]
    assert store.health.ok
    done.clear()
    store.submit(Append(record.key, 1, "ann", "d", "text", b"fine", 0, 1, "c77"))
    await store.flush()
    assert (done[0].error, done[0].seq) == (None, 197)  # type: ignore[attr-defined]
    await store.close()


async def test_log_when_a_reader_stays_then_it_is_bounded_and_shrinks_after(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    done: list[Write] = []
    limit = 1 << 18
    store = SQLiteStore(path, busy_timeout_ms=1, checkpoint_bytes=1 << 17, wal_limit_bytes=limit)
    await store.open(done.extend)
    record, _ = await store.create_conversation("group", "ann", [], "", 1)
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM messages").fetchone() == (0,)
    stored = 0
    async with asyncio.timeout(60):
        while store.health.ok:
            done.clear()
            for _ in range(20):
                store.submit(Append(record.key, 1, "ann", "d", "text", b"x" * 5000, 0, 1))
            await store.flush()
            stored += sum(write.error is None for write in done)
    log = Path(f"{path}-wal")
    assert log.stat().st_size < 18 * limit  # noqa: ASYNC240
    assert all(write.error.temporary for write in done if isinstance(write.error, StoreError))
    reader.execute("ROLLBACK")
    reader.close()
    async with asyncio.timeout(60):
        while not store.health.ok:  # noqa: ASYNC110 (health is polled, as a probe does)
            await asyncio.sleep(0.01)
    assert log.stat().st_size <= limit  # noqa: ASYNC240
    done.clear()
    store.submit(Append(record.key, 1, "ann", "d", "text", b"x", 0, 1))
    await store.flush()
    assert done[0].seq == stored + 1  # type: ignore[attr-defined]
    await store.close()
