"""A connection as the service sees it: the domain's session, and what the service keeps beside it."""

from __future__ import annotations

import asyncio
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from fastim.im.session import Session

if TYPE_CHECKING:
    from fastim._core.hub import Hub
    from fastim.server.app import Context

__all__ = ["Connection", "Phase", "Topic", "Work"]


class Phase(IntEnum):
    """How far the service has come with a connection."""

    OPENING = 0  # upgraded; only a hello is served
    ENTERING = 1  # a hello is being served
    STARTING = 2  # its ok is queued; the application's async on_connect handlers run, packets wait
    READY = 3
    CLOSED = 4


class Topic:
    """An application's topic: the hub's number, and how many connections joined."""

    __slots__ = ("count", "name", "number")

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.count = 0


class Work:
    """What a connection has only while handlers of it run or it was asked something.

    Attributes:
        in_flight: Handlers that have begun and not returned; those that wait for the client do not count.
        unstarted: Tasks that were made and have not run their first step; plain handlers wait for them.
        backlog: Packets that wait, in order.
        paused: The connection is not read until there is room again.
        asks: Futures of the questions that the client has not answered, by ref.
    """

    __slots__ = ("asks", "backlog", "in_flight", "last_ref", "paused", "unstarted")

    def __init__(self) -> None:
        self.in_flight = 0
        self.unstarted = 0
        self.backlog: deque[tuple[str | int | None, Any, int | None]] = deque()
        self.paused = False
        self.asks: dict[int, asyncio.Future[Any]] = {}
        self.last_ref = 0

    @property
    def idle(self) -> bool:
        return not (self.in_flight or self.unstarted or self.backlog or self.asks or self.paused)


class Connection(Session):
    """The owner object of a row in the hub.

    ``extra`` holds the claims of a token from the request's head until the hello.

    Attributes:
        phase: See ``Phase``.
        context: What the application's handlers get; None until the first needs it.
        topics: The application's topics that it joined.
        pinged_ns: When the ping that is not answered yet was sent; 0: none is out.
        warned: ``token_expiring`` was sent.
        work: See ``Work``; None while there is none.
    """

    __slots__ = ("context", "phase", "pinged_ns", "topics", "warned", "work")

    def __init__(self, hub: Hub, handle: int, encoding: int) -> None:
        super().__init__(hub, handle, encoding)
        self.phase: int = Phase.OPENING
        self.context: Context | None = None
        self.topics: tuple[Topic, ...] = ()
        self.pinged_ns = 0
        self.warned = False
        self.work: Work | None = None
