"""The thread that writes: one transaction a batch, and what becomes of it when the file does not play
along.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

from fastim.errors import FastimError, InternalError, StoreError
from fastim.store.backoff import Backoff
from fastim.store.base import Append, Health, Mark
from fastim.store.sqlite_batch import BatchStore, DuplicateClientId, reset
from fastim.store.sqlite_schema import Fault, classify, connect_writer, migrate, store_error

__all__ = ["Command", "Item", "Writer", "WriterOptions"]

logger = logging.getLogger("fastim.store")

PAGE_BYTES = 4096
CAREFUL_BATCHES = 16  # batches that look client ids up first, after one that met a known one
PATIENCE_S = 1.0  # that a write waits for the next attempt while writing does not work
SETTLE_INTERVAL_S = 1.0  # of quiet, before the log is checkpointed
QUIET_INTERVAL_S = 60.0  # with nothing to do but to look for client ids past their life
PRUNE_MESSAGES = 1000  # looked at in one go
PROBE_BYTES = 65536
NO_CHECKPOINT_ON_CLOSE = 1006  # SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE
HARD_LIMIT_FACTOR = 16  # times the log's bound: then writes are refused until the log can shrink


class Command:
    """Something else to do within the writer's transactions, in the order of submission.

    Args:
        run: Gets the connection, inside a savepoint; what it raises undoes it alone. None: only wait for the
            turn.
        done: Called on the loop's thread, after the commit, with this command.
    """

    __slots__ = ("done", "error", "result", "run")

    def __init__(
        self, run: Callable[[sqlite3.Connection], Any] | None, done: Callable[[Command], None]
    ) -> None:
        self.run = run
        self.done = done
        self.result: Any = None
        self.error: Exception | None = None


Item: TypeAlias = Append | Mark | Command


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """How the writer works; defaults and meanings are those of ``SQLiteStore``."""

    path: str
    synchronous: str
    max_batch: int
    client_id_life_ms: int
    cache_kib: int
    busy_timeout_ms: int
    checkpoint_bytes: int
    wal_limit_bytes: int
    clock: Callable[[], int]
    backoff_first_s: float
    backoff_most_s: float


class Writer:
    """Owns the connection that writes.

    **Thread**: ``put``, ``stop``, ``condemn`` and ``health`` from any; the callbacks are called in the
    writer's thread.

    Args:
        options: See there.
        on_open: Called once, with None or with why the file cannot be used (the thread has ended then).
        on_batch: Called with each finished batch, in order; each item has its result or error. Then the
            nanoseconds that the commit took, or 0 where there was none.
        on_closed: Called last, after ``stop``.
    """

    def __init__(
        self,
        options: WriterOptions,
        on_open: Callable[[Exception | None], None],
        on_batch: Callable[[Sequence[Item], int], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._options = options
        self._on_open = on_open
        self._on_batch = on_batch
        self._on_closed = on_closed
        self._queue: SimpleQueue[list[Item] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fastim-store-writer", daemon=True)
        self._backlog: list[Item] = []
        self._stopping = False
        self._stop_asked = threading.Event()
        self._backoff = Backoff(options.backoff_first_s, options.backoff_most_s)
        self._refusing = False  # until the next attempt: a write has waited for it long enough
        self._careful_left = 0
        self._frames = 0.0  # estimate of the frames written since the last complete checkpoint
        self._frames_per_item = 3.0
        self._items_in_log = 0
        self._log_bytes = 0  # at the last checkpoint
        self._prune_due_ms = 0
        self.health = Health(ok=True)
        self.last_key = self.last_change = 0  # when the file was opened; see ``Store``
        self._connection: sqlite3.Connection
        self._store: BatchStore

    def start(self) -> None:
        self._thread.start()

    def put(self, items: list[Item]) -> None:
        """Queue items; the list is the writer's from now on."""
        self._queue.put(items)

    def stop(self) -> None:
        """Finish what is queued and close; what does not work is tried once more, not waited for."""
        self._stop_asked.set()
        self._queue.put(None)

    def join(self) -> None:
        self._thread.join()

    def condemn(self, error: BaseException) -> None:
        """End all writing: a reader found the file damaged."""
        if not self.health.fatal:
            self._set_health(Health(ok=False, reason=str(store_error(error, "reading")), fatal=True))

    @property
    def failures(self) -> int:
        """Attempts to write that failed in a row."""
        return self._backoff.failures

    # -- the thread

    def _run(self) -> None:
        try:
            self._open()
        except Exception as error:
            self._on_open(error)
            return
        self._on_open(None)
        while (items := self._take()) is not None:
            if items:
                self._on_batch(items, self._process(items))
            self._maintain(idle=not items)
        self._close()
        self._on_closed()

    def _open(self) -> None:
        options = self._options
        self._connection = connect_writer(
            options.path,
            synchronous=options.synchronous,
            cache_kib=options.cache_kib,
            busy_timeout_ms=options.busy_timeout_ms,
        )
        try:
            migrate(self._connection)
            counts = "SELECT (SELECT coalesce(max(key), 0) FROM messages), changes FROM state"
            self.last_key, self.last_change = self._connection.execute(counts).fetchone()
            self._store = BatchStore(self._connection, options.max_batch)
        except BaseException:
            self._connection.close()
            raise

    def _take(self) -> list[Item] | None:
        """Wait for items and return at most a batch of them; [] if there is time to spare, None at last."""
        queue, most = self._queue, self._options.max_batch
        batch, self._backlog = self._backlog, []
        wait = not batch and not self._stopping
        while len(batch) < most:
            try:
                more = queue.get(timeout=self._idle_s()) if wait else queue.get_nowait()
            except Empty:
                break
            wait = False
            if more is None:
                self._stopping = True
            elif batch:
                batch += more
            else:
                batch = more
        if len(batch) > most:
            batch, self._backlog = batch[:most], batch[most:]
        return None if self._stopping and not batch else batch

    def _idle_s(self) -> float:
        if not self.health.ok and not self.health.fatal:
            return max(0.0, self._backoff.due_s - time.monotonic())
        return SETTLE_INTERVAL_S if self._items_in_log else QUIET_INTERVAL_S

    def _process(self, items: list[Item]) -> int:
        """Commit the items, or give each its error; returns how long the commit took, ns. Never raises."""
        if not self.health.ok and not self.health.fatal and not self._may_try():
            self._fail(items, StoreError(self.health.reason, temporary=True))
            return 0
        began_ns = time.monotonic_ns()
        try:
            self._commit_or_isolate(items)
        except Exception as error:
            self._undo()
            self._fail(items, self._judge(error))
            return 0
        if not self.health.ok and not self.health.fatal:
            self._recovered()
        return time.monotonic_ns() - began_ns

    def _may_try(self) -> bool:
        """Wait until the next attempt is due, for as long as writes may be left without an answer.

        Who waited for nothing is refused, and who comes then is at once, until that attempt.
        """
        left_s = self._backoff.due_s - time.monotonic()
        if left_s > 0 and not self._refusing:
            self._stop_asked.wait(min(left_s, PATIENCE_S))
            left_s = self._backoff.due_s - time.monotonic()
        self._refusing = left_s > 0 and not self._stop_asked.is_set()
        return not self._refusing

    def _commit_or_isolate(self, items: list[Item]) -> None:
        if self.health.fatal:
            raise StoreError(self.health.reason, temporary=False)
        if self._log_bytes > self._hard_limit_bytes:
            self._shrink_log()
        if self._careful_left == 0:
            try:
                self._commit(items, self._store.store)
            except Exception as error:
                if not isinstance(error, DuplicateClientId) and classify(error) is not Fault.ROW:
                    raise
                self._undo()
                self._careful_left = CAREFUL_BATCHES
            else:
                return
        self._careful_left -= 1
        self._commit(items, self._store.store_carefully)

    def _commit(self, items: list[Item], store: Callable[[Sequence[Append | Mark]], None]) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        self._store.begin()
        for is_command, run in groupby(items, _is_command):
            if is_command:
                for command in run:
                    assert isinstance(command, Command)
                    self._run_command(command)
            else:
                store(list(run))  # type: ignore[arg-type]
        execute("COMMIT")
        self._items_in_log += len(items)
        self._frames += 6 + len(items) * self._frames_per_item

    def _run_command(self, command: Command) -> None:
        if command.run is None:
            return
        self._connection.execute("SAVEPOINT command")
        try:
            command.result = command.run(self._connection)
        except Exception as error:
            if classify(error) is not Fault.ROW:
                raise
            self._connection.execute("ROLLBACK TO command")
            command.error = error if isinstance(error, FastimError) else store_error(error, "writing")
        self._connection.execute("RELEASE command")

    def _undo(self) -> None:
        self._store.forget()
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                logger.error("rolling back failed: %s", error)

    # -- trouble

    def _judge(self, error: Exception) -> FastimError:
        """Turn what ended a batch into the error that its items get, and into health."""
        if isinstance(error, StoreError):
            refusal = error
        elif isinstance(error, sqlite3.Error | MemoryError) and classify(error) is not Fault.ROW:
            refusal = store_error(error, "writing")
        else:
            logger.error("a batch could not be stored", exc_info=error)
            return InternalError("a batch could not be stored")
        if not self.health.fatal:
            if refusal.temporary:
                self._set_busy_timeout(0)
                self._backoff.failed(time.monotonic())
            self._set_health(Health(ok=False, reason=str(refusal), fatal=not refusal.temporary))
        return refusal

    def _fail(self, items: list[Item], error: FastimError) -> None:
        for item in items:
            if isinstance(item, Command):
                if item.run is not None:
                    item.error = error
            else:
                reset(item)
                item.error = error

    def _recovered(self) -> None:
        self._backoff.worked()
        self._set_busy_timeout(self._options.busy_timeout_ms)
        self._set_health(Health(ok=True))

    def _set_health(self, health: Health) -> None:
        if health.ok:
            logger.warning("writing works again")
        elif health.fatal:
            logger.critical("no more writes: %s", health.reason)
        elif self.health.ok:
            logger.error("writing does not work for now: %s", health.reason)
        if not health.ok:
            health = health._replace(since=self.health.since or self._options.clock())
        self.health = health

    def _set_busy_timeout(self, milliseconds: int) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={milliseconds}")

    def _probe(self) -> None:
        """Find out whether writing works again."""
        try:
            if self._log_bytes > self._hard_limit_bytes:
                self._shrink_log()
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute("UPDATE state SET probe = zeroblob(?)", (PROBE_BYTES,))
            self._connection.execute("UPDATE state SET probe = NULL")
            self._connection.execute("COMMIT")
        except Exception as error:
            self._undo()
            self._judge(error)
        else:
            self._recovered()

    # -- the log and the client ids: what is done between batches

    @property
    def _hard_limit_bytes(self) -> int:
        return self._options.wal_limit_bytes * HARD_LIMIT_FACTOR

    def _maintain(self, *, idle: bool) -> None:
        if self.health.fatal:
            return
        if not self.health.ok:
            if idle and self._backoff.due_s <= time.monotonic():
                self._probe()
            return
        try:
            if self._frames * PAGE_BYTES >= self._options.checkpoint_bytes or (idle and self._items_in_log):
                self._checkpoint()
            self._prune(idle=idle)
        except Exception as error:
            self._undo()
            self._judge(error)

    def _checkpoint(self) -> None:
        """Copy the log into the file, so that the next batch begins the log anew.

        A reader that still needs the log keeps it from beginning anew. Past its bound the log is truncated,
        which waits for readers: writers then get slower, not the log longer.
        """
        _, frames, copied = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if self._items_in_log:
            self._frames_per_item = min(64.0, max(0.1, frames / self._items_in_log))
        self._log_bytes = frames * PAGE_BYTES
        if self._log_bytes > self._options.wal_limit_bytes:
            self._truncate_log()
        elif copied == frames:
            self._frames, self._items_in_log = 0.0, 0
        else:  # again after a quarter more
            self._frames = 0.75 * self._options.checkpoint_bytes / PAGE_BYTES

    def _truncate_log(self) -> None:
        busy, frames, _ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            self._frames, self._items_in_log, self._log_bytes = 0.0, 0, 0
        elif frames >= 0:
            self._log_bytes = frames * PAGE_BYTES

    def _shrink_log(self) -> None:
        self._truncate_log()
        if self._log_bytes > self._hard_limit_bytes:
            raise StoreError("the write-ahead log cannot shrink: a reader holds it open", temporary=True)

    def _prune(self, *, idle: bool) -> None:
        """Delete a few client ids past their life, at most once a second while there is other work."""
        now = self._options.clock()
        if now < self._prune_due_ms:
            return
        execute = self._connection.execute
        horizon = now - self._options.client_id_life_ms
        first, last, stop = execute(
            "SELECT pruned_message, max(key), min(key) FILTER (WHERE time >= ?) FROM state LEFT JOIN"
            " (SELECT key, time FROM messages WHERE key > (SELECT pruned_message FROM state)"
            " ORDER BY key LIMIT ?)",
            (horizon, PRUNE_MESSAGES + self._items_in_log),
        ).fetchone()
        if last is not None and stop is not None:
            last = stop - 1
        if last is None or last <= first:
            self._prune_due_ms = now + int(QUIET_INTERVAL_S * 1000)
            return
        execute("BEGIN IMMEDIATE")
        execute(
            "DELETE FROM client_ids WHERE message <= ?2 AND (client_id, sender, conversation) IN"
            " (SELECT client_id, sender, conversation FROM messages"
            " WHERE key > ?1 AND key <= ?2 AND client_id IS NOT NULL)",
            (first, last),
        )
        execute("UPDATE state SET pruned_message = ?", (last,))
        execute("COMMIT")
        self._prune_due_ms = now if idle else now + 1000

    def _close(self) -> None:
        try:
            if self.health.fatal:
                leave_log(self._connection)
            else:
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            logger.error("checkpointing at close failed, the log stays: %s", error)
        finally:
            self._connection.close()


def _is_command(item: Item) -> bool:
    return item.__class__ is Command


def leave_log(connection: sqlite3.Connection) -> None:
    """Keep closing from copying the log into a file that is damaged, where this Python can (3.12)."""
    setconfig = getattr(connection, "setconfig", None)
    if setconfig is not None:
        setconfig(NO_CHECKPOINT_ON_CLOSE, True)
