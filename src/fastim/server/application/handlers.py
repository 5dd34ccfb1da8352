"""Handlers: an application's functions, where they run, and which values they take."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final

from fastim.errors import ErrorCode, RequestError
from fastim.wire.events import MAX_EVENT_BYTES, REPLACEABLE, is_reserved

__all__ = [
    "CATCH_ALL",
    "NO_ACK",
    "Args",
    "Handler",
    "HandlerMode",
    "NoAck",
    "check_event",
    "is_async",
    "make_handler",
    "make_starter",
]

CATCH_ALL: Final = "*"
MANY: Final = 1 << 30  # of ``*args``


class NoAck(Enum):
    """The type of ``NO_ACK``."""

    NO_ACK = "NO_ACK"


NO_ACK: Final = NoAck.NO_ACK
"""What a handler returns that does not want its packet answered, though the client asked for an answer."""


class Args(list[Any]):
    """The values of a packet that come decoded, as Socket.IO's do; a native packet has one, its body."""

    __slots__ = ()


class HandlerMode(Enum):
    """Where a handler runs."""

    PLAIN = "plain"  # on the loop, at once
    ASYNC = "async"  # on the loop, in a task
    THREAD = "thread"  # in the application's thread pool


class Handler:
    """A registered handler.

    It takes the context and then the values of a packet. One value is passed as it is, however it came. Of a
    native packet, which has a single body, a function that needs several takes the items of a list.

    Attributes:
        event: What it is for.
        call: The function.
        mode: Where it runs.
        least, most: How many values it takes behind the context.
        with_body: ``with_body(ctx, body)`` calls it for a native packet; the function itself where that does.
    """

    __slots__ = ("call", "event", "least", "mode", "most", "with_body")

    def __init__(
        self, event: str, call: Callable[..., Any], mode: HandlerMode, least: int = 0, most: int = MANY
    ) -> None:
        self.event = event
        self.call = call
        self.mode = mode
        self.least = least
        self.most = most
        self.with_body: Callable[..., Any] = call if least <= 1 <= most else self._spread

    @property
    def name(self) -> str:
        """What the log calls the function."""
        return str(getattr(self.call, "__qualname__", repr(self.call)))

    @property
    def is_async(self) -> bool:
        """Whether what the call returns has to be awaited."""
        return self.mode is HandlerMode.ASYNC

    def with_args(self, context: Any, args: Sequence[Any]) -> Any:
        """Call it for a packet of any number of values.

        Raises:
            RequestError: ``bad_request``; it takes more of them, or fewer.
        """
        count = len(args)
        if self.least <= count <= self.most:
            return self.call(context, *args)
        if not count and self.least == 1:
            return self.call(context, None)
        raise RequestError(
            ErrorCode.BAD_REQUEST, f"arguments: {self.event!r} takes {self._wanted()}, got {count}"
        )

    def for_event(self, event: str) -> Handler:
        """Return what serves an event by this catch-all, whose first value is the event's name."""
        catch_all = self.call

        def call(context: Any, *args: Any) -> Any:
            return catch_all(context, event, *args)

        return Handler(event, call, self.mode, max(self.least - 1, 0), self.most - 1)

    def _spread(self, context: Any, body: Any) -> Any:
        values = [] if body is None else body
        if isinstance(values, list) and self.least <= len(values) <= self.most:
            return self.call(context, *values)
        if not self.most:
            raise RequestError(ErrorCode.BAD_REQUEST, f"body: {self.event!r} takes none")
        found = f"one of {len(values)}" if isinstance(values, list) else "something else"
        raise RequestError(
            ErrorCode.BAD_REQUEST, f"body: {self.event!r} takes a list of {self._wanted()}, got {found}"
        )

    def _wanted(self) -> str:
        if self.most == MANY:
            return f"at least {self.least}"
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


def check_event(event: object) -> None:
    """Refuse a name that an application cannot have a handler for.

    Raises:
        ValueError: It is none, too long, or fastim's own. Those that clients send may be replaced.
    """
    if not isinstance(event, str) or not event:
        raise ValueError("an event's name is a string of at least one character")
    if len(event.encode()) > MAX_EVENT_BYTES:
        raise ValueError(f"the event name {event[:20]!r}… is longer than {MAX_EVENT_BYTES} bytes")
    if is_reserved(event) and event not in REPLACEABLE:
        raise ValueError(f"the event name {event!r} is reserved for fastim")


def make_handler(
    event: str,
    call: Callable[..., Any],
    takes: tuple[int, int],
    wanted: str,
    *,
    thread: bool = False,
) -> Handler:
    """Make a handler of a function.

    Args:
        event: What it is for.
        call: Plain or async.
        takes: It must take the context and as many values as lie between these two, for one number at least.
        wanted: How that is written, for the error.
        thread: It blocks, and runs in the thread pool.

    Raises:
        TypeError: It is no function, or does not take what it will be called with.
        ValueError: An async one is to run in a thread.
    """
    if not callable(call):
        raise TypeError(f"a handler is a function, not {type(call).__name__}")
    counts = _count_values(call)
    if counts is None or counts[0] > takes[1] or counts[1] < takes[0]:
        raise TypeError(f"the handler of {event!r} must take {wanted}")
    if is_async(call):
        if thread:
            raise ValueError(f"the handler of {event!r} is async; thread=True is for plain functions")
        return Handler(event, call, HandlerMode.ASYNC, *counts)
    return Handler(event, call, HandlerMode.THREAD if thread else HandlerMode.PLAIN, *counts)


def make_starter(call: Callable[..., Any]) -> Handler:
    """Make the handler of a function that takes nothing.

    Raises:
        TypeError: It is no function, or takes something.
    """
    if not callable(call):
        raise TypeError(f"a handler is a function, not {type(call).__name__}")
    try:
        inspect.signature(call).bind()
    except TypeError:
        raise TypeError("what is called at the start takes no arguments") from None
    return Handler("start", call, HandlerMode.ASYNC if is_async(call) else HandlerMode.PLAIN, 0, 0)


def is_async(call: Callable[..., Any]) -> bool:
    """Tell whether a handler, a function or an object with ``__call__``, has to be awaited."""
    return inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004


def _count_values(call: Callable[..., Any]) -> tuple[int, int] | None:
    """Count what a function takes behind its first argument, at least and at most; None: not even that."""
    least = most = -1
    for parameter in inspect.signature(call).parameters.values():
        optional = parameter.default is not parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            most = MANY
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            least += not optional
            most += 1
        elif parameter.kind is parameter.KEYWORD_ONLY and not optional:
            return None
    return None if most < 0 else (max(least, 0), most)
