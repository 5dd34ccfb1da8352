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
from enum import IntEnum
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, cast

from fastim._core.hub import Hub, Lane
from fastim.errors import CloseCode, ErrorCode, LimitExceeded, RequestError, StoreError
from fastim.im.messaging import DEFERRED
from fastim.server.app import Context, FastIM, Handler, HandlerMode
from fastim.server.connection import Connection, Phase, Work
from fastim.server.eager import step
from fastim.server.runtime import Runtime
from fastim.wire.bodies import decode_body
from fastim.wire.native import decode_message, decode_value, encode_error, encode_packet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastim.im.messaging import Builtin
    from fastim.server.throttle import PacketThrottle

__all__ = ["Dispatcher", "Mode"]

log = logging.getLogger("fastim.dispatch")

RETRY_AFTER_MS: Final = 100
MAX_WAITING: Final = 1_024  # built-ins of a connection that wait for the store; a full batch of them fits
Call = Callable[..., Any]
Event = str | int | None  # an int is a code without a name; None: it could not be read


class Mode(IntEnum):
    """How an event is served."""

    PLAIN = 0  # an application's plain handler
    BUILTIN = 1
    ASYNC = 2
    THREAD = 3
    SERVICE = 4  # (connection, encoded body, ref); hello, refresh and the answers to our questions
    REFUSE = 5  # the server is ending


_APPLICATION_MODES: Final = {
    HandlerMode.PLAIN: Mode.PLAIN,
    HandlerMode.ASYNC: Mode.ASYNC,
    HandlerMode.THREAD: Mode.THREAD,
}
# Compared with for every packet: plain ints.
_READY: Final = int(Phase.READY)
_WHILE_DRAINING: Final = frozenset({"ok", "error", "ack", "read_receipt", "ping"})


class Dispatcher:
    """Serves packets.

    Args:
        runtime: What contexts act on.
        application: Its handlers; None: there is none.
        spawn: Runs a coroutine in a task.
        max_unfinished: Handlers of one connection that may wait at a time; more packets for the application's
            async and threaded handlers are answered ``rate_limited``.
    """

    def __init__(
        self,
        runtime: Runtime,
        application: FastIM | None,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        max_unfinished: int = 64,
    ) -> None:
        self.runtime = runtime
        self.hub: Hub = runtime.hub
        self.application = application
        self.throttle: PacketThrottle | None = None
        self.unfinished_count = 0  # async and threaded handlers that have begun
        self.threaded_count = 0  # those in threads
        self.errors: dict[str, int] = {}
        self._spawn = spawn
        self._max_unfinished = max_unfinished
        self._table: dict[str | int | None, tuple[int, Call, Any]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: dict[Connection, int] = {}  # built-ins that wait, where there are any
        if application is not None:
            for event, handler in application.handlers.items():
                self._table[event] = (_APPLICATION_MODES[handler.mode], handler.call, None)
            for code, event in application.codes.items():
                if event in self._table:
                    self._table[code] = self._table[event]
            runtime.codes = {event: code for code, event in application.codes.items()}

    def add_builtins(self, builtins: Mapping[str, Builtin]) -> None:
        """Serve the domain's events."""
        for event, builtin in builtins.items():
            self._table[event] = (Mode.BUILTIN, builtin.handler, builtin.body)

    def add_service(self, event: str, call: Call) -> None:
        """Serve an event by ``call(connection, body, ref)``, the body still encoded."""
        self._table[event] = (Mode.SERVICE, call, None)

    def refuse_work(self) -> None:
        """Answer ``unavailable`` from now on, but for what asks for no work: the server is ending."""
        for event, entry in self._table.items():
            if event not in _WHILE_DRAINING:
                self._table[event] = (Mode.REFUSE, *entry[1:])

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
            self._unreadable(connection, error)
            return 1
        if self.throttle is not None:
            self.throttle.count(connection, len(packets))
        for event, body, ref in packets:
            if body.__class__ is not bytes or connection.phase != _READY or connection.work is not None:
                self._receive_slowly(connection, event, body, ref)
                continue
            entry = self._table.get(event)
            if entry is None or entry[0]:
                self.serve(connection, entry, event, body, ref)
                continue
            # The hot path: an application's plain handler.
            try:
                value = decode_value(body, encoding)
                result = entry[1](connection.context or self.context(connection), value)
            except RequestError as error:
                self.fail(connection, ref, event, error)
            except Exception:
                self.internal(connection, ref, event)
            else:
                if ref is not None:
                    self.answer(connection, event, ref, result)
        return len(packets)

    def _receive_slowly(self, connection: Connection, event: Event, body: Any, ref: int | None) -> None:
        """Look at what the connection is in before serving a packet."""
        if isinstance(body, RequestError):
            self.fail(connection, ref, event, body)
            return
        if event in ("ok", "error"):
            self.runtime.answered(connection, body, ref, event)
            return
        phase = connection.phase
        if phase in (Phase.OPENING, Phase.ENTERING) and event != "hello":
            self.fail(connection, ref, event, RequestError(ErrorCode.UNAUTHORIZED, "hello comes first"))
            return
        entry = self._table.get(event)
        work = connection.work
        if phase == Phase.CLOSED:
            return
        if work is not None and (work.backlog or work.unstarted or phase == Phase.STARTING):
            waits_for_start = phase == Phase.STARTING or work.backlog or (entry and entry[0] != Mode.ASYNC)
            if waits_for_start:
                if phase == Phase.STARTING and len(work.backlog) >= self._max_unfinished:
                    self._too_many(connection, event, ref)
                else:
                    work.backlog.append((event, body, ref))
                return
        self.serve(connection, entry, event, body, ref)

    def serve(
        self,
        connection: Connection,
        entry: tuple[int, Call, Any] | None,
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
                self._serve_builtin(
                    connection, call, event, decode_body(body, kind, connection.encoding), ref
                )
            elif mode == Mode.SERVICE:
                call(connection, body, ref)
            elif mode == Mode.REFUSE:
                raise RequestError(ErrorCode.UNAVAILABLE, "the server is shutting down")
            else:
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
        self, connection: Connection, mode: int, call: Call, event: Event, body: Any, ref: int | None
    ) -> None:
        value = decode_value(body, connection.encoding)
        context = self.context(connection)
        if mode == Mode.PLAIN:
            result = call(context, value)
            if ref is not None:
                self.answer(connection, event, ref, result)
            return
        work = connection.work
        if work is None:
            work = connection.work = Work()
        if work.in_flight - len(work.asks) >= self._max_unfinished:
            self._too_many(connection, event, ref)
            return
        work.in_flight += 1
        self.unfinished_count += 1
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
        coroutine = call(self.context(connection), value)
        work.unstarted -= 1
        if not work.unstarted and work.backlog:
            self.runtime.loop.call_soon(self._serve_backlog, connection)
        try:
            result = await coroutine
        except RequestError as error:
            self.fail(connection, ref, event, error)
        except Exception:
            self.internal(connection, ref, event)
        else:
            if ref is not None:
                self.answer(connection, event, ref, result)
        finally:
            self._finished(connection, work)

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
            self._finished(connection, work)
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

    def _finished(self, connection: Connection, work: Work) -> None:
        self.unfinished_count -= 1
        work.in_flight -= 1
        if connection.work is work and work.idle:
            connection.work = None

    def _serve_backlog(self, connection: Connection) -> None:
        """Go on with the packets that waited, as far as they may start now."""
        work = connection.work
        if work is None or connection.phase != Phase.READY:
            return
        backlog = work.backlog
        while backlog and connection.phase == Phase.READY:
            entry = self._table.get(backlog[0][0])
            if work.unstarted and entry is not None and entry[0] != Mode.ASYNC:
                return
            self.serve(connection, entry, *backlog.popleft())
        if connection.work is work and work.idle:
            connection.work = None

    # -- connections of the application

    def connected(self, connection: Connection) -> None:
        """Run the application's on_connect handlers; packets wait for async ones."""
        handlers = self.application.connect_handlers if self.application is not None else []
        for index, handler in enumerate(handlers):
            if handler.mode == HandlerMode.ASYNC:
                connection.phase = Phase.STARTING
                connection.work = connection.work or Work()
                self._spawn(self._connect_async(connection, handlers[index:]))
                return
            try:
                handler.call(self.context(connection))
            except RequestError as error:
                self._refuse_connection(connection, error)
                return
            except Exception:
                log.exception("an on_connect handler failed")

    async def _connect_async(self, connection: Connection, handlers: list[Handler]) -> None:
        context = self.context(connection)  # the same for all, though the connection may end meanwhile
        for handler in handlers:
            try:
                result = handler.call(context)
                if handler.mode == HandlerMode.ASYNC:
                    await result
            except RequestError as error:
                self._refuse_connection(connection, error)
                return
            except Exception:
                log.exception("an on_connect handler failed")
        if connection.phase == Phase.STARTING:
            connection.phase = Phase.READY
            self._serve_backlog(connection)

    def _refuse_connection(self, connection: Connection, error: RequestError) -> None:
        if connection.phase != Phase.CLOSED:
            connection.send_event("forced_disconnect", {"reason": error.message}, Lane.HIGH)
            self.runtime.close(connection, CloseCode.UNAUTHORIZED, error.message[:100])

    def disconnected(self, connection: Connection, entered: bool) -> None:
        """Tell the application that a connection is gone, and let go of what it held."""
        self.runtime.leave_all(connection)
        work, connection.work = connection.work, None
        if work is not None:
            work.backlog.clear()
            for future in work.asks.values():
                if not future.done():
                    future.set_exception(ConnectionError("the connection is gone"))
        # The two refer to each other: together they would wait for the collector, which rarely comes.
        context, connection.context = connection.context, None
        if not entered or self.application is None or not self.application.disconnect_handlers:
            return
        context = context or Context(self.runtime, connection)
        for handler in self.application.disconnect_handlers:
            try:
                result = handler.call(context)
                if handler.mode == HandlerMode.ASYNC:
                    self._spawn(result)
            except Exception:
                log.exception("an on_disconnect handler failed")

    # -- answers

    def answer(self, connection: Connection, event: Event, ref: int, result: Any) -> None:
        """Queue the ``ok`` of an application's handler."""
        try:
            packet = encode_packet("ok", result, connection.encoding, ref)
        except Exception:
            self.internal(connection, ref, event)
        else:
            self.hub.send(connection.handle, packet, 1)

    def fail(self, connection: Connection, ref: int | None, event: Event, error: RequestError) -> None:
        """Queue an ``error`` and count it."""
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        self.hub.send(connection.handle, encode_error(error, connection.encoding, ref, event), Lane.HIGH)

    def _too_many(self, connection: Connection, event: Event, ref: int | None) -> None:
        self.fail(connection, ref, event, LimitExceeded("too many requests are unfinished", RETRY_AFTER_MS))

    def _unreadable(self, connection: Connection, error: RequestError) -> None:
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        self.hub.send(connection.handle, encode_error(error, connection.encoding), Lane.HIGH)

    def internal(
        self, connection: Connection, ref: int | None, event: Event, error: BaseException | None = None
    ) -> None:
        """Log what a handler raised under a new id, and answer ``internal`` with that id."""
        number = uuid.uuid4().hex[:16]
        log.error("error %s while serving %r", number, event, exc_info=error or True)
        self.errors[ErrorCode.INTERNAL] = self.errors.get(ErrorCode.INTERNAL, 0) + 1
        body: dict[str, Any] = {"code": "internal", "message": f"internal error {number}", "id": number}
        if ref is None:
            body["event"] = event
        self.hub.send(connection.handle, encode_packet("error", body, connection.encoding, ref), Lane.HIGH)


def _store_unavailable() -> RequestError:
    return RequestError(ErrorCode.UNAVAILABLE, "the store does not answer; send it again")
