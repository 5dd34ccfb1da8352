"""Questions: events that clients are to answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from fastim._core.hub import Lane
from fastim.errors import ErrorCode, RequestError
from fastim.server.application.handlers import Args
from fastim.server.application.outgoing import Outgoing
from fastim.server.connection import Connection, Phase, Work
from fastim.wire.native import decode_value

__all__ = ["Answers", "Questions"]

MAX_OPEN: Final = 1_000  # of one connection
_NORMAL: Final = int(Lane.NORMAL)
_CODES: Final = frozenset(ErrorCode)


class Answers(NamedTuple):
    """What several clients answered.

    Attributes:
        answers: In no order: one value each; None for none, a tuple of several.
        missing: The sids of those who did not answer in time, answered with an error, or are gone.
    """

    answers: list[Any]
    missing: list[str]


class Questions:
    """Asks, and takes the answers.

    Attributes:
        on_wait: Called with a connection that is being asked while packets of it wait to be served: the
            handler that asks waits for the client now, and leaves its place.
    """

    def __init__(self) -> None:
        self.on_wait: Callable[[Connection], None] | None = None
        self._last_ref = 0

    def _next_ref(self) -> int:
        # One row of numbers for all: what is asked of many at once is encoded once.
        self._last_ref += 1
        return self._last_ref

    async def ask(
        self,
        connection: Connection,
        event: str,
        args: Sequence[Any],
        codes: Mapping[str, int],
        timeout_s: float,
    ) -> Any:
        """Ask a connection and wait for its answer; see ``Context.call``."""
        if connection.phase == Phase.CLOSED:
            raise ConnectionError("the connection is gone")
        ref = self._next_ref()
        outgoing = Outgoing(event, args, codes, ref)
        future = _expect(connection, ref)
        if future is None:
            raise RequestError(ErrorCode.UNAVAILABLE, "the client has too many questions to answer")
        self._make_way(connection)
        try:
            outgoing.send(connection, _NORMAL)
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise TimeoutError(f"{event!r} was not answered within {timeout_s:g} s") from None
        finally:
            _forget(connection, ref)

    def _make_way(self, connection: Connection) -> None:
        """Let packets go on that wait for the handler that asks: the answer may be behind them."""
        if self.on_wait is not None and connection.work is not None and connection.work.backlog:
            self.on_wait(connection)

    async def ask_all(
        self,
        connections: Sequence[Connection],
        event: str,
        args: Sequence[Any],
        codes: Mapping[str, int],
        timeout_s: float,
        send: Callable[[Sequence[Connection], Outgoing, int], object],
    ) -> Answers:
        """Ask connections and collect what comes in time; see ``FastIM.call``."""
        ref = self._next_ref()
        outgoing = Outgoing(event, args, codes, ref)
        asked: dict[Connection, asyncio.Future[Any]] = {}
        for connection in connections:
            future = _expect(connection, ref)
            if future is not None:
                asked[connection] = future
                self._make_way(connection)
        try:
            send(tuple(asked), outgoing, _NORMAL)
            if asked:
                await asyncio.wait(asked.values(), timeout=timeout_s)
        finally:
            for connection in asked:
                _forget(connection, ref)
        answers = Answers([], [])
        for connection in connections:
            answered = asked.get(connection)
            if answered is None or not answered.done() or answered.exception() is not None:
                answers.missing.append(connection.sid)
            else:
                answers.answers.append(answered.result())
        return answers

    def answered(self, connection: Connection, body: Any, ref: int | None, event: str) -> None:
        """Take a client's ``ok`` or ``error``; an answer to nothing we asked is ignored.

        Args:
            body: Encoded, or ``Args``.
        """
        future = connection.work.asks.get(ref) if connection.work is not None and ref is not None else None
        if future is None or future.done():
            return
        try:
            value = _value_of(body) if isinstance(body, Args) else decode_value(body, connection.encoding)
        except RequestError as error:
            future.set_exception(error)
            return
        if event == "ok":
            future.set_result(value)
        else:
            future.set_exception(_client_error(value))


def _expect(connection: Connection, ref: int) -> asyncio.Future[Any] | None:
    """Make what becomes the answer; None: the client has too many questions to answer."""
    work = connection.work
    if work is None:
        work = connection.work = Work()
    if len(work.asks) >= MAX_OPEN:
        return None
    future = work.asks[ref] = asyncio.get_running_loop().create_future()
    return future


def _forget(connection: Connection, ref: int) -> None:
    work = connection.work
    if work is not None:
        work.asks.pop(ref, None)
        if work.idle:
            connection.work = None


def _value_of(args: Args) -> Any:
    """Return an answer as one value: that of one, None of none, a tuple of several."""
    return tuple(args) if len(args) > 1 else args[0] if args else None


def _client_error(value: Any) -> RequestError:
    fields = value if isinstance(value, dict) else {}
    code = fields.get("code")
    known = ErrorCode(code) if isinstance(code, str) and code in _CODES else ErrorCode.BAD_REQUEST
    return RequestError(known, str(fields.get("message", "the client answered with an error")))
