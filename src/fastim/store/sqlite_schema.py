"""Connections to the SQLite file, its numbered migrations, and what SQLite's error codes mean to us."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections.abc import Callable
from enum import Enum
from importlib import resources

from fastim.errors import StoreError

__all__ = [
    "Fault",
    "classify",
    "connect_reader",
    "connect_writer",
    "migrate",
    "schema_version",
    "store_error",
]

MINIMUM_SQLITE = (3, 37, 0)
MIGRATION_NAME = re.compile(r"(\d{4})_\w+\.sql")


class Fault(Enum):
    """What an exception of the sqlite3 module says about the file."""

    ROW = "row"  # the values are to blame; other rows can be stored
    TEMPORARY = "temporary"  # locked, disk full: the same write may succeed later
    LASTING = "lasting"  # corrupt, a failed sync: nothing may be written any more


TEMPORARY_CODES = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
# A write that the system refuses is rolled back and harms nothing; SQLite says FULL only for ENOSPC, so a
# quota (EDQUOT) or a file size limit (EFBIG) comes as IOERR_WRITE. A refused growth of the shared memory
# likewise.
TEMPORARY_EXTENDED_CODES = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_NOMEM,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
}
LASTING_CODES = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
}


def classify(error: BaseException) -> Fault:
    """Tell whether a row, the moment or the file is to blame for an exception."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, MemoryError):
        return Fault.TEMPORARY
    if code is None:
        return Fault.ROW
    if code in TEMPORARY_EXTENDED_CODES or code & 0xFF in TEMPORARY_CODES:
        return Fault.TEMPORARY
    return Fault.LASTING if code & 0xFF in LASTING_CODES else Fault.ROW


def store_error(error: BaseException, doing: str) -> StoreError:
    """Make the StoreError for an exception of the sqlite3 module."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return StoreError(f"{doing}: {error} ({name})", temporary=classify(error) is Fault.TEMPORARY)


def _connect(path: str, busy_timeout_ms: int, cached_statements: int) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path,
        timeout=busy_timeout_ms / 1000,
        isolation_level=None,  # transactions are begun and ended by ourselves
        check_same_thread=False,  # one thread at a time; opened and closed by others
        cached_statements=cached_statements,
    )
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def connect_writer(
    path: str, *, synchronous: str, cache_kib: int, busy_timeout_ms: int
) -> sqlite3.Connection:
    """Open the connection that writes, with the write-ahead log on.

    Args:
        path: The file; made if it is not there, for its owner alone, and so are the log and index beside it.
        synchronous: ``full`` syncs at each commit, ``normal`` at checkpoints only.
        cache_kib: Size of the page cache, KiB.
        busy_timeout_ms: How long a locked file is waited for.

    Raises:
        sqlite3.Error: The file cannot be used.
        StoreError: The file's system does not support a write-ahead log.
    """
    if sqlite3.sqlite_version_info < MINIMUM_SQLITE:
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old, 3.37 is needed", temporary=False)
    with contextlib.suppress(OSError):  # there is one already, or SQLite says why there can be none
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = _connect(path, busy_timeout_ms, cached_statements=256)
    try:
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if mode != "wal":
            raise StoreError(f"{path}: no write-ahead log is possible here ({mode})", temporary=False)
        connection.execute(f"PRAGMA synchronous={synchronous.upper()}")
        # Checkpoints are our own: SQLite's automatic ones swallow a failed sync.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(f"PRAGMA cache_size={-cache_kib}")
        connection.execute("PRAGMA secure_delete=OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(path: str, *, busy_timeout_ms: int) -> sqlite3.Connection:
    """Open a connection that only reads."""
    connection = _connect(path, busy_timeout_ms, cached_statements=64)
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-8192")
    return connection


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of each migration, ascending; the numbers are 1, 2, 3 …"""
    found = [
        (int(match[1]), entry.read_text("utf-8"))
        for entry in (resources.files("fastim.store") / "sql").iterdir()
        if (match := MIGRATION_NAME.fullmatch(entry.name))
    ]
    found.sort()
    assert [number for number, _ in found] == list(range(1, len(found) + 1))
    return found


def schema_version(connection: sqlite3.Connection) -> int:
    """Return the number of the last migration that the file has seen."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, steps: Callable[[], list[tuple[int, str]]] = migrations) -> None:
    """Bring the schema up to date, each migration in a transaction of its own.

    Raises:
        StoreError: The file's schema is newer than this version knows.
        sqlite3.Error: A migration failed; the file is as the one before left it.
    """
    known = steps()
    newest = known[-1][0]
    version = schema_version(connection)
    if version > newest:
        raise StoreError(
            f"the store's schema is version {version}, this fastim knows up to {newest}: use a newer fastim",
            temporary=False,
        )
    for number, sql in known:
        if number <= version:
            continue
        try:
            connection.executescript(f"BEGIN IMMEDIATE;\n{sql}\n;PRAGMA user_version={number};\nCOMMIT;")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
