"""What the SQLite file remembers of tokens and tickets; the writes run within the writer's transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from fastim.store.base import RevocationRecord

__all__ = ["NewRevocation", "RevocationRemoval", "TicketUse", "read_revocations"]

COLUMNS = "kind, subject, device, before, until, reason, created"


@dataclass(frozen=True, slots=True)
class NewRevocation:
    """Puts a revocation in, over the one of the same subject, and takes out what had ended by then."""

    record: RevocationRecord
    now: int

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            f"INSERT OR REPLACE INTO revocations ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", self.record
        )
        connection.execute("DELETE FROM revocations WHERE until <= ?", (self.now,))


@dataclass(frozen=True, slots=True)
class RevocationRemoval:
    """Takes a revocation out; returns whether there was one."""

    kind: str
    subject: str
    device: str

    def __call__(self, connection: sqlite3.Connection) -> bool:
        cursor = connection.execute(
            "DELETE FROM revocations WHERE kind = ? AND subject = ? AND device = ?",
            (self.kind, self.subject, self.device),
        )
        return cursor.rowcount > 0


@dataclass(frozen=True, slots=True)
class TicketUse:
    """Notes the use of a ticket, unless it was used before; returns whether this is the first."""

    id: str
    until: int
    now: int

    def __call__(self, connection: sqlite3.Connection) -> bool:
        cursor = connection.execute(
            "INSERT INTO tickets (id, until) VALUES (?, ?) ON CONFLICT DO NOTHING", (self.id, self.until)
        )
        first = cursor.rowcount > 0
        connection.execute("DELETE FROM tickets WHERE until <= ?", (self.now,))
        return first


def read_revocations(connection: sqlite3.Connection, now: int) -> Sequence[RevocationRecord]:
    """Read the revocations that have not ended, the oldest first."""
    (answer,) = connection.execute(
        f"SELECT json_group_array(json_array({COLUMNS})) FROM"
        f" (SELECT {COLUMNS} FROM revocations WHERE until > ? ORDER BY created, kind, subject, device)",
        (now,),
    ).fetchone()
    return [RevocationRecord(*row) for row in json.loads(answer)]
