"""Users, conversations and members: the writes that are not messages. Each runs within the writer's
transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastim.errors import ErrorCode, RequestError
from fastim.store.base import ConversationRecord, MemberRecord
from fastim.store.sqlite_reader import (
    CONVERSATION_COLUMNS,
    CONVERSATION_SOURCE,
    MEMBER_COLUMNS,
    conversation_record,
)
from fastim.store.sqlite_recovery import count_change

__all__ = ["ConversationChange", "NewConversation", "ensure_users"]


def ensure_users(connection: sqlite3.Connection, users: Iterable[str]) -> None:
    """Make users known that are not. Cost: one call."""
    connection.execute(
        "INSERT INTO users (id) SELECT value FROM json_each(?) WHERE true ON CONFLICT DO NOTHING",
        (json.dumps(list(users)),),
    )


def user_keys(connection: sqlite3.Connection, users: Sequence[str]) -> dict[str, int]:
    """Return the keys of users, who are made known if they are not."""
    ensure_users(connection, users)
    (answer,) = connection.execute(
        "SELECT json_group_object(id, key) FROM users WHERE id IN (SELECT value FROM json_each(?))",
        (json.dumps(users),),
    ).fetchone()
    keys: dict[str, int] = json.loads(answer)
    return keys


def load(connection: sqlite3.Connection, key: int) -> ConversationRecord | None:
    row = connection.execute(
        f"SELECT {CONVERSATION_COLUMNS} FROM {CONVERSATION_SOURCE} WHERE c.key = ?", (key,)
    ).fetchone()
    return conversation_record(row) if row else None


def find(
    connection: sqlite3.Connection, sql: str, parameters: tuple[object, ...]
) -> ConversationRecord | None:
    """Load the conversation whose key a query returns."""
    row = connection.execute(sql, parameters).fetchone()
    return load(connection, row[0]) if row else None


@dataclass(frozen=True, slots=True)
class NewConversation:
    """Creates a conversation unless it exists; see ``Store.create_conversation``."""

    kind: str
    creator: str
    members: tuple[str, ...]
    title: str
    time: int
    id: str
    id_chosen: bool
    client_id: str | None

    def __call__(self, connection: sqlite3.Connection) -> tuple[ConversationRecord, bool, int]:
        users = list(dict.fromkeys((self.creator, *self.members) if self.creator else self.members))
        keys = user_keys(connection, users)
        creator = keys[self.creator] if self.creator else 0
        peers: tuple[int | None, int | None] = (None, None)
        if self.kind == "direct":
            if len(users) != 2:
                raise RequestError(ErrorCode.BAD_REQUEST, "members: a direct conversation has two users")
            low, high = sorted(keys.values())
            peers = (low, high)
        if existing := self._existing(connection, creator, peers):
            return existing, False, 0
        change = count_change(connection)
        cursor = connection.execute(
            "INSERT INTO conversations"
            " (id, kind, title, owner, member_count, created, peer_low, peer_high, change)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self.id, self.kind, self.title, creator, len(users), self.time, *peers, change),
        )
        key = cursor.lastrowid
        assert key is not None
        connection.execute("INSERT INTO tails VALUES (?, 0, ?)", (key, self.time))
        connection.execute(
            "INSERT INTO members SELECT ?1, value, value = ?2, 0, 0, ?3, 0 FROM json_each(?4)",
            (key, creator, self.time, json.dumps(sorted(keys.values()))),
        )
        if self.client_id is not None:
            connection.execute("INSERT INTO creations VALUES (?, ?, ?)", (self.client_id, creator, key))
        record = load(connection, key)
        assert record is not None
        return record, True, change

    def _existing(
        self, connection: sqlite3.Connection, creator: int, peers: tuple[int | None, int | None]
    ) -> ConversationRecord | None:
        if self.client_id is not None and (
            record := find(
                connection,
                "SELECT conversation FROM creations WHERE client_id = ? AND creator = ?",
                (self.client_id, creator),
            )
        ):
            return record
        if peers[0] is not None and (
            record := find(
                connection, "SELECT key FROM conversations WHERE peer_low = ? AND peer_high = ?", peers
            )
        ):
            return record
        if self.id_chosen:
            return find(connection, "SELECT key FROM conversations WHERE id = ?", (self.id,))
        return None


@dataclass(frozen=True, slots=True)
class ConversationChange:
    """Changes title and members; see ``Store.update_conversation``."""

    key: int
    time: int
    title: str | None
    add: tuple[str, ...]
    remove: tuple[str, ...]

    def __call__(
        self, connection: sqlite3.Connection
    ) -> tuple[ConversationRecord, list[MemberRecord], list[str], int]:
        if load(connection, self.key) is None:
            raise RequestError(ErrorCode.FORBIDDEN, "no such conversation")
        change = count_change(connection)
        connection.execute("UPDATE conversations SET change = ? WHERE key = ?", (change, self.key))
        if self.title is not None:
            connection.execute("UPDATE conversations SET title = ? WHERE key = ?", (self.title, self.key))
        removed = self._remove(connection, change) if self.remove else []
        added = self._add(connection) if self.add else []
        if added or removed:
            self._settle(connection)
        record = load(connection, self.key)
        assert record is not None
        return record, added, removed, change

    def _remove(self, connection: sqlite3.Connection, change: int) -> list[str]:
        (answer,) = connection.execute(
            "SELECT json_group_array(json_array(u.id, u.key)) FROM json_each(?) AS j"
            " CROSS JOIN users AS u ON u.id = j.value"
            " CROSS JOIN members AS m ON m.conversation = ? AND m.user = u.key",
            (json.dumps(list(dict.fromkeys(self.remove))), self.key),
        ).fetchone()
        found: list[tuple[str, int]] = json.loads(answer)
        keys = json.dumps([key for _, key in found])
        for table in ("members", "cursors"):
            connection.execute(
                f"DELETE FROM {table} WHERE conversation = ? AND user IN (SELECT value FROM json_each(?))",
                (self.key, keys),
            )
        connection.execute(
            "UPDATE users SET change = ? WHERE key IN (SELECT value FROM json_each(?))", (change, keys)
        )
        return [id for id, _ in found]

    def _add(self, connection: sqlite3.Connection) -> list[MemberRecord]:
        ensure_users(connection, self.add)
        wanted = json.dumps(list(dict.fromkeys(self.add)))
        (answer,) = connection.execute(
            "SELECT json_group_array(u.key) FROM json_each(?) AS j CROSS JOIN users AS u ON u.id = j.value"
            " WHERE NOT EXISTS (SELECT 1 FROM members WHERE conversation = ? AND user = u.key)",
            (wanted, self.key),
        ).fetchone()
        connection.execute(
            "INSERT INTO members SELECT t.conversation, j.value, 0, t.last_seq, t.last_seq, ?, t.last_seq"
            " FROM tails AS t CROSS JOIN json_each(?) AS j WHERE t.conversation = ?",
            (self.time, answer, self.key),
        )
        rows = connection.execute(
            f"SELECT {MEMBER_COLUMNS} FROM members AS m JOIN users AS u ON u.key = m.user"
            " WHERE m.conversation = ? AND m.user IN (SELECT value FROM json_each(?)) ORDER BY u.id",
            (self.key, answer),
        )
        return [MemberRecord(*row) for row in rows]

    def _settle(self, connection: sqlite3.Connection) -> None:
        """Count the members; where the owner has left, the one who has been in longest takes over."""
        connection.execute(
            "UPDATE conversations SET member_count = (SELECT count(*) FROM members WHERE conversation = ?1)"
            " WHERE key = ?1",
            (self.key,),
        )
        orphaned = connection.execute(
            "SELECT 1 FROM conversations WHERE key = ?1 AND owner != 0 AND NOT EXISTS"
            " (SELECT 1 FROM members WHERE conversation = ?1 AND owner = 1)",
            (self.key,),
        ).fetchone()
        if not orphaned:
            return
        heir = connection.execute(
            "SELECT user FROM members WHERE conversation = ? ORDER BY joined, user LIMIT 1", (self.key,)
        ).fetchone()
        if heir:
            connection.execute("UPDATE conversations SET owner = ? WHERE key = ?", (heir[0], self.key))
            connection.execute(
                "UPDATE members SET owner = 1 WHERE conversation = ? AND user = ?", (self.key, heir[0])
            )
