"""From a message's bytes to the handlers of its packets, and from what they return to the answers.

The packets of a connection are started in the order they came. A plain handler has returned before the next
packet is looked at; an async or threaded one has begun. So answers of plain handlers, and of built-ins that
wait for nothing, come in order; those of handlers that wait may come later.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, cast

from fastim._core.hub import Hub, Lane
from fastim.errors import ErrorCode, LimitExceeded, RequestError, StoreError, Unserved
from fastim.im.messaging import DEFERRED
from fastim.server.application.context import Context
from fastim.server.application.eager import step
from fastim.server.application.handlers import Args
from fastim.server.application.outgoing import UNSENDABLE
from fastim.server.application.runtime import Runtime
from fastim.server.application.tables import Call, Entry, Event, Mode, Tables
from fastim.server.application.unfinished import Unfinished
from fastim.server.connection import Connection, Phase, Work
from fastim.wire.bodies import decode_body
from fastim.wire.native import decode_message, decode_value, encode_error, encode_value

if TYPE_CHECKING:
    from fastim.server.application.app import FastIM

__all__ = ["Dispatcher", "Mode"]

log = logging.getLogger("fastim.dispatch")

RETRY_AFTER_MS: Final = 100
MAX_WAITING: Final = 1_024  # built-ins of a connection that wait for the store; a full batch of them fits

_UNFINISHED: Final = (Mode.ASYNC, Mode.THREAD)  # what may be going on while the next packets are served
# Compared with for every packet: plain ints.
_READY: Final = int(Phase.READY)


class Dispatcher:
    """Serves packets.

    Args:
        runtime: What contexts act on.
        application: Its handlers; None: there is none.
        spawn: Runs a coroutine in a task.
        max_unfinished: Handlers of one connection that may wait at a time; more packets for the application's
            async and threaded handlers are answered ``rate_limited`` or, of Socket.IO, read later.
        tables: How events are served; None: made of the application.
    """

    def __init__(
        self,
        runtime: Runtime,
        application: FastIM | None,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        max_unfinished: int = 64,
        tables: Tables | None = None,
    ) -> None:
        self.runtime = runtime
        self.hub: Hub = runtime.hub
        self.application = application
        self.watch: Callable[[Connection, ErrorCode], None] = lambda connection, code: None
        self.unfinished = Unfinished(runtime.loop)
        self.threaded_count = 0  # those in threads
        self.errors: dict[str, int] = {}
        self._spawn = spawn
        self._max_unfinished = max_unfinished
        self.tables = tables or Tables(application)
        self._table = self.tables.native.entries
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[Connection, int] = {}  # built-ins that wait, where there are any
        if application is not None:
            runtime.codes = {event: code for code, event in application.root.codes.items()}
        runtime.questions.on_wait = self._go_on_soon

    def is_busy(self, connection: Connection) -> bool:
        """Whether packets of a connection are being served and not finished."""
        work = connection.work
        return connection in self._waiting or (work is not None and work.in_flight > 0)

    def close(self) -> None:
        """Let the threads go; running handlers are not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    # -- packets

    def receive(self, connection: Connection, data: bytes, encoding: int) -> int:
        """Serve a WebSocket message, a packet or a batch; returns how many packets it held."""
        try:
            if encoding != connection.encoding:
                wanted = "binary" if encoding == 0 else "text"
                raise RequestError(
                    ErrorCode.BAD_PACKET, f"this connection's encoding is sent in {wanted} frames"
                )
            packets = decode_message(data, encoding)
        except RequestError as error:
            self.fail(connection, None, None, error)
            return 1
        if len(packets) > 1 and not self.hub.charge(connection.handle, len(packets) - 1):
            return 1
        for event, body, ref in packets:
            if body.__class__ is not bytes or connection.phase != _READY or connection.work is not None:
                self._receive_slowly(connection, event, body, ref)
                continue
            entry = self._table.get(event)
            if entry is None or entry[0]:
                self.serve(connection, entry or self.tables.native.find(event), event, body, ref)
                continue
            # The hot path: an application's plain handler.
            try:
                value = decode_value(body, encoding)
                result = entry[1](connection.context or self.context(connection), value)
                if ref is not None:
                    try:
                        connection.acknowledge(ref, result)
                    except UNSENDABLE as error:
                        self.unsendable(connection, event, ref, error)
            except RequestError as error:
                self.fail(connection, ref, event, error)
            except Exception:
                self.internal(connection, ref, event)
        return len(packets)

    def receive_packet(self, connection: Connection, event: str, body: Any, ref: int | None) -> None:
        """Serve a packet that was taken apart elsewhere, of a connection that is in.

        Args:
            connection: Of another protocol than the native one.
            event: The event's name.
            body: ``Args``; or one value, encoded as the connection's encoding says; or the RequestError that
                answers the packet.
            ref: By which it is answered; None: not at all.
        """
        if not Phase.STARTING <= connection.phase < Phase.LEAVING:
            return
        if isinstance(body, RequestError):
            self.fail(connection, ref, event, body)
        else:
            self._serve_in_turn(connection, event, body, ref)

    def receive_answer(self, connection: Connection, ref: int, args: Args) -> None:
        """Take what a client of another protocol than the native one answers to a question of ours."""
        self.runtime.answered(connection, args, ref, "ok")

    def _receive_slowly(self, connection: Connection, event: Event, body: Any, ref: int | None) -> None:
        """Look at what the connection is in before serving a packet."""
        phase = connection.phase
        if phase >= Phase.LEAVING:
            return
        if isinstance(body, RequestError):
            self.fail(connection, ref, event, body)
            return
        if event in ("ok", "error"):
            self.runtime.answered(connection, body, ref, event)
            return
        if phase in (Phase.OPENING, Phase.ENTERING) and event != "hello":
            self.fail(connection, ref, event, RequestError(ErrorCode.UNAUTHORIZED, "hello comes first"))
            return
        self._serve_in_turn(connection, event, body, ref)

    def _entry(self, connection: Connection, event: Event) -> Entry | None:
        table = self.tables.native if connection.native else self.tables.get(connection.namespace)
        return None if table is None else table.find(event)

    def _serve_in_turn(self, connection: Connection, event: Event, body: Any, ref: int | None) -> None:
        """Serve a packet, or let it wait for those before it."""
        phase = connection.phase
        entry = self._entry(connection, event)
        work = connection.work
        if work is not None and self._has_to_wait(connection, work, entry):
            is_long = len(work.backlog) >= self._longest_backlog(connection, work)
            if is_long and connection.native and phase == Phase.STARTING:
                self._too_many(connection, event, ref)
                return
            work.backlog.append((event, body, ref))
            if is_long and not (connection.native or work.paused):
                self.unfinished.hold(connection, work)
                self.hub.pause(connection.handle)
            return
        self.serve(connection, entry, event, body, ref)

    def _longest_backlog(self, connection: Connection, work: Work) -> int:
        """How many packets may wait before a connection is read no further.

        One whose on_connect handlers ask the client is: what it answers comes behind all that it had kept to
        send once it is in.
        """
        asks = connection.phase == Phase.STARTING and work.asks and not connection.native
        return max(MAX_WAITING, self._max_unfinished) if asks else self._max_unfinished

    def _has_to_wait(self, connection: Connection, work: Work, entry: Entry | None) -> bool:
        """Whether a packet that has just come cannot be started yet."""
        if connection.phase == Phase.STARTING or work.backlog:
            return True
        return self._is_held_up(connection, work, entry)

    def _is_held_up(self, connection: Connection, work: Work, entry: Entry | None) -> bool:
        """Whether the next packet cannot be started yet, for what was started before.

        Plain handlers wait for tasks to begin. Where too many handlers are unfinished, a native client is
        told so; one of another protocol, which knows no such error, is read no further instead.
        """
        if entry is None:
            return False
        mode = entry[0]
        if work.unstarted and mode != Mode.ASYNC:
            return True
        return mode in _UNFINISHED and not connection.native and self._is_full(work)

    def _is_full(self, work: Work) -> bool:
        return work.in_flight - len(work.asks) >= self._max_unfinished

    def serve(
        self,
        connection: Connection,
        entry: Entry | None,
        event: Event,
        body: Any,
        ref: int | None,
    ) -> None:
        """Start the handler of a packet; answers, and never raises."""
        try:
            if entry is None:
                raise RequestError(ErrorCode.UNKNOWN_EVENT, f"{event!r} is no event of this server")
            mode, call, kind = entry
            if mode == Mode.BUILTIN:
                if connection.user is None and event != "ping":
                    raise RequestError(ErrorCode.UNAUTHORIZED, f"{event!r} is not for anonymous connections")
                body = decode_body(_encoded(body, connection.encoding), kind, connection.encoding)
                self._serve_builtin(connection, call, event, body, ref)
            elif mode == Mode.SERVICE:
                call(connection, _encoded(body, connection.encoding), ref)
            elif mode == Mode.REFUSE:
                raise RequestError(ErrorCode.UNAVAILABLE, "the server is shutting down")
            else:
                if body.__class__ is Args:
                    call = kind.with_args
                else:
                    body = decode_value(body, connection.encoding)
                self._serve_application(connection, mode, call, event, body, ref)
        except RequestError as error:
            self.fail(connection, ref, event, error)
        except StoreError:
            self.fail(connection, ref, event, _store_unavailable())
        except Exception:
            self.internal(connection, ref, event)

    def _serve_builtin(
        self, connection: Connection, call: Call, event: Event, body: Any, ref: int | None
    ) -> None:
        result = call(connection, body, ref)
        if result is DEFERRED:
            return
        if isawaitable(result):
            waiting = self._waiting.get(connection, 0)
            if waiting >= MAX_WAITING:
                cast(Coroutine[Any, Any, Any], result).close()
                raise LimitExceeded("too many requests are unfinished", RETRY_AFTER_MS)
            self._waiting[connection] = waiting + 1
            step(self._finish_builtin(connection, event, ref, result), self._spawn)
        else:
            connection.answer(ref, result)

    async def _finish_builtin(
        self, connection: Connection, event: Event, ref: int | None, result: Awaitable[Any]
    ) -> None:
        try:
            body = await result
            if body is not DEFERRED:
                connection.answer(ref, body)
        except RequestError as error:
            self.fail(connection, ref, event, error)
        except StoreError:
            self.fail(connection, ref, event, _store_unavailable())
        except Exception:
            self.internal(connection, ref, event)
        finally:
            waiting = self._waiting[connection] - 1
            if waiting:
                self._waiting[connection] = waiting
            else:
                del self._waiting[connection]

    # -- an application's handlers

    def context(self, connection: Connection) -> Context:
        """Return the connection's context, made on the first call."""
        if connection.context is None:
            connection.context = Context(self.runtime, connection)
        return connection.context

    def _serve_application(
        self, connection: Connection, mode: int, call: Call, event: Event, value: Any, ref: int | None
    ) -> None:
        context = self.context(connection)
        if mode == Mode.PLAIN:
            result = call(context, value)
            if ref is not None:
                self.answer(connection, event, ref, result)
            return
        work = connection.work
        if work is None:
            work = connection.work = Work()
        if self._is_full(work):
            self._too_many(connection, event, ref)
            return
        work.in_flight += 1
        self.unfinished.begin(work, event)
        if mode == Mode.ASYNC:
            work.unstarted += 1
            self._spawn(self._run_async(connection, work, call, event, value, ref))
        else:
            self._run_in_thread(connection, work, call, event, value, ref)

    async def _run_async(
        self, connection: Connection, work: Work, call: Call, event: Event, value: Any, ref: int | None
    ) -> None:
        # A whole task and not a first step without one: what handlers use (timeouts, task groups, clients of
        # other services) asks for the current task.
        context = self.context(connection)
        work.unstarted -= 1
        if not work.unstarted and work.backlog:
            self._go_on_soon(connection)
        try:
            result = await call(context, value)
        except RequestError as error:
            self.fail(connection, ref, event, error)
        except Exception:
            self.internal(connection, ref, event)
        else:
            if ref is not None:
                self.answer(connection, event, ref, result)
        finally:
            self._finished(connection, work, event)

    def _run_in_thread(
        self, connection: Connection, work: Work, call: Call, event: Event, value: Any, ref: int | None
    ) -> None:
        if self._pool is None:
            threads = self.application.threads if self.application is not None else 1
            self._pool = ThreadPoolExecutor(threads, "fastim-handler")
        self.threaded_count += 1
        future = self.runtime.loop.run_in_executor(self._pool, call, self.context(connection), value)

        def finish(done: Any) -> None:
            self.threaded_count -= 1
            self._finished(connection, work, event)
            if done.cancelled():
                return
            error = done.exception()
            if error is None:
                if ref is not None:
                    self.answer(connection, event, ref, done.result())
            elif isinstance(error, RequestError):
                self.fail(connection, ref, event, error)
            else:
                self.internal(connection, ref, event, error)

        future.add_done_callback(finish)

    def _finished(self, connection: Connection, work: Work, event: Event) -> None:
        self.unfinished.end(work, event)
        work.in_flight -= 1
        if work.backlog and not work.unstarted:
            self._go_on_soon(connection)
        elif connection.work is work and work.idle:
            connection.work = None

    def _go_on_soon(self, connection: Connection) -> None:
        """Serve what waits in the loop's next turn: a handler is done, or waits for the client."""
        self.runtime.loop.call_soon(self.serve_backlog, connection)

    def serve_backlog(self, connection: Connection) -> None:
        """Go on with the packets that waited, as far as they may start now."""
        work = connection.work
        if work is None:
            return
        backlog = work.backlog
        if connection.phase != Phase.READY:
            if work.paused and len(backlog) < self._longest_backlog(connection, work):
                self._read_again(connection, work)
            return
        while backlog and connection.phase == Phase.READY:
            entry = self._entry(connection, backlog[0][0])
            if self._is_held_up(connection, work, entry):
                return
            self.serve(connection, entry, *backlog.popleft())
        if work.paused and not backlog:
            self._read_again(connection, work)
        if connection.work is work and work.idle:
            connection.work = None

    def _read_again(self, connection: Connection, work: Work) -> None:
        self.unfinished.release(work)
        self.hub.resume(connection.handle)

    # -- answers

    def answer(self, connection: Connection, event: Event, ref: int, result: Any) -> None:
        """Answer what an application's handler returned."""
        try:
            connection.acknowledge(ref, result)
        except UNSENDABLE as error:
            self.unsendable(connection, event, ref, error)
        except Exception:
            self.internal(connection, ref, event)

    def unsendable(self, connection: Connection, event: Event, ref: int, error: Exception) -> None:
        """Answer ``internal`` for a result that cannot be encoded: a traceback would show our frames."""
        number = _new_id()
        log.error(
            "error %s: the handler of %r in %r returned what cannot be sent: %s",
            number,
            event,
            connection.namespace,
            error,
        )
        self.fail(connection, ref, event, Unserved(number))

    def fail(self, connection: Connection, ref: int | None, event: Event, error: RequestError) -> None:
        """Queue an ``error`` and count it; without ref and event it is a whole message's."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        self.hub.send(connection.handle, encode_error(error, connection.encoding, ref, event), Lane.HIGH)
        self.watch(connection, error.code)

    def _too_many(self, connection: Connection, event: Event, ref: int | None) -> None:
        self.fail(connection, ref, event, LimitExceeded("too many requests are unfinished", RETRY_AFTER_MS))

    def internal(
        self, connection: Connection, ref: int | None, event: Event, error: BaseException | None = None
    ) -> None:
        """Log what a handler raised under a new id, and answer ``internal`` with that id."""
        self.fail(connection, ref, event, self.note(event, error))

    @staticmethod
    def note(event: Event, error: BaseException | None = None) -> Unserved:
        """Log a mistake under a new id; returns what tells the client.

        Args:
            event: What was being served.
            error: The mistake; None: the one that is being handled.
        """
        number = _new_id()
        log.error("error %s while serving %r", number, event, exc_info=error or True)
        return Unserved(number)


def _new_id() -> str:
    """Return an id under which a mistake stands in the log."""
    return uuid.uuid4().hex[:16]


def _encoded(body: Any, encoding: int) -> bytes:
    """Return the one value of a packet encoded, for those who read it so."""
    if body.__class__ is not Args:
        return cast(bytes, body)
    if len(body) > 1:
        raise RequestError(ErrorCode.BAD_REQUEST, f"arguments: one map is wanted, not {len(body)} values")
    try:
        return encode_value(body[0] if body else {}, encoding)
    except ValueError as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"body: {error}") from None


def _store_unavailable() -> RequestError:
    return RequestError(ErrorCode.UNAVAILABLE, "the store does not answer; send it again")
