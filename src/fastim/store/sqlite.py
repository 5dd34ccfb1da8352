"""The store in one SQLite file: the event loop's side of it."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar
from uuid import uuid4

from fastim._core.histogram import Histogram
from fastim.errors import ErrorCode, FastimError, InternalError, RequestError, StoreError
from fastim.store.base import (
    Append,
    BanRecord,
    ConversationRecord,
    Health,
    InboxRow,
    Mark,
    MemberRecord,
    MembershipRecord,
    MessageRecord,
    RevocationRecord,
    Start,
    Store,
    Write,
)
from fastim.store.sqlite_bans import BanRemoval, NewBans, read_bans
from fastim.store.sqlite_commands import ConversationChange, NewConversation, ensure_users
from fastim.store.sqlite_present import KeepPresent, take_present
from fastim.store.sqlite_reader import (
    read_conversation,
    read_history,
    read_inbox,
    read_members,
    read_replay,
    read_seqs_at,
    read_users,
)
from fastim.store.sqlite_recovery import (
    LeaveBehind,
    NewStart,
    Use,
    read_changed_since,
    take_left_behind,
)
from fastim.store.sqlite_schema import Fault, classify, connect_reader, store_error
from fastim.store.sqlite_tokens import NewRevocation, RevocationRemoval, TicketUse, read_revocations
from fastim.store.sqlite_writer import Command, Item, Writer, WriterOptions

__all__ = ["SQLiteStore"]

BATCH_BOUNDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
_WRITE_COUNTS = ("batches_total", "writes_total", "writes_failed_total")
WRITE_BYTES = 512  # what a write holds beside its content, about
REPORT_ITEMS = 16  # of a batch, that are reported in one call; in a large room each is some 100 µs of work
REPORT_NS = 10_000_000  # for the calls of one turn of the loop: what else it has to do comes between

P = ParamSpec("P")
T = TypeVar("T")
UserDevice = tuple[str, str]
Loaded = dict[UserDevice, tuple[int, list[MembershipRecord]]]

# What each query is counted as; see ``SQLiteStore.stats``.
_READS: dict[Callable[..., Any], str] = {
    read_conversation: "conversation",
    read_history: "history",
    read_inbox: "inbox",
    read_members: "members",
    read_replay: "replay",
    read_seqs_at: "seqs_at",
    read_changed_since: "changed_since",
    read_users: "users",
}
_OTHER_READS = "other"


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class SQLiteStore(Store):
    """A store in one SQLite file with a write-ahead log.

    Writes of one turn of the loop go to the writer's thread together; it commits what has come in while the
    batch before was syncing. Reads run on threads and connections of their own and see every commit that was
    reported.

    Args:
        path: The file; made if it is not there, its folder is not. Two more stand beside it (``-wal``,
            ``-shm``). One process at a time.
        synchronous: ``full`` (default): a reported write survives power loss. ``normal``: it survives ``kill
            -9``, after power loss the last ones may be missing.
        group_commit: False commits each write by itself; for comparison.
        max_batch: Writes in a commit, at most.
        client_id_life_s: Seconds (default a day) that a message's ``client_id`` is known, at least.
        clock: Returns milliseconds since the epoch.
        readers: Threads that read.
        cache_kib: Size of the writer's page cache, KiB (default 64 MiB).
        busy_timeout_ms: How long a write waits for a file locked by another process before it fails, ms.
        checkpoint_bytes: The log is copied into the file about every so many bytes.
        wal_limit_bytes: Beyond it, when a reader of another process keeps the log from beginning anew,
            writers wait for that reader; beyond 16 times of it writes fail until the log can shrink.
        backoff_s: While writing does not work it is tried again after so many seconds, twice as many each
            time, up to the second number.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["full", "normal"] = "full",
        group_commit: bool = True,
        max_batch: int = 2048,
        client_id_life_s: float = 86400,
        clock: Callable[[], int] = wall_clock_ms,
        readers: int = 2,
        cache_kib: int = 65536,
        busy_timeout_ms: int = 1000,
        checkpoint_bytes: int = 32 << 20,
        wal_limit_bytes: int = 128 << 20,
        backoff_s: tuple[float, float] = (0.1, 5.0),
    ) -> None:
        if synchronous not in ("full", "normal"):
            raise ValueError(f"synchronous is full or normal, not {synchronous!r}")
        if max_batch < 1 or readers < 1:
            raise ValueError("max_batch and readers are at least 1")
        self._path = os.fspath(path)
        self._options = WriterOptions(
            path=self._path,
            synchronous=synchronous,
            max_batch=max_batch if group_commit else 1,
            client_id_life_ms=int(client_id_life_s * 1000),
            cache_kib=cache_kib,
            busy_timeout_ms=busy_timeout_ms,
            checkpoint_bytes=checkpoint_bytes,
            wal_limit_bytes=wal_limit_bytes,
            clock=clock,
            backoff_first_s=backoff_s[0],
            backoff_most_s=backoff_s[1],
        )
        self.histograms: Mapping[str, Histogram] = {
            "commit": Histogram("How long the commit of a batch took."),
            "batch": Histogram("How many writes a batch held.", BATCH_BOUNDS),
        }
        self._write_counts = dict.fromkeys(_WRITE_COUNTS, 0)
        self._reader_count = readers
        self._busy_timeout_ms = busy_timeout_ms
        self._open_items: list[Item] = []  # submitted in this turn of the loop
        self._read_counts = dict.fromkeys((*_READS.values(), _OTHER_READS), 0)
        self.queued_count = 0
        self.queued_bytes = 0
        self.last_key = self.last_change = 0
        self._reports: deque[Sequence[Item]] = deque()  # finished, and not reported yet
        self._next_load: _Load | None = None
        self._loader: asyncio.Task[None] | None = None
        self._state: Literal["new", "open", "closed"] = "new"
        self._loop: asyncio.AbstractEventLoop
        self._writer: Writer
        self._readers: _Readers
        self._closed: asyncio.Event
        self._on_commit: Callable[[Sequence[Write]], None]

    # -- life

    async def open(self, on_commit: Callable[[Sequence[Write]], None]) -> None:
        if self._state != "new":
            raise RuntimeError("a store is opened once")
        loop = self._loop = asyncio.get_running_loop()
        self._on_commit = on_commit
        self._closed = asyncio.Event()
        opened: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if opened.done():
                return
            if error is None:
                opened.set_result(None)
            else:
                opened.set_exception(error)

        self._writer = Writer(
            self._options,
            on_open=partial(self._call_soon, settle),
            on_batch=partial(self._call_soon, self._report),
            on_closed=partial(self._call_soon, self._end),
        )
        self._writer.start()
        try:
            await opened
        except sqlite3.Error as error:
            self._writer.join()
            raise store_error(error, f"opening {self._path}") from error
        except Exception:
            self._writer.join()
            raise
        except asyncio.CancelledError:
            self._writer.stop()
            raise
        self._readers = _Readers(self._path, self._reader_count, self._busy_timeout_ms)
        self.last_key, self.last_change = self._writer.last_key, self._writer.last_change
        self._state = "open"

    def _call_soon(self, callback: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it everybody who wants to know
            self._loop.call_soon_threadsafe(callback, *args)

    async def close(self) -> None:
        if self._state != "open":
            return
        self._state = "closed"
        self._hand_over()
        if self._loader is not None:
            self._loader.cancel()
            await asyncio.wait([self._loader])
        await self._loop.run_in_executor(None, self._readers.close)
        self._writer.stop()
        await self._closed.wait()
        self._writer.join()

    def _end(self) -> None:
        """The writer has ended; what it has finished is told of first."""
        if self._reports:
            self._loop.call_soon(self._end)
        else:
            self._closed.set()

    # -- writes

    def submit(self, write: Append | Mark) -> None:
        self.queued_count += 1
        self.queued_bytes += WRITE_BYTES
        if write.content.__class__ is bytes:  # anything else is refused in its turn
            self.queued_bytes += len(write.content)
        if self._state != "open":
            write.error = StoreError("the store is closed", temporary=True)
            asyncio.get_running_loop().call_soon(self._report, [write])
            return
        items = self._open_items
        if not items:
            self._loop.call_soon(self._hand_over)
        items.append(write)

    def _hand_over(self) -> None:
        if self._open_items:
            items, self._open_items = self._open_items, []
            self._writer.put(items)

    def _report(self, items: Sequence[Item], took_ns: int = 0) -> None:
        """Tell of a finished batch, behind those before it; called on the loop's thread."""
        self._count(sum([item.__class__ is not Command for item in items]), took_ns)
        waits = bool(self._reports)
        self._reports.extend(items[at : at + REPORT_ITEMS] for at in range(0, len(items), REPORT_ITEMS))
        if not waits:  # else a call for those before is on its way
            self._report_some()

    def _report_some(self) -> None:
        """Tell of what is finished, as much as fits into a turn of the loop."""
        reports, end_ns = self._reports, time.monotonic_ns() + REPORT_NS
        try:
            while reports:
                self._tell(reports.popleft())
                if time.monotonic_ns() >= end_ns:
                    break
        finally:
            if reports:
                asyncio.get_running_loop().call_soon(self._report_some)

    def _tell(self, items: Sequence[Item]) -> None:
        writes: Sequence[Write]
        commands: Sequence[Command]
        if any(item.__class__ is Command for item in items):
            writes = [item for item in items if not isinstance(item, Command)]
            commands = [item for item in items if isinstance(item, Command)]
        else:
            writes, commands = items, ()  # type: ignore[assignment]
        self.queued_count -= len(writes)
        self.queued_bytes -= len(writes) * WRITE_BYTES
        self.queued_bytes -= sum([len(w.content) for w in writes if w.content.__class__ is bytes])
        try:
            if writes:
                self._on_commit(writes)
        finally:
            for command in commands:
                command.done(command)

    @property
    def health(self) -> Health:
        if self._state == "open":
            return self._writer.health
        return Health(ok=False, reason=f"the store is {'closed' if self._state == 'closed' else 'not open'}")

    def _count(self, writes: int, took_ns: int) -> None:
        counts = self._write_counts
        if took_ns and writes:
            counts["batches_total"] += 1
            counts["writes_total"] += writes
            self.histograms["commit"].observe(took_ns)
            self.histograms["batch"].observe(writes)
        elif writes:
            counts["writes_failed_total"] += writes

    def stats(self) -> dict[str, int]:
        counts, health = self._read_counts, self.health
        return {
            "queued_bytes": self.queued_bytes,
            **self._write_counts,
            "failures": self._writer.failures if self._state == "open" else 0,
            "failing_since_seconds": health.since // 1000,
            "reads_total": sum(counts.values()),
            **{f"reads_{name}_total": n for name, n in counts.items()},
        }

    async def flush(self) -> None:
        await self._command(None)

    async def _command(self, run: Callable[[sqlite3.Connection], T] | None) -> T:
        if self._state != "open":
            raise StoreError("the store is closed", temporary=True)
        future: asyncio.Future[T] = self._loop.create_future()

        def done(command: Command) -> None:
            if future.done():
                return
            if command.error is not None:
                future.set_exception(command.error)
            else:
                future.set_result(command.result)

        if not self._open_items:
            self._loop.call_soon(self._hand_over)
        self._open_items.append(Command(run, done))
        return await future

    # -- users and conversations

    async def create_conversation(
        self,
        kind: str,
        creator: str,
        members: Sequence[str],
        title: str,
        time: int,
        id: str | None = None,
        client_id: str | None = None,
    ) -> tuple[ConversationRecord, bool]:
        check_texts(creator, *members, title, id or "", client_id or "")
        new = NewConversation(
            kind=kind,
            creator=creator,
            members=tuple(members),
            title=title,
            time=time,
            id=id if id is not None else str(uuid4()),
            id_chosen=id is not None,
            client_id=client_id,
        )
        record, is_new, change = await self._command(new)
        self.last_change = max(self.last_change, change)
        return record, is_new

    async def update_conversation(
        self, key: int, time: int, title: str | None, add: Sequence[str], remove: Sequence[str]
    ) -> tuple[ConversationRecord, list[MemberRecord], list[str]]:
        check_texts(title or "", *add, *remove)
        wanted = ConversationChange(key, time, title, tuple(add), tuple(remove))
        record, added, removed, change = await self._command(wanted)
        self.last_change = max(self.last_change, change)
        return record, added, removed

    async def conversation(self, id: str) -> ConversationRecord | None:
        if not encodable(id):
            return None
        return await self._read(read_conversation, id)

    async def load_users(self, users: Iterable[tuple[str, str]]) -> Loaded:
        wanted = list(users)
        for user, device in wanted:
            check_texts(user, device)
        if self._state != "open":
            raise StoreError("the store is closed", temporary=True)
        # What is asked for while a load is under way is loaded together by the next one.
        load = self._next_load
        if load is None:
            load = self._next_load = _Load(self._loop.create_future())
            if self._loader is None:
                self._loader = self._loop.create_task(self._load_all())
        load.users.update(dict.fromkeys(wanted))
        found = await asyncio.shield(load.future)
        return {pair: (found[pair][0], list(found[pair][1])) for pair in wanted}

    async def _load_all(self) -> None:
        load: _Load | None = None
        try:
            while True:
                await asyncio.sleep(0)  # let this turn's others join
                load, self._next_load = self._next_load, None
                if load is None:
                    break
                await self._load(load)
        finally:
            self._loader = None
            for left in (load, self._next_load):
                if left is not None and not left.future.done():
                    left.fail(StoreError("the store is closed", temporary=True))
            self._next_load = None

    async def _load(self, load: _Load) -> None:
        try:
            pairs = list(load.users)
            found = await self._read(read_users, pairs)
            unknown = [pair for pair in pairs if pair not in found]
            if unknown:
                names = list(dict.fromkeys(user for user, _ in unknown))
                await self._command(lambda connection: ensure_users(connection, names))
                found.update(await self._read(read_users, unknown))
        except FastimError as error:
            load.fail(error)
        except Exception as error:
            load.fail(InternalError(f"loading users failed: {error!r}"))
        else:
            load.future.set_result(found)

    async def member_records(self, key: int, limit: int, after: str = "") -> list[MemberRecord]:
        check_texts(after)
        return await self._read(read_members, key, limit, after)

    async def inbox(self, user: int, limit: int, after: str | None) -> tuple[list[InboxRow], bool]:
        check_texts(after or "")
        return await self._read(read_inbox, user, limit, after)

    # -- messages

    async def history(
        self, key: int, *, after: int | None = None, before: int | None = None, limit: int, max_bytes: int = 0
    ) -> tuple[list[MessageRecord], bool]:
        if after is not None and before is not None:
            raise ValueError("after or before, not both")
        return await self._read(read_history, key, after, before, limit, max_bytes)

    async def replay(self, wanted: Iterable[tuple[int, int, int]], limit: int) -> list[list[MessageRecord]]:
        return await self._read(read_replay, list(wanted), limit)

    async def seqs_at(self, wanted: Iterable[tuple[int, int, int]], limit: int) -> list[int | None]:
        return await self._read(read_seqs_at, list(wanted), limit)

    # -- bans

    async def bans(self, now: int) -> Sequence[BanRecord]:
        return await self._read(read_bans, now)

    async def keep_present(self, users: Mapping[str, int], time: int) -> None:
        await self._command(KeepPresent(dict(users), time))

    async def take_present(self) -> tuple[dict[str, int], int]:
        return await self._command(take_present)

    async def put_bans(self, records: Sequence[BanRecord], now: int) -> None:
        for record in records:
            check_texts(record.subject, record.reason, record.source)
        await self._command(NewBans(tuple(records), now))

    async def remove_ban(self, kind: str, subject: str) -> bool:
        check_texts(subject)
        return await self._command(BanRemoval(kind, subject))

    # -- clients that come back after a restart

    async def begin_epoch(self, epoch: str, used: Sequence[str], time: int, forget_before: int) -> Start:
        check_texts(epoch, *used)
        return await self._command(NewStart(epoch, tuple(used), time, forget_before))

    async def use_namespace(self, namespace: str, epoch: str) -> None:
        check_texts(namespace, epoch)
        await self._command(Use(namespace, epoch))

    async def leave_behind(self, data: bytes) -> None:
        await self._command(LeaveBehind(data))

    async def take_left_behind(self) -> bytes | None:
        return await self._command(take_left_behind)

    async def changed_since(self, user: int, change: int) -> bool:
        return await self._read(read_changed_since, user, change)

    # -- tokens and tickets

    async def revocations(self, now: int) -> Sequence[RevocationRecord]:
        return await self._read(read_revocations, now)

    async def put_revocation(self, record: RevocationRecord, now: int) -> None:
        check_texts(record.subject, record.device, record.reason)
        await self._command(NewRevocation(record, now))

    async def remove_revocation(self, kind: str, subject: str, device: str) -> bool:
        check_texts(subject, device)
        return await self._command(RevocationRemoval(kind, subject, device))

    async def use_ticket(self, id: str, until: int, now: int) -> bool:
        check_texts(id)
        return await self._command(TicketUse(id, until, now))

    async def _read(
        self, query: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._state != "open":
            raise StoreError("the store is closed", temporary=True)
        self._read_counts[_READS.get(query, _OTHER_READS)] += 1
        try:
            return await self._loop.run_in_executor(
                self._readers.pool, partial(self._readers.run, query, *args, **kwargs)
            )
        except sqlite3.Error as error:
            if classify(error) is Fault.LASTING:
                self._writer.condemn(error)
            raise store_error(error, "reading") from error


class _Load:
    """Users that are loaded together."""

    __slots__ = ("future", "users")

    def __init__(self, future: asyncio.Future[Loaded]) -> None:
        self.users: dict[UserDevice, None] = {}
        self.future = future

    def fail(self, error: Exception) -> None:
        self.future.set_exception(error)
        self.future.exception()  # whoever asked may have gone away; that is no unhandled error


class _Readers:
    """Threads that read, each with a connection of its own."""

    def __init__(self, path: str, count: int, busy_timeout_ms: int) -> None:
        self.pool = ThreadPoolExecutor(count, thread_name_prefix="fastim-store-reader")
        self._path = path
        self._busy_timeout_ms = busy_timeout_ms
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def run(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = connect_reader(self._path, busy_timeout_ms=self._busy_timeout_ms)
            self._local.connection = connection
            self._connections.append(connection)
        return query(connection, *args, **kwargs)

    def close(self) -> None:
        """Finish what is being read, then close."""
        self.pool.shutdown(wait=True)
        while self._connections:
            self._connections.pop().close()


def encodable(text: str) -> bool:
    """Tell whether a text is one (it may hold lone surrogates, which have no UTF-8)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(*texts: str) -> None:
    """Refuse texts that cannot be stored or looked up.

    Raises:
        RequestError: One holds a NUL or a lone surrogate.
    """
    for text in texts:
        if "\0" in text or not encodable(text):
            raise RequestError(ErrorCode.BAD_REQUEST, "a text holds NUL or a lone surrogate")
