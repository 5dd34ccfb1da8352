"""What an application is told of the life of connections, of sessions and of the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastim.errors import CloseCode, ConnectionRefused, RequestError
from fastim.server.application.handlers import HandlerMode
from fastim.server.connection import Connection, Phase, Work
from fastim.server.entrance.decisions import refusal_of

if TYPE_CHECKING:
    from fastim.im.sessions import EndedSession
    from fastim.server.application.app import FastIM
    from fastim.server.application.dispatch import Dispatcher
    from fastim.server.application.handlers import Handler

__all__ = ["Lifecycle"]

log = logging.getLogger("fastim.dispatch")

FAILED: Final = "an %s handler failed"


class Lifecycle:
    """Calls the handlers of what happens beside packets: who comes and goes, what ends, and the start.

    Args:
        dispatcher: Serves the packets; those of a connection wait while its ``on_connect`` handlers do.
        application: The handlers; None: there are none.
        spawn: Runs a coroutine in a task.

    Attributes:
        admitted: Told of each connection that the application lets in.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        application: FastIM | None,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
    ) -> None:
        self.admitted: Callable[[Connection], None] | None = None
        self._dispatcher = dispatcher
        self._runtime = dispatcher.runtime
        self._tables = dispatcher.tables
        self._application = application
        self._spawn = spawn
        self._unmet: set[Connection] = set()  # who is in, and none of whose on_connect handlers has begun

    def connected(self, connection: Connection) -> None:
        """Run the application's on_connect handlers; packets wait for async ones.

        One that puts it out is the last. A connection that none of them refused, and none failed for, is told
        to ``admitted``.
        """
        self._runtime.entered(connection)
        handlers = self._tables.namespace_of(connection.namespace).connect_handlers
        for index, handler in enumerate(handlers):
            if connection.phase != Phase.READY:
                break
            if handler.mode == HandlerMode.ASYNC:
                connection.phase = Phase.STARTING
                connection.work = connection.work or Work()
                if index == 0:
                    self._unmet.add(connection)
                self._spawn(self._connect_async(connection, handlers[index:]))
                return
            try:
                if handler.call(self._dispatcher.context(connection)) is False:
                    raise ConnectionRefused
            except Exception as error:
                self._keep_out(connection, handler, error)
                return
        self._admit(connection)

    def _admit(self, connection: Connection) -> None:
        context = connection.context
        if context is not None:
            context.arrival = None
            connection.context = None  # most connections are idle: one is made again for those that are not
        if self.admitted is not None and connection.phase == Phase.READY:
            self.admitted(connection)

    async def _connect_async(self, connection: Connection, handlers: Sequence[Handler]) -> None:
        if connection.phase != Phase.STARTING:
            return  # it has gone before this task began
        self._unmet.discard(connection)
        # The same for all, though the connection may end meanwhile.
        context = self._dispatcher.context(connection)
        handler = handlers[0]
        watch = self._dispatcher.unfinished.watch_start(connection, lambda: handler.name)
        try:
            for handler in handlers:
                if connection.phase != Phase.STARTING:
                    return
                result = handler.call(context)
                if handler.mode == HandlerMode.ASYNC:
                    result = await result
                if result is False:
                    raise ConnectionRefused
        except Exception as error:
            self._keep_out(connection, handler, error)
            return
        finally:
            watch.cancel()
        if connection.phase == Phase.STARTING:
            connection.phase = Phase.READY
            self._admit(connection)
            self._dispatcher.serve_backlog(connection)

    def _keep_out(self, connection: Connection, handler: Handler, error: Exception) -> None:
        """Close a connection whose on_connect handler refused it, or failed and may have meant to."""
        error = refusal_of(error)
        if not isinstance(error, RequestError):
            log.error(
                "the on_connect handler %s failed in %r for user %r, sid %s: the connection is closed",
                handler.name,
                connection.namespace,
                connection.user_id,
                connection.sid,
                exc_info=error,
            )
            connection.close(CloseCode.INTERNAL_ERROR, "internal error", self._runtime.clock_ns())
        elif connection.phase != Phase.CLOSED:
            connection.send_off(CloseCode.UNAUTHORIZED, error.message, self._runtime.clock_ns())

    def disconnected(self, connection: Connection, entered: bool, reason: str = "") -> None:
        """Tell the application that a connection is gone, and let go of what it held.

        It is not told of one that it has not been told of before: its first on_connect handler has not begun.

        Args:
            entered: Whether it was in.
            reason: See ``on_disconnect``.
        """
        if connection in self._unmet:
            self._unmet.remove(connection)
            entered = False
        handlers = self._tables.namespace_of(connection.namespace).disconnect_handlers if entered else []
        if handlers:
            self._dispatcher.context(connection).hold_session()
        self._runtime.left(connection)
        work, connection.work = connection.work, None
        self._dispatcher.unfinished.gone(connection, work)
        if work is not None:
            work.backlog.clear()
            for future in work.asks.values():
                if not future.done():
                    future.set_exception(ConnectionError("the connection is gone"))
        # The two refer to each other: together they would wait for the collector, which rarely comes.
        context, connection.context = connection.context, None
        for handler in handlers:
            self._tell("on_disconnect", handler, context, *((reason,) if handler.most else ()))

    def session_ended(self, ended: EndedSession) -> None:
        """Tell the application of a session that cannot come back any more."""
        self._runtime.data.pop(ended.session, None)
        for handler in self._application.session_end_handlers if self._application is not None else ():
            self._tell("on_session_end", handler, ended)

    def started(self) -> None:
        """Tell the application that the server listens."""
        for handler in self._application.start_handlers if self._application is not None else ():
            self._tell("on_start", handler)

    def _tell(self, decorator: str, handler: Handler, *arguments: Any) -> None:
        """Call a handler that nobody waits for; what it raises is logged."""
        try:
            result = handler.call(*arguments)
            if handler.mode == HandlerMode.ASYNC:
                self._spawn(_watched(result, decorator))
        except Exception:
            log.exception(FAILED, decorator)


async def _watched(coroutine: Any, decorator: str) -> None:
    try:
        await coroutine
    except Exception:
        log.exception(FAILED, decorator)
