"""The orderly end: clients leave a few at a time and may come back, nothing that was acknowledged is lost.

A drain is asked for by a signal, by ``POST /v1/drain`` or by ``fastim drain``. From then on ``/readyz`` says
no and upgrades are refused, but who is connected is served as before until its turn to be closed comes. The
turns are spread evenly over the window, however many there are; behind it the process ends. What fails in the
middle is logged and passed over: a drain comes to its end.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Lane
from fastim.errors import CloseCode, ErrorCode, RequestError, StoreError
from fastim.server.application.unfinished import counted
from fastim.server.connection import Connection, Phase

if TYPE_CHECKING:
    from fastim.im.messaging import Messaging
    from fastim.server.engineio.session import EngineSession
    from fastim.server.front.handover import HandOver
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["Drain", "DrainOptions", "Plan"]

log = logging.getLogger("fastim.drain")

LOOK_S: Final = 0.01
SLICE_S: Final = 0.05  # between two slices; a window of a second still has twenty of them
ANNOUNCED_AT_ONCE: Final = 256  # 5 µs each: the loop's other callbacks come in between
# Where no window is declared, few clients are not kept waiting for their turns, and many have all of it. A
# container is given 30 s as a rule: 20 s for the window and 10 s for what comes behind it.
AUTOMATIC_PER_S: Final = 100
AUTOMATIC_MAX_S: Final = 20.0
NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DrainOptions:
    """Plain options of the end, filled from the settings.

    Attributes:
        within_s: Window of a drain that names none; 0: all are closed at once; None: see ``AUTOMATIC_PER_S``.
        deadline_s: For handlers, answers and closing handshakes, behind the window; 0: none.
        quick_deadline_s: The same where there is no time, after SIGINT.
        retry_after_ms: When clients are told to come back, from their turn on.
        to: Address of the server that takes over; empty: none.
    """

    within_s: float | None = None
    deadline_s: float = 10.0
    quick_deadline_s: float = 1.0
    retry_after_ms: int = 1000
    to: str = ""


@dataclass(slots=True)
class Plan:
    """What was asked for.

    Attributes:
        connections: Open when it began.
        begin_ns, window_ns: The window, of the service's clock.
        deadline_s: See ``DrainOptions``.
        code, reason: What connections are closed with.
        to: See ``DrainOptions``.
        ends_at_ms: The window's end, milliseconds since the epoch.
    """

    connections: int
    begin_ns: int
    window_ns: int
    deadline_s: float
    code: CloseCode
    reason: str
    to: str
    ends_at_ms: int

    @property
    def end_ns(self) -> int:
        return self.begin_ns + self.window_ns


class Drain:
    """The end of a server: asked for once, carried out by ``run``.

    **Thread**: the loop's.

    Args:
        service: Its connections are closed.
        messaging: Stopped.
        store: Flushed, not closed.
        http: Stopped.
        options: See ``DrainOptions``.
        sleep: ``asyncio.sleep``, or a test's own.

    Attributes:
        asked: Done once a drain was asked for.
        plan: Of the drain that is on; None: there is none.
        others: Returns the sessions of Engine.IO that are open and carry no connection.
    """

    def __init__(
        self,
        service: Service,
        messaging: Messaging,
        store: Store,
        http: HandOver,
        options: DrainOptions,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.asked: asyncio.Future[None] = service.loop.create_future()
        self.plan: Plan | None = None
        self.migrate: Callable[[Connection, str], dict[str, Any] | None] | None = None
        self._service = service
        self._messaging = messaging
        self._store = store
        self._http = http
        self._options = options
        self._sleep = sleep
        self.others: Callable[[], list[EngineSession]] = list
        self._line: list[Connection | EngineSession] = []
        self._others: list[EngineSession] = []
        self._told: set[Connection] = set()
        self._slices: set[asyncio.Task[None]] = set()
        self._closing: list[int] = []
        self._closed_count = 0

    # -- asking for it

    def ask(self, within_s: float | None = None, to: str | None = None) -> Plan:
        """Begin a drain.

        Args:
            within_s: The window, seconds; 0: all are closed at once; None: the setting's.
            to: Address of the server that takes over; None: the setting's.

        Raises:
            RequestError: ``conflict``: one is on.
        """
        if self.plan is not None:
            raise RequestError(ErrorCode.CONFLICT, "the server is draining already")
        if within_s is None:
            within_s = self._options.within_s
        count = len(self._service.connections) + len(self.others())
        if within_s is None:
            within_s = min(AUTOMATIC_MAX_S, count / AUTOMATIC_PER_S)
        to = self._options.to if to is None else to
        return self._begin(within_s, self._options.deadline_s, CloseCode.DRAINING, "draining", to)

    def ask_quick(self) -> Plan:
        """End without a window; one that is on is cut short."""
        deadline_s = self._options.quick_deadline_s
        if self.plan is not None:
            now_ns = self._service.clock_ns()
            self.plan.window_ns = min(self.plan.window_ns, max(0, now_ns - self.plan.begin_ns))
            self.plan.deadline_s = deadline_s
            return self.plan
        return self._begin(0, deadline_s, CloseCode.GOING_AWAY, "server shutdown", "")

    def _begin(self, within_s: float, deadline_s: float, code: CloseCode, reason: str, to: str) -> Plan:
        service = self._service
        service.draining = True
        self._others = self.others()
        self._line = [*service.connections, *self._others]
        ends_at_ms = int((time.time() + within_s) * 1000)
        self.plan = Plan(
            len(self._line),
            service.clock_ns(),
            int(within_s * NS_PER_S),
            deadline_s,
            code,
            reason,
            to,
            ends_at_ms,
        )
        log.info("draining: %d connections within %.1f s", len(self._line), within_s)
        self.asked.set_result(None)
        return self.plan

    def retry_after_s(self) -> int:
        """What a refused client is told: after the window, and spread over one as long against a storm."""
        if self.plan is None:
            return 1
        left_ns = max(0, self.plan.end_ns - self._service.clock_ns())
        return 1 + int(left_ns / NS_PER_S + random.uniform(0, self.plan.window_ns / NS_PER_S))

    def stats(self) -> dict[str, int]:
        """Figures for ``/metrics``: whether a drain is on, how many it has closed and how many are left."""
        plan, service = self.plan, self._service
        return {
            "draining": int(plan is not None),
            "closed_total": self._closed_count,
            "left": len(service.connections) + sum(map(self._is_open, self._others))
            if plan is not None
            else 0,
            "window_ms": plan.window_ns // 1_000_000 if plan is not None else 0,
        }

    # -- carrying it out

    async def run(self, unlisten: Callable[[], None]) -> None:
        """End what is open, in this order.

        1. ``server_shutdown`` to every client, each with the time of its own turn; presence is told no more.
        2. Turn by turn, spread over the window: a connection is read no more, its handlers finish, what it
           submitted is committed and answered, and it is closed. The others are served as before.
        3. Behind the window, or at once without one, the listeners are closed; new work is answered
           ``unavailable``, and the same happens to all that are left.
        4. Answers are written, HTTP requests and closing handshakes finish, until the deadline at most.
           The store alone is waited for: what it took is not given up.

        Args:
            unlisten: Closes the listeners.
        """
        plan = self.plan
        assert plan is not None
        await self._try("muting presence", self._messaging.drain)
        if plan.window_ns:
            await self._try("announcing", self._announce, plan)
            await self._try("closing in turn", self._close_in_turn, plan)
            await self._try("closing the listeners", unlisten)
        else:
            await self._try("closing the listeners", unlisten)
            await self._try("announcing", self._announce, plan)
        await self._finish(plan)

    async def _try(self, what: str, step: Callable[..., object], *arguments: object) -> None:
        """Take a step, plain or async; if it fails the next one comes all the same."""
        try:
            result = step(*arguments)
            if isinstance(result, Awaitable):
                await result
        except Exception:
            log.exception("%s failed; the drain goes on", what)

    async def _announce(self, plan: Plan) -> None:
        for place, connection in enumerate(self._line):
            if isinstance(connection, Connection) and connection.phase in (Phase.STARTING, Phase.READY):
                self._tell(connection, plan, plan.window_ns * place // len(self._line))
            if place % ANNOUNCED_AT_ONCE == ANNOUNCED_AT_ONCE - 1:
                self._service.flush()
                await asyncio.sleep(0)
        self._service.flush()

    def _tell(self, connection: Connection, plan: Plan, wait_ns: int) -> None:
        retry_after_ms = self._options.retry_after_ms + wait_ns // 1_000_000
        body = {"reconnect": True, "shutdown_at": plan.ends_at_ms, "retry_after_ms": retry_after_ms}
        try:
            connection.send_event("server_shutdown", body, Lane.NORMAL)
            self._told.add(connection)
        except Exception:
            log.exception("a client could not be told of the shutdown")

    async def _close_in_turn(self, plan: Plan) -> None:
        """Start a slice whenever some are due; by the clock, so that a late one is made up for."""
        line, at = self._line, 0
        while at < len(line) and (self._service.connections or any(map(self._is_open, self._others))):
            passed_ns = self._service.clock_ns() - plan.begin_ns
            due = len(line) if passed_ns >= plan.window_ns else len(line) * passed_ns // plan.window_ns
            if due > at:
                task = self._service.loop.create_task(
                    self._try("closing some", self._close_slice, line[at:due], plan)
                )
                self._slices.add(task)
                task.add_done_callback(self._slices.discard)
                at = due
            await self._sleep(SLICE_S)
        if self._slices:
            await asyncio.wait(self._slices, timeout=plan.deadline_s / 2)

    def _is_open(self, session: EngineSession) -> bool:
        return self._service.hub.alive(session.handle)

    async def _close_slice(self, line: Sequence[Connection | EngineSession], plan: Plan) -> None:
        """Close connections whose turn has come; those with unfinished handlers once these are done."""
        connections = [each for each in line if isinstance(each, Connection)]
        self._close_others([each for each in line if not isinstance(each, Connection)], plan)
        busy = self._service.dispatcher.is_busy
        await self._close([each for each in connections if not busy(each)], plan)
        if late := [each for each in connections if each.phase != Phase.CLOSED]:
            end_ns = self._service.clock_ns() + int(plan.deadline_s / 2 * NS_PER_S)
            await self._wait_until(lambda: not any(busy(each) for each in late), end_ns)
            await self._close(late, plan)

    async def _close(self, connections: Sequence[Connection], plan: Plan) -> None:
        """Let what they submitted be answered, and close them."""
        service, hub = self._service, self._service.hub
        connections = [each for each in connections if each.phase != Phase.CLOSED]
        if not connections:
            return
        for connection in connections:
            hub.pause(connection.handle)
        await self._commit(plan.deadline_s / 2 + LOOK_S)
        for connection in connections:
            self._closing.append(connection.handle)
            if not hub.alive(connection.handle):
                continue  # it has left meanwhile, or was closed before and has not answered yet
            try:
                self._say_goodbye(connection, plan)
            except Exception:
                log.exception("a client could not be told where to go")
            hub.close(connection.handle, plan.code, plan.reason, service.clock_ns())
            self._closed_count += 1
        service.flush()

    def _close_others(self, sessions: Iterable[EngineSession], plan: Plan) -> None:
        """Close sessions that have nothing to be answered."""
        for session in sessions:
            if session.close(plan.code, plan.reason):
                self._closing.append(session.handle)
                self._closed_count += 1

    async def _commit(self, within_s: float | None) -> None:
        """Wait until what was submitted is stored and answered; None: for as long as it takes."""
        try:
            async with asyncio.timeout(within_s):
                await self._store.flush()
        except (StoreError, TimeoutError) as error:
            log.warning("what was submitted last may not be stored: %s", error or "the store is slow")
        except Exception:
            log.exception("what was submitted last may not be stored")

    def _say_goodbye(self, connection: Connection, plan: Plan) -> None:
        """Tell who came in late, and hand out the ticket to where it goes on."""
        if connection not in self._told:
            self._tell(connection, plan, 0)
        if plan.to and self.migrate is not None and connection.phase == Phase.READY:
            body = self.migrate(connection, plan.to)
            if body is not None:
                connection.send_event("migrate", body, Lane.NORMAL)

    async def _finish(self, plan: Plan) -> None:
        service = self._service
        end_ns = service.clock_ns() + int(plan.deadline_s * NS_PER_S)
        await self._try("refusing work", service.dispatcher.tables.refuse_work)
        unfinished = service.dispatcher.unfinished
        handlers_end_ns = service.clock_ns() + int(plan.deadline_s / 2 * NS_PER_S)
        if not await self._wait_until(lambda: not unfinished.count, handlers_end_ns):
            names = counted(unfinished.handlers)
            log.warning("%d handlers did not finish in time: %s", unfinished.count, names)
        await self._try("closing idle connections", service.hub.close_kept)
        await self._try("stopping the conversations", self._messaging.stop)
        await self._commit(None)
        service.flush()
        left_s = max(0.0, (end_ns - service.clock_ns()) / NS_PER_S)
        requests = asyncio.ensure_future(self._try("ending HTTP", self._http.stop, left_s))
        if not await self._wait_until(lambda: not self._unsent(), end_ns):
            log.warning("some clients did not take their last answers in time")
        await self._try("closing", self._close, list(service.connections), plan)
        await self._try("closing what carries no connection", self._close_others, self.others(), plan)
        service.flush()
        await self._wait_until(self._gone, end_ns)
        await requests
        await self._cancel_tasks()

    def _gone(self) -> bool:
        closing, hub = self._closing, self._service.hub
        while closing and not hub.peer(closing[-1]):  # a row that is free has no peer
            closing.pop()
        return not closing

    def _unsent(self) -> bool:
        return any(self._service.hub.queued_bytes(each.handle) for each in self._service.connections)

    async def _cancel_tasks(self) -> None:
        """End the handlers that still run: their clients are gone."""
        tasks = [*self._slices, *self._service.tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    async def _wait_until(self, done: Callable[[], bool], end_ns: int) -> bool:
        """Look again and again: what is waited for happens in the hub, which has no futures."""
        while not done():
            if self._service.clock_ns() >= end_ns:
                return False
            await self._sleep(LOOK_S)
        return True
