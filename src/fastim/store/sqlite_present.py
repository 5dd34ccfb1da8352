"""Who was there at the server's end, in the SQLite file: written at the end, taken out at the start."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

__all__ = ["KeepPresent", "take_present"]


@dataclass(frozen=True, slots=True)
class KeepPresent:
    """Keeps users with their status, in the place of all that were kept."""

    users: dict[str, int]
    time: int

    def __call__(self, connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM present")
        connection.execute(
            "INSERT INTO present SELECT key, value, ? FROM json_each(?)", (self.time, json.dumps(self.users))
        )


def take_present(connection: sqlite3.Connection) -> tuple[dict[str, int], int]:
    """Take out what was kept; the second is when."""
    users, time = connection.execute(
        "SELECT json_group_object(user, status), coalesce(max(time), 0) FROM present"
    ).fetchone()
    connection.execute("DELETE FROM present")
    return json.loads(users), time
