"""Doors: how a protocol tells a client what became of its wish to come in."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fastim.errors import ConnectionRefused, RequestError, TurnedAway
from fastim.server.application.outgoing import UNSENDABLE
from fastim.wire.native import encode_value

if TYPE_CHECKING:
    from fastim.server.application.dispatch import Dispatcher
    from fastim.server.connection import Connection

__all__ = ["Door", "NativeDoor", "without_data"]

log = logging.getLogger("fastim.app")


class Door(Protocol):
    """Of one connection that wants to come in."""

    def entered(self, connection: Connection, body: dict[str, Any]) -> None:
        """It is in: queue what says so, before anything else; ``body`` is that of the ok of a hello."""

    def refused(self, connection: Connection, error: RequestError) -> None:
        """It is not, and OPENING again unless it is gone. A TurnedAway is meant to end it."""


def without_data(refused: ConnectionRefused, error: Exception) -> ConnectionRefused:
    """Return a refusal whose data cannot be sent without it, and log which function gave it."""
    frames = traceback.extract_tb(refused.__traceback__)
    where = f"{frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else "the application"
    log.error("%s refused a connection with data that cannot be sent: %s", where, error)
    return ConnectionRefused(refused.message)


class NativeDoor:
    """The native protocol's: the answer to a hello.

    Args:
        dispatcher: Counts errors.
        ref: Of the hello.
        clock_ns: Monotonic time.
    """

    __slots__ = ("_clock_ns", "_dispatcher", "_ref")

    def __init__(self, dispatcher: Dispatcher, ref: int | None, clock_ns: Callable[[], int]) -> None:
        self._dispatcher = dispatcher
        self._ref = ref
        self._clock_ns = clock_ns

    def entered(self, connection: Connection, body: dict[str, Any]) -> None:
        """Answer ``ok``."""
        connection.answer(self._ref, body)

    def refused(self, connection: Connection, error: RequestError) -> None:
        """Answer ``error``, and close the connection that is turned away."""
        if isinstance(error, ConnectionRefused) and error.data is not None:
            try:
                encode_value(error.data, connection.encoding)
            except UNSENDABLE as mistake:
                error = without_data(error, mistake)
        self._dispatcher.fail(connection, self._ref, "hello", error)
        if isinstance(error, TurnedAway):
            connection.send_off(error.close_code, error.message, self._clock_ns())
