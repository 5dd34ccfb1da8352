"""Bans in the SQLite file: written within the writer's transaction, read all at once at the start."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from fastim.store.base import BanRecord

__all__ = ["BanRemoval", "NewBans", "read_bans"]

COLUMNS = "kind, subject, until, reason, source, created"
FIELDS = ", ".join(f"json_extract(value, '$[{index}]')" for index in range(6))


@dataclass(frozen=True, slots=True)
class NewBans:
    """Puts bans in, over those of the same subjects, and takes out what had ended by then."""

    records: tuple[BanRecord, ...]
    now: int

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            f"INSERT OR REPLACE INTO bans ({COLUMNS}) SELECT {FIELDS} FROM json_each(?)",
            (json.dumps(self.records),),
        )
        connection.execute("DELETE FROM bans WHERE until BETWEEN 1 AND ?", (self.now,))


@dataclass(frozen=True, slots=True)
class BanRemoval:
    """Takes a ban out; returns whether there was one."""

    kind: str
    subject: str

    def __call__(self, connection: sqlite3.Connection) -> bool:
        cursor = connection.execute(
            "DELETE FROM bans WHERE kind = ? AND subject = ?", (self.kind, self.subject)
        )
        return cursor.rowcount > 0


def read_bans(connection: sqlite3.Connection, now: int) -> Sequence[BanRecord]:
    """Read the bans that have not ended, the oldest first."""
    (answer,) = connection.execute(
        f"SELECT json_group_array(json_array({COLUMNS})) FROM"
        f" (SELECT {COLUMNS} FROM bans WHERE until = 0 OR until > ? ORDER BY created, kind, subject)",
        (now,),
    ).fetchone()
    return [BanRecord(*row) for row in json.loads(answer)]
