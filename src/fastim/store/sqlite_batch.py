"""Storing a batch of writes inside the open transaction: few SQLite calls, however many rows.

Each call of the sqlite3 module gives up the interpreter lock and has to win it back from a busy event loop,
so the calls of a batch are counted, not its rows. A batch of messages is two of them: one multi-row INSERT,
and one row into the temporary view ``settle`` whose trigger does what follows from the messages (client ids,
the conversations' last seq, the senders' read marks) without coming back to Python in between.
"""

from __future__ import annotations

import json
import os
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from fastim._core.values import Encoding, transcode
from fastim.errors import ErrorCode, RequestError
from fastim.store.base import Append, Mark
from fastim.store.sqlite_schema import Fault, classify

__all__ = ["BatchStore", "DuplicateClientId", "MultiRow"]

Row = tuple[Any, ...]
ClientKey = tuple[str, int, int]  # client id, sender, conversation

MAX_REMEMBERED_TAILS = 200_000  # conversations whose last seq is kept in memory, about 100 bytes each
MESSAGE_COLUMNS = 12  # of a row of ``messages`` that is inserted; its key is SQLite's
LOOKUP_BYTES = 4 << 20  # contents compared at a time

# Upserts where one would write UPDATE … FROM: of that, SQLite scans the table that is changed, CROSS JOIN or
# not.
SETTLE = """
CREATE TEMP VIEW settle AS SELECT 0 AS base, '' AS tails, '' AS readers;
CREATE TEMP TRIGGER settle_batch INSTEAD OF INSERT ON settle BEGIN
    INSERT INTO client_ids (client_id, sender, conversation, message)
        SELECT client_id, sender, conversation, key FROM messages
        WHERE key > NEW.base AND client_id IS NOT NULL;
    INSERT INTO tails (conversation, last_seq, last_time)
        SELECT m.conversation, m.seq, m.time
        FROM json_each(NEW.tails) AS j CROSS JOIN messages AS m ON m.key = NEW.base + j.value
        WHERE true ON CONFLICT DO UPDATE SET last_seq = excluded.last_seq, last_time = excluded.last_time;
    INSERT INTO members (conversation, user, owner, read, delivered, joined, joined_seq)
        SELECT b.conversation, b.user, b.owner, m.seq, b.delivered, b.joined, b.joined_seq
        FROM json_each(NEW.readers) AS j CROSS JOIN messages AS m ON m.key = NEW.base + j.value
        CROSS JOIN members AS b ON b.conversation = m.conversation AND b.user = m.sender AND b.read < m.seq
        WHERE true ON CONFLICT DO UPDATE SET read = excluded.read;
END;
"""


class DuplicateClientId(Exception):
    """A batch that was stored without looking holds a client id that is known."""


class MultiRow:
    """A statement over rows of parameters, prepared for a few row counts only.

    A statement for each count that occurs would be parsed anew nearly each time. So rows are padded up to the
    next step of a ladder with rows of NULL, which the statement leaves out.

    Args:
        template: SQL with ``{rows}`` where the rows stand: a subquery with the columns ``column1`` …
            ``columnN``.
        columns: Values in a row; the first one is never NULL.
        max_variables: SQLITE_LIMIT_VARIABLE_NUMBER of the connection.
        max_rows: Never more than so many rows in a statement.
    """

    def __init__(self, template: str, columns: int, max_variables: int, max_rows: int) -> None:
        self._template = template
        self._columns = columns
        self.max_rows = max(1, min(max_rows, max_variables // columns))
        self._steps = ladder(self.max_rows)
        self._sql: dict[int, str] = {}

    def execute(self, connection: sqlite3.Connection, values: list[Any]) -> sqlite3.Cursor:
        """Run the statement once over the rows in ``values`` (flat, at most ``max_rows`` of them)."""
        count = len(values) // self._columns
        step = self._steps[bisect_left(self._steps, count)]
        sql = self._sql.get(step)
        if sql is None:
            row = f"({','.join('?' * self._columns)})"
            rows = f"(SELECT * FROM (VALUES {','.join([row] * step)}) WHERE column1 IS NOT NULL)"
            sql = self._sql[step] = self._template.format(rows=rows)
        if step > count:
            values = values + [None] * ((step - count) * self._columns)
        return connection.execute(sql, values)

    def execute_all(self, connection: sqlite3.Connection, rows: Iterable[Row]) -> list[Row]:
        """Run the statement over any number of rows, in as few calls as the limits allow; return what it
        yields.
        """
        values = list(chain.from_iterable(rows))
        stride = self.max_rows * self._columns
        found: list[Row] = []
        for start in range(0, len(values), stride):
            found += self.execute(connection, values[start : start + stride]).fetchall()
        return found


def ladder(most: int) -> list[int]:
    """Return 1, 2, 3, 4, 6, 8, 12, 16 … up to ``most``: at most a half more than is needed."""
    steps = {most}
    power = 1
    while power < most:
        steps.add(power)
        steps.add(min(power * 3 // 2, most))
        power *= 2
    steps.discard(0)
    return sorted(steps)


class MessageIds:
    """Makes UUIDv7 texts (RFC 9562, section 5.7; ``rand_a`` counts up, method 1 of 6.2): sorted as they are
    made.
    """

    COUNTERS = tuple(f"{n:03x}" for n in range(4096))
    CHUNK = 9  # bytes, of which 62 bits and a spare half byte are used
    POOL = CHUNK * 4096

    def __init__(self) -> None:
        self._pool = ""
        self._at = 0
        self._count = 0

    def prefix(self, time_ms: int) -> str:
        """Return the part that all ids of a millisecond share."""
        stamp = f"{time_ms & 0xFFFF_FFFF_FFFF:012x}"
        return f"{stamp[:8]}-{stamp[8:]}-7"

    def make(self, prefix: str) -> str:
        """Return a new id with what ``prefix`` returned for its time."""
        at = self._at
        if at == len(self._pool):
            self._pool = os.urandom(self.POOL).hex()  # rarely: it gives up the interpreter lock
            at = 0
        self._at = at + 18
        count = self._count = (self._count + 1) & 4095
        pool = self._pool
        return (
            f"{prefix}{self.COUNTERS[count]}-{'89ab'[count & 3]}{pool[at : at + 3]}-{pool[at + 3 : at + 15]}"
        )


class BatchStore:
    """Stores runs of messages and marks over one connection, each within its caller's transaction.

    Args:
        connection: The writer's connection.
        max_rows: Rows in one statement, at most.
    """

    def __init__(self, connection: sqlite3.Connection, max_rows: int) -> None:
        self._connection = connection
        self._ids = MessageIds()
        self._tails: dict[int, int] = {}  # last seq of conversations, the transaction's own writes included
        self._known_ids: dict[ClientKey, Append] = {}  # of this transaction
        connection.executescript(SETTLE)
        variables = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)

        def multi_row(template: str, columns: int) -> MultiRow:
            return MultiRow(template, columns, variables, max_rows)

        self._insert_messages = multi_row(
            "INSERT INTO messages (conversation, seq, id, sender, device, kind, content, encoding, time,"
            " client_id, reply_to, origin) SELECT * FROM {rows} WHERE true",
            MESSAGE_COLUMNS,
        )
        self._select_tails = multi_row(
            "SELECT json_group_array(conversation), json_group_array(last_seq)"
            " FROM {rows} CROSS JOIN tails ON conversation = column1",
            1,
        )
        self._update_members = multi_row(
            "INSERT INTO members (conversation, user, owner, read, delivered, joined, joined_seq)"
            " SELECT b.conversation, b.user, b.owner, v.column3, v.column4, b.joined, b.joined_seq"
            " FROM {rows} AS v CROSS JOIN members AS b ON b.conversation = v.column1 AND b.user = v.column2"
            " AND (b.read < v.column3 OR b.delivered < v.column4) WHERE true ON CONFLICT DO UPDATE"
            " SET read = max(read, excluded.read), delivered = max(delivered, excluded.delivered)",
            4,
        )
        self._upsert_cursors = multi_row(
            "INSERT INTO cursors (user, device, conversation, delivered, time)"
            " SELECT v.column1, v.column2, v.column3, v.column4,"
            " CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) FROM {rows} AS v"
            " CROSS JOIN members AS m ON m.conversation = v.column3 AND m.user = v.column1"
            " WHERE true ON CONFLICT DO UPDATE SET delivered = excluded.delivered, time = excluded.time"
            " WHERE excluded.delivered > delivered",
            4,
        )
        self._select_known = multi_row(
            "SELECT json_group_array(json_array(v.column1, m.key, m.id, m.seq, m.time, m.kind,"
            " length(m.content))) FROM {rows} AS v"
            " CROSS JOIN client_ids AS c ON c.client_id = v.column2 AND c.sender = v.column3"
            " AND c.conversation = v.column4 CROSS JOIN messages AS m ON m.key = c.message",
            4,
        )
        self._select_contents = multi_row(
            "SELECT json_group_array(json_array(m.key, hex(m.content), m.encoding))"
            " FROM {rows} CROSS JOIN messages AS m ON m.key = column1",
            1,
        )

    def begin(self) -> None:
        """Take note that a transaction has begun."""
        self._known_ids.clear()
        if len(self._tails) > MAX_REMEMBERED_TAILS:
            self._tails.clear()

    def forget(self) -> None:
        """Take note that the transaction was rolled back: what is remembered may not be so."""
        self._tails.clear()
        self._known_ids.clear()

    def store(self, writes: Sequence[Append | Mark]) -> None:
        """Store a run of writes without looking for known client ids first.

        Raises:
            DuplicateClientId: One is known; roll back and take ``store_carefully``.
            Exception: Whatever sqlite3 raises; roll back.
        """
        self._store(writes, looked_up=False)

    def store_carefully(self, writes: Sequence[Append | Mark]) -> None:
        """Store a run of writes, each that cannot be stored alone getting its ``error``.

        Raises:
            sqlite3.Error: The file, not a row, is to blame; roll back.
        """
        for write in writes:
            reset(write)
        finished = self._resolve_or_split(writes)
        self._store_or_split([write for write in writes if id(write) not in finished])

    def _store_or_split(self, writes: Sequence[Append | Mark]) -> None:
        """Store writes in halves of halves until each that fails stands alone. Cost: O(log n) calls a
        failing one.
        """
        if not writes:
            return
        tails, known = dict(self._tails), dict(self._known_ids)
        self._connection.execute("SAVEPOINT part")
        try:
            self._store(writes, looked_up=True)
        except Exception as error:
            if classify(error) is not Fault.ROW:
                raise
            self._connection.execute("ROLLBACK TO part")
            self._connection.execute("RELEASE part")
            self._tails, self._known_ids = tails, known
            for write in writes:
                reset(write)
            if len(writes) == 1:
                writes[0].error = cannot_be_stored(error)
                return
            middle = len(writes) // 2
            self._store_or_split(writes[:middle])
            self._store_or_split(writes[middle:])
        else:
            self._connection.execute("RELEASE part")

    def _store(self, writes: Sequence[Append | Mark], *, looked_up: bool) -> None:
        self._load_tails({write.conversation for write in writes} - self._tails.keys())
        plan = _Plan(self._tails, self._known_ids, self._ids)
        plan.add_all(writes, looked_up=looked_up)
        if plan.count:
            self._insert(plan, looked_up=looked_up)
        if plan.member_marks:
            self._update_members.execute_all(
                self._connection, ((*key, *marks) for key, marks in plan.member_marks.items())
            )
        if plan.device_marks:
            self._upsert_cursors.execute_all(
                self._connection, ((*key, seq) for key, seq in plan.device_marks.items())
            )

    def _insert(self, plan: _Plan, *, looked_up: bool) -> None:
        insert = self._insert_messages
        stride = insert.max_rows * MESSAGE_COLUMNS
        last_key = 0
        for start in range(0, len(plan.values), stride):
            part = plan.values if len(plan.values) <= stride else plan.values[start : start + stride]
            last_key = insert.execute(self._connection, part).lastrowid or 0
        base = last_key - plan.count
        for key, append in enumerate(plan.appends, base + 1):
            append.key = key
        settle = (
            base,
            str(list(plan.last_rows.values())),
            str(list(plan.read_rows.values())),
        )
        try:
            self._connection.execute("INSERT INTO settle VALUES (?, ?, ?)", settle)
        except sqlite3.IntegrityError as error:
            if looked_up:
                raise
            raise DuplicateClientId from error

    def _load_tails(self, missing: set[int]) -> None:
        for keys, seqs in self._select_tails.execute_all(self._connection, ((key,) for key in missing)):
            self._tails.update(zip(json.loads(keys), json.loads(seqs), strict=True))

    # -- client ids that are known already

    def _resolve_or_split(self, writes: Sequence[Append | Mark]) -> set[int]:
        """Do ``_resolve_known``; a write whose values cannot be looked up fails alone."""
        try:
            return self._resolve_known(writes)
        except Exception as error:
            if classify(error) is not Fault.ROW:
                raise
            if len(writes) == 1:
                reset(writes[0])
                writes[0].error = cannot_be_stored(error)
                return {id(writes[0])}
        middle = len(writes) // 2
        return self._resolve_or_split(writes[:middle]) | self._resolve_or_split(writes[middle:])

    def _resolve_known(self, writes: Sequence[Append | Mark]) -> set[int]:
        """Finish each message whose client id is stored, a duplicate or a conflict; return which (by
        ``id``).
        """
        asked = [
            (index, write.client_id, write.sender, write.conversation)
            for index, write in enumerate(writes)
            if isinstance(write, Append) and write.client_id is not None and encodable(write.client_id)
        ]
        finished: set[int] = set()
        candidates: list[tuple[int, int, Append]] = []
        for (answer,) in self._select_known.execute_all(self._connection, asked):
            for index, key, message_id, seq, time, kind, size in json.loads(answer):
                write = writes[index]
                assert isinstance(write, Append)
                finished.add(id(write))
                if write.kind == kind and isinstance(write.content, bytes):
                    write.duplicate, write.id, write.seq, write.time = True, message_id, seq, time
                    candidates.append((key, size + len(write.content), write))
                else:
                    write.error = conflict()
        self._compare_contents(candidates)
        return finished

    def _compare_contents(self, candidates: list[tuple[int, int, Append]]) -> None:
        """Compare contents with the stored ones, a few MiB at a time."""
        start = 0
        while start < len(candidates):
            end, size = start, 0
            while end < len(candidates) and (end == start or size < LOOKUP_BYTES):
                size += candidates[end][1]
                end += 1
            part = candidates[start:end]
            stored: dict[int, tuple[str, int]] = {}
            keys = {key for key, _, _ in part}
            for (answer,) in self._select_contents.execute_all(self._connection, ((key,) for key in keys)):
                stored.update((key, (content, encoding)) for key, content, encoding in json.loads(answer))
            for key, _, write in part:
                content, encoding = stored[key]
                if not same_value(bytes.fromhex(content), encoding, write.content, write.encoding):
                    reset(write)
                    write.error = conflict()
            start = end


class _Plan:
    """What a run of writes comes to: rows to insert, and the latest of each mark."""

    def __init__(self, tails: dict[int, int], known_ids: dict[ClientKey, Append], ids: MessageIds) -> None:
        self.tails = tails
        self.known_ids = known_ids
        self.ids = ids
        self.values: list[Any] = []  # of the rows, one after the other
        self.appends: list[Append] = []  # that they are of
        self.count = 0
        self.last_rows: dict[int, int] = {}  # conversation -> number of its last row, from 1
        self.read_rows: dict[tuple[int, int], int] = {}  # (conversation, sender) -> likewise
        self.member_marks: dict[tuple[int, int], list[int]] = {}  # (conversation, user) -> [read, delivered]
        self.device_marks: dict[tuple[int, str, int], int] = {}  # (user, device, conversation) -> delivered

    def add_all(self, writes: Sequence[Append | Mark], *, looked_up: bool) -> None:
        """Plan the writes in order. The hot loop: about 1.5 µs a message."""
        tails, known_ids, extend = self.tails, self.known_ids, self.values.extend
        last_rows, read_rows, make_id = self.last_rows, self.read_rows, self.ids.make
        keep = self.appends.append
        count, time, prefix = self.count, -1, ""
        for write in writes:
            if write.__class__ is not Append:
                self.add_mark(write)  # type: ignore[arg-type]
                continue
            assert isinstance(write, Append)
            conversation = write.conversation
            client_id = write.client_id
            seq = tails.get(conversation)
            if seq is None:
                write.error = no_conversation()
                continue
            sender = write.sender
            if client_id is not None:
                first = known_ids.get((client_id, sender, conversation))
                if first is not None:
                    repeat(write, first)
                    continue
            if write.reply_to is not None and not 0 < write.reply_to <= seq:
                if client_id is not None and not looked_up:
                    raise DuplicateClientId  # or it may be; then what it replied to does not matter
                write.error = RequestError(
                    ErrorCode.BAD_REQUEST, "reply_to: no message of the conversation has this seq"
                )
                continue
            if client_id is not None:
                known_ids[client_id, sender, conversation] = write
            count += 1
            seq += 1
            tails[conversation] = seq
            last_rows[conversation] = count
            read_rows[conversation, sender] = count
            if write.time != time:
                time = write.time
                prefix = self.ids.prefix(time)
            write.seq = seq
            write.id = message_id = make_id(prefix)
            keep(write)
            extend(
                (
                    conversation,
                    seq,
                    message_id,
                    sender,
                    write.device,
                    write.kind,
                    write.content,
                    write.encoding,
                    time,
                    client_id,
                    write.reply_to,
                    write.origin,
                )
            )
        self.count = count

    def add_mark(self, mark: Mark) -> None:
        last = self.tails.get(mark.conversation)
        if last is None:
            mark.error = no_conversation()
            return
        mark.read = min(mark.read, last)
        mark.delivered = min(mark.delivered, last)
        marks = self.member_marks.setdefault((mark.conversation, mark.user), [0, 0])
        if mark.read > marks[0]:
            marks[0] = mark.read
        if mark.delivered > marks[1]:
            marks[1] = mark.delivered
        if mark.delivered > 0:
            device = (mark.user, mark.device, mark.conversation)
            if mark.delivered > self.device_marks.get(device, 0):
                self.device_marks[device] = mark.delivered


def repeat(write: Append, first: Append) -> None:
    """Finish a message whose client id came earlier in the same transaction."""
    if write.kind == first.kind and same_value(first.content, first.encoding, write.content, write.encoding):
        write.duplicate, write.id, write.seq, write.time = True, first.id, first.seq, first.time
    else:
        write.error = conflict()


def same_value(first: bytes, first_encoding: int, second: bytes, second_encoding: int) -> bool:
    """Tell whether two contents are one value, however each is written."""
    if first == second and first_encoding == second_encoding:
        return True
    try:
        return canonical(first, first_encoding) == canonical(second, second_encoding)
    except ValueError:  # no value of the protocol; nobody who checks content before lets it come here
        return False


def canonical(content: bytes, encoding: int) -> str:
    """Write a value in the one way that all its encodings have in common.

    The keys of a map have no order: many clients write one anew for each attempt, in the order of its hashes.
    """
    json_content = transcode(content, Encoding(encoding), Encoding.JSON)
    return json.dumps(json.loads(json_content), sort_keys=True)


def reset(write: Append | Mark) -> None:
    """Take back what an attempt at storing has filled in."""
    write.error = None
    if isinstance(write, Append):
        write.duplicate, write.id, write.seq, write.key = False, "", 0, 0


def encodable(text: str) -> bool:
    """Tell whether a text can be a parameter (it holds no lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def cannot_be_stored(error: Exception) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, f"it cannot be stored: {error}")


def conflict() -> RequestError:
    return RequestError(ErrorCode.CONFLICT, "client_id was used for another message")


def no_conversation() -> RequestError:
    return RequestError(ErrorCode.FORBIDDEN, "no such conversation")
