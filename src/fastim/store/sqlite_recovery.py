"""What clients that come back after a restart need to know, in the SQLite file."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from fastim.store.base import Start

__all__ = ["LeaveBehind", "NewStart", "Use", "count_change", "read_changed_since", "take_left_behind"]


@dataclass(frozen=True, slots=True)
class NewStart:
    """Notes that a process begins; see ``Store.begin_epoch``."""

    epoch: str
    used: tuple[str, ...]
    time: int
    forget_before: int

    def __call__(self, connection: sqlite3.Connection) -> Start:
        connection.execute("DELETE FROM starts WHERE time < ?", (self.forget_before,))
        connection.execute("DELETE FROM used WHERE start < (SELECT min(number) FROM starts)")
        connection.execute(
            "INSERT INTO starts (number, epoch, time)"
            " SELECT 1 + max((SELECT coalesce(max(number), 0) FROM starts),"
            " (SELECT coalesce(max(start), 0) FROM used)), ?, ? WHERE true"
            " ON CONFLICT (epoch) DO UPDATE SET time = excluded.time",
            (self.epoch, self.time),
        )
        for namespace in self.used:
            Use(namespace, self.epoch)(connection)
        (starts,) = connection.execute("SELECT json_group_object(epoch, number) FROM starts").fetchone()
        (used,) = connection.execute("SELECT json_group_object(namespace, start) FROM used").fetchone()
        return Start(json.loads(starts), json.loads(used))


@dataclass(frozen=True, slots=True)
class Use:
    """Notes that an application has its part in a namespace; see ``Store.use_namespace``."""

    namespace: str
    epoch: str

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO used SELECT ?, number FROM starts WHERE epoch = ?"
            " ON CONFLICT (namespace) DO UPDATE SET start = max(start, excluded.start)",
            (self.namespace, self.epoch),
        )


@dataclass(frozen=True, slots=True)
class LeaveBehind:
    """Keeps what a process leaves, in the place of what was kept."""

    data: bytes

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM left_behind")
        connection.execute("INSERT INTO left_behind VALUES (?)", (self.data,))


def take_left_behind(connection: sqlite3.Connection) -> bytes | None:
    """Take out what was kept."""
    row = connection.execute("SELECT data FROM left_behind").fetchone()
    connection.execute("DELETE FROM left_behind")
    return bytes(row[0]) if row is not None else None


def count_change(connection: sqlite3.Connection) -> int:
    """Count a change of a conversation or of its members."""
    (count,) = connection.execute("UPDATE state SET changes = changes + 1 RETURNING changes").fetchone()
    return int(count)


def read_changed_since(connection: sqlite3.Connection, user: int, change: int) -> bool:
    """Read whether anything changed for a user; see ``Store.changed_since``."""
    (changed,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM users WHERE key = ?1 AND change > ?2) OR EXISTS"
        " (SELECT 1 FROM members AS m CROSS JOIN conversations AS c ON c.key = m.conversation"
        " WHERE m.user = ?1 AND c.change > ?2)",
        (user, change),
    ).fetchone()
    return bool(changed)
