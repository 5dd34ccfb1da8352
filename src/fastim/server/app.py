"""What an application is written with: ``FastIM``, its decorators, and the context its handlers get."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fastim.wire.events import FIRST_APPLICATION_CODE, MAX_EVENT_BYTES, is_reserved

if TYPE_CHECKING:
    from fastim.server.connection import Connection
    from fastim.server.runtime import Runtime

__all__ = ["Context", "FastIM", "Handler", "HandlerMode"]

DEFAULT_ASK_TIMEOUT_S: Final = 10.0

F = TypeVar("F", bound=Callable[..., Any])


class HandlerMode(Enum):
    """Where a handler runs."""

    PLAIN = "plain"  # on the loop, at once
    ASYNC = "async"  # on the loop, in a task
    THREAD = "thread"  # in the application's thread pool


class Handler:
    """A registered handler."""

    __slots__ = ("call", "event", "mode")

    def __init__(self, event: str, call: Callable[..., Any], mode: HandlerMode) -> None:
        self.event = event
        self.call = call
        self.mode = mode


def _check_event(event: str, codes: dict[int, str], code: int | None) -> None:
    if not isinstance(event, str) or not event:
        raise ValueError("an event's name is a string of at least one character")
    if len(event.encode()) > MAX_EVENT_BYTES:
        raise ValueError(f"the event name {event[:20]!r}… is longer than {MAX_EVENT_BYTES} bytes")
    if is_reserved(event):
        raise ValueError(f"the event name {event!r} is reserved for fastim")
    if code is None:
        return
    if code < FIRST_APPLICATION_CODE:
        raise ValueError(f"an application's event codes begin at {FIRST_APPLICATION_CODE}, not {code}")
    if codes.setdefault(code, event) != event:
        raise ValueError(f"the event code {code} is taken by {codes[code]!r}")


def _make_handler(event: str, call: Callable[..., Any], thread: bool, arguments: int) -> Handler:
    if not callable(call):
        raise TypeError(f"a handler is a function, not {type(call).__name__}")
    try:
        inspect.signature(call).bind(*range(arguments))
    except TypeError:
        wanted = "(ctx, body)" if arguments == 2 else "(ctx)"
        raise TypeError(f"the handler of {event!r} must take {wanted}") from None
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
        if thread:
            raise ValueError(f"the handler of {event!r} is async; thread=True is for plain functions")
        return Handler(event, call, HandlerMode.ASYNC)
    return Handler(event, call, HandlerMode.THREAD if thread else HandlerMode.PLAIN)


class FastIM:
    """An application: handlers for its own events.

    Handlers take ``(ctx, body)``; what they return answers the packet if it asked for an answer (None is
    ``null``), a ``RequestError`` answers with its code, any other exception with ``internal`` and an id that
    stands in the log beside the traceback. Packets of a connection are started in the order they came; async
    and threaded handlers of one connection may overlap, so their answers may come in another order.

    Args:
        threads: Size of the pool for ``thread=True`` handlers; default 8.
    """

    def __init__(self, *, threads: int = 8) -> None:
        if threads < 1:
            raise ValueError("threads must be at least 1")
        self.threads = threads
        self.handlers: dict[str, Handler] = {}
        self.codes: dict[int, str] = {}
        self.connect_handlers: list[Handler] = []
        self.disconnect_handlers: list[Handler] = []
        self._runtime: Runtime | None = None

    def on(self, event: str, *, thread: bool = False, code: int | None = None) -> Callable[[F], F]:
        """Register the handler of an event.

        Args:
            event: The event's name; not one of fastim's own.
            thread: Run a blocking function in the thread pool; default: on the loop.
            code: The event's integer in msgpack, from 256; None: it has none.

        Raises:
            ValueError: The name or code is reserved or taken, or an async handler wants a thread.
            TypeError: The handler does not take (ctx, body).
        """
        _check_event(event, self.codes, code)
        if event in self.handlers:
            raise ValueError(f"the event {event!r} has a handler already")

        def register(call: F) -> F:
            self.handlers[event] = _make_handler(event, call, thread, 2)
            return call

        return register

    def on_connect(self, call: F) -> F:
        """Register a handler, called with ``(ctx)`` after a connection's hello was answered.

        A ``RequestError`` it raises ends the connection with 4001. Packets wait until async ones are done.
        """
        self.connect_handlers.append(_make_handler("connect", call, False, 1))
        return call

    def on_disconnect(self, call: F) -> F:
        """Register a handler, called with ``(ctx)`` once a connection that had said hello is gone."""
        self.disconnect_handlers.append(_make_handler("disconnect", call, False, 1))
        return call

    def bind(self, runtime: Runtime | None) -> None:
        """Tell the application who runs it; None when it ends."""
        self._runtime = runtime

    def broadcast(self, topic: str, event: str, body: Any = None) -> None:
        """Send an event to each connection that joined the topic.

        **Thread**: any; from another than the loop's it is queued.

        Raises:
            RuntimeError: The application is not being served.
        """
        runtime = self._runtime
        if runtime is None:
            raise RuntimeError("the application is not being served")
        runtime.on_loop(runtime.broadcast, topic, event, body, None)


class Context:
    """A connection, as an application's handlers see it.

    **Thread**: the methods may be called from any thread; from another than the loop's they are queued there.
    **Lifetime**: valid for as long as one likes; once the connection is gone its methods do nothing.
    """

    __slots__ = ("_connection", "_runtime", "_state")

    def __init__(self, runtime: Runtime, connection: Connection) -> None:
        self._runtime = runtime
        self._connection = connection
        self._state: dict[str, Any] | None = None

    @property
    def user(self) -> str:
        """The user's id; empty for an anonymous one."""
        return self._connection.user_id

    @property
    def device(self) -> str:
        """The device's id."""
        return self._connection.device

    @property
    def session(self) -> str:
        """The id by which the client may resume."""
        return self._connection.session_id

    @property
    def connection(self) -> int:
        """A number that no other connection of this process has or will have."""
        return self._connection.handle

    @property
    def tier(self) -> str:
        """The tier that the token grants."""
        return self._connection.tier

    @property
    def scope(self) -> frozenset[str]:
        """The names that the token's ``scope`` lists."""
        return frozenset(self._connection.scope)

    @property
    def state(self) -> dict[str, Any]:
        """A place for the application's own values, one for each connection."""
        if self._state is None:
            self._state = {}
        return self._state

    def emit(self, event: str, body: Any = None) -> None:
        """Send an event to this connection."""
        self._runtime.on_loop(self._runtime.emit, self._connection, event, body)

    def join(self, topic: str) -> None:
        """Let this connection get what is broadcast to the topic; joining twice is joining once."""
        self._runtime.on_loop(self._runtime.join, self._connection, topic)

    def leave(self, topic: str) -> None:
        """Take a join back."""
        self._runtime.on_loop(self._runtime.leave, self._connection, topic)

    def broadcast(self, topic: str, event: str, body: Any = None, include_self: bool = True) -> None:
        """Send an event to each connection that joined the topic.

        Args:
            topic: Its name; one that nobody joined reaches nobody.
            event: The event's name.
            body: Any value the protocol can carry.
            include_self: Whether this connection gets it too, if it joined.
        """
        exclude = None if include_self else self._connection
        self._runtime.on_loop(self._runtime.broadcast, topic, event, body, exclude)

    async def ask(self, event: str, body: Any = None, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Send a request to the client and return its answer.

        **Thread**: the loop's; elsewhere use ``ask_blocking``.

        Raises:
            TimeoutError: No answer in time.
            RequestError: The client answered with an error.
            ConnectionError: The connection is gone.
        """
        return await self._runtime.ask(self._connection, event, body, timeout_s)

    def ask_blocking(self, event: str, body: Any = None, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Do what ``ask`` does for a handler that runs in a thread.

        Raises:
            RuntimeError: Called on the loop's thread, which it would block.
        """
        return self._runtime.ask_blocking(self._connection, event, body, timeout_s)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close this connection, after what was sent to it before."""
        self._runtime.on_loop(self._runtime.close, self._connection, code, reason)
