"""Queries: each one statement, and one row of JSON as its answer.

A row that comes out of SQLite costs the interpreter lock once, which a busy event loop gives back late; so
SQLite puts the answer together and it is taken apart here. Every statement is a read transaction of its own,
so no reader keeps the write-ahead log from beginning anew for longer than a page of messages takes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from fastim.errors import ErrorCode, RequestError
from fastim.store.base import ConversationRecord, InboxRow, MemberRecord, MembershipRecord, MessageRecord

__all__ = [
    "CONVERSATION_COLUMNS",
    "CONVERSATION_SOURCE",
    "MEMBER_COLUMNS",
    "conversation_record",
    "read_conversation",
    "read_history",
    "read_inbox",
    "read_members",
    "read_replay",
    "read_seqs_at",
    "read_users",
]

T = TypeVar("T")

USERS_A_QUERY = 256
CONVERSATIONS_A_QUERY = 256

CONVERSATION_COLUMNS = (
    "c.key, c.id, c.kind, c.title, coalesce(o.id, ''), c.member_count, t.last_seq, t.last_time, l.id, h.id"
)
CONVERSATION_SOURCE = (
    "conversations AS c CROSS JOIN tails AS t ON t.conversation = c.key"
    " LEFT JOIN users AS o ON o.key = c.owner"
    " LEFT JOIN users AS l ON l.key = c.peer_low LEFT JOIN users AS h ON h.key = c.peer_high"
)
CONVERSATION_WIDTH = 10
MEMBER_COLUMNS = "u.id, m.user, iif(m.owner, 'owner', 'member'), m.delivered, m.read, m.joined, m.joined_seq"
MESSAGE_COLUMNS = (
    "m.id, m.seq, coalesce(s.id, ''), m.device, m.kind, hex(m.content), m.encoding, m.time, m.client_id,"
    " m.reply_to, m.key, m.origin"
)
MESSAGE_SENDER = "LEFT JOIN users AS s ON s.key = m.sender"


def conversation_record(row: Sequence[Any]) -> ConversationRecord:
    """Make the record of ``CONVERSATION_COLUMNS``."""
    low, high = row[8], row[9]
    peers = None if low is None else (min(low, high), max(low, high))
    return ConversationRecord(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], peers)


def message_record(row: Sequence[Any]) -> MessageRecord:
    """Make the record of ``MESSAGE_COLUMNS``."""
    id, seq, sender, device, kind, content, *rest = row
    return MessageRecord(id, seq, sender, device, kind, bytes.fromhex(content), *rest)


def fetch(connection: sqlite3.Connection, columns: str, rest: str, parameters: Sequence[Any]) -> list[Any]:
    """Run ``SELECT columns rest`` and return its rows as lists, by one row of JSON."""
    lines = f"SELECT json_array({columns}) AS line {rest}"
    sql = f"SELECT '[' || coalesce(group_concat(line), '') || ']' FROM ({lines})"
    (answer,) = connection.execute(sql, parameters).fetchone()
    rows: list[Any] = json.loads(answer)
    return rows


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def read_conversation(connection: sqlite3.Connection, id: str) -> ConversationRecord | None:
    rows = fetch(connection, CONVERSATION_COLUMNS, f"FROM {CONVERSATION_SOURCE} WHERE c.id = ?", (id,))
    return conversation_record(rows[0]) if rows else None


def read_users(
    connection: sqlite3.Connection, users: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, list[MembershipRecord]]]:
    """Read those of the users who are known, with their conversations; two queries for some hundreds."""
    found: dict[tuple[str, str], tuple[int, list[MembershipRecord]]] = {}
    for chunk in chunks(users, USERS_A_QUERY):
        wanted = json.dumps(chunk)
        source = "FROM json_each(?) AS j CROSS JOIN users AS u ON u.id = json_extract(j.value, '$[0]')"
        for index, key in fetch(connection, "j.key, u.key", source, (wanted,)):
            found[chunk[index]] = (key, [])
        rows = fetch(
            connection,
            f"j.key, max(coalesce(d.delivered, 0), m.joined_seq), {CONVERSATION_COLUMNS}, {MEMBER_COLUMNS}",
            f"{source} CROSS JOIN members AS m ON m.user = u.key"
            f" CROSS JOIN {CONVERSATION_SOURCE}"
            " LEFT JOIN cursors AS d ON d.user = m.user AND d.device = json_extract(j.value, '$[1]')"
            " AND d.conversation = m.conversation WHERE c.key = m.conversation",
            (wanted,),
        )
        for index, delivered, *row in rows:
            conversation = conversation_record(row[:CONVERSATION_WIDTH])
            member = MemberRecord(*row[CONVERSATION_WIDTH:])
            found[chunk[index]][1].append(MembershipRecord(conversation, member, delivered))
    return found


def read_members(connection: sqlite3.Connection, key: int, limit: int, after: str) -> list[MemberRecord]:
    rows = fetch(
        connection,
        MEMBER_COLUMNS,
        "FROM members AS m CROSS JOIN users AS u ON u.key = m.user"
        " WHERE m.conversation = ? AND u.id > ? ORDER BY u.id LIMIT ?",
        (key, after, limit),
    )
    return [MemberRecord(*row) for row in rows]


def read_inbox(
    connection: sqlite3.Connection, user: int, limit: int, after: str | None
) -> tuple[list[InboxRow], bool]:
    """Read a page of a user's conversations.

    Raises:
        RequestError: The user has no conversation with the id ``after``.
    """
    end = (2**63 - 1, 2**63 - 1)  # before the newest
    if after is not None:
        row = connection.execute(
            "SELECT t.last_time, c.key FROM conversations AS c"
            " CROSS JOIN tails AS t ON t.conversation = c.key"
            " CROSS JOIN members AS m ON m.conversation = c.key AND m.user = ? WHERE c.id = ?",
            (user, after),
        ).fetchone()
        if row is None:
            raise RequestError(ErrorCode.BAD_REQUEST, "after: no such conversation")
        end = row
    rows = fetch(
        connection,
        f"p.read, {CONVERSATION_COLUMNS}, m.key IS NOT NULL, {MESSAGE_COLUMNS}",
        f"FROM (SELECT m.conversation, m.read FROM members AS m CROSS JOIN tails AS t USING (conversation)"
        f" WHERE m.user = ? AND (t.last_time, m.conversation) < (?, ?)"
        f" ORDER BY t.last_time DESC, m.conversation DESC LIMIT ?) AS p CROSS JOIN {CONVERSATION_SOURCE}"
        f" LEFT JOIN messages AS m ON m.conversation = c.key AND m.seq = t.last_seq {MESSAGE_SENDER}"
        " WHERE c.key = p.conversation",
        (user, *end, limit + 1),
    )
    inbox = []
    for read, *row in rows:
        message, found = row[CONVERSATION_WIDTH + 1 :], row[CONVERSATION_WIDTH]
        last = message_record(message) if found else None
        inbox.append(InboxRow(conversation_record(row), read, last))
    inbox.sort(key=lambda line: (line.conversation.last_time, line.conversation.key), reverse=True)
    return inbox[:limit], len(inbox) > limit


def read_history(
    connection: sqlite3.Connection,
    key: int,
    after: int | None,
    before: int | None,
    limit: int,
    max_bytes: int,
) -> tuple[list[MessageRecord], bool]:
    """Read a page of messages; see ``Store.history``."""
    ascending = after is not None
    compare, order = (">", "ASC") if ascending else ("<", "DESC")
    start = after if after is not None else before if before is not None else 2**63 - 1
    # One more than the page is looked at, by its size only, to tell whether more follow.
    rows = fetch(
        connection,
        f"p.candidates, {MESSAGE_COLUMNS}",
        "FROM (SELECT key, row_number() OVER page AS place, sum(size) OVER page AS total,"
        " count(*) OVER () AS candidates FROM"
        " (SELECT key, seq, length(content) AS size FROM messages"
        f" WHERE conversation = ?1 AND seq {compare} ?2 ORDER BY seq {order} LIMIT ?3 + 1)"
        f" WINDOW page AS (ORDER BY seq {order} ROWS UNBOUNDED PRECEDING)) AS p"
        f" CROSS JOIN messages AS m ON m.key = p.key {MESSAGE_SENDER}"
        " WHERE p.place <= ?3 AND (p.place = 1 OR ?4 = 0 OR p.total <= ?4)",
        (key, start, limit, max_bytes),
    )
    messages = [message_record(row[1:]) for row in rows]
    messages.sort(key=lambda message: message.seq, reverse=not ascending)
    return messages, bool(rows) and rows[0][0] > len(rows)


def read_replay(
    connection: sqlite3.Connection, wanted: Iterable[tuple[int, int, int]], limit: int
) -> list[list[MessageRecord]]:
    """Read what was missed in many conversations; see ``Store.replay``."""
    replay: list[list[MessageRecord]] = []
    for chunk in chunks(wanted, CONVERSATIONS_A_QUERY):
        ranges = [(key, after, min(up_to, after + limit)) for key, after, up_to in chunk]  # seq has no holes
        found: list[list[MessageRecord]] = [[] for _ in chunk]
        rows = fetch(
            connection,
            f"j.key, {MESSAGE_COLUMNS}",
            "FROM json_each(?) AS j"
            " CROSS JOIN messages AS m ON m.conversation = json_extract(j.value, '$[0]')"
            " AND m.seq > json_extract(j.value, '$[1]') AND m.seq <= json_extract(j.value, '$[2]')"
            f" {MESSAGE_SENDER}",
            (json.dumps(ranges),),
        )
        for index, *row in rows:
            found[index].append(message_record(row))
        for messages in found:
            messages.sort(key=lambda message: message.seq)
        replay += found
    return replay


def read_seqs_at(
    connection: sqlite3.Connection, wanted: Iterable[tuple[int, int, int]], limit: int
) -> list[int | None]:
    """Read where many conversations stood at a moment; see ``Store.seqs_at``.

    The index holds each message's key beside its seq: it is walked backwards from the last one, at most
    ``limit`` + 1 steps a conversation.
    """
    seq = (
        "(SELECT max(seq) FROM (SELECT seq, key FROM messages"
        " WHERE conversation = json_extract(j.value, '$[0]') AND seq <= json_extract(j.value, '$[1]')"
        " ORDER BY seq DESC LIMIT ? + 1) WHERE key <= json_extract(j.value, '$[2]'))"
    )
    positions: list[int | None] = []
    for chunk in chunks(wanted, CONVERSATIONS_A_QUERY):
        rows = fetch(connection, f"j.key, {seq}", "FROM json_each(?) AS j", (limit, json.dumps(chunk)))
        found: dict[int, int | None] = dict(rows)
        for index, (_, last_seq, _) in enumerate(chunk):
            position = found[index]
            positions.append(0 if position is None and last_seq <= limit else position)
    return positions
