"""The service: the hub on the event loop, and what each of its events leads to.

``Hub.poll`` hands over what all sockets brought, in one list; it is worked off without a task, future or
callback for a message. Nothing that a peer sends, and nothing that a handler raises, leaves that loop.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import EventKind, Hub
from fastim.errors import CloseCode, ErrorCode, RequestError, StoreError
from fastim.server.connection import Connection, Phase
from fastim.server.dispatch import Dispatcher
from fastim.server.eager import step
from fastim.server.runtime import Runtime
from fastim.server.throttle import PacketThrottle
from fastim.wire import bodies
from fastim.wire.bodies import decode_body

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims, TokenVerifier
    from fastim.im.messaging import Messaging
    from fastim.server.app import FastIM
    from fastim.server.front import Front
    from fastim.server.handover import HandOver
    from fastim.server.tls import FedBridge

__all__ = ["Service", "ServiceOptions"]

log = logging.getLogger("fastim.service")

TICK_S: Final = 0.025  # timers and windows, while there are connections
IDLE_TICK_S: Final = 1.0
TURN_NS: Final = 10_000_000  # for what a poll brought; the loop's other callbacks come before the rest
PACKETS_A_LOOK: Final = 32  # between two looks at the clock
MAX_TIMER_NS: Final = 3_600_000_000_000
NS_PER_S: Final = 1_000_000_000

_HEAD, _TEXT, _BINARY = int(EventKind.HEAD), int(EventKind.TEXT), int(EventKind.BINARY)
_CLOSED, _TIMER, _DRAINED = int(EventKind.CLOSED), int(EventKind.TIMER), int(EventKind.DRAINED)


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Plain options of the service, filled from the settings.

    Attributes:
        node: This server's name, as the ok of a hello tells it.
        hello_timeout_ns: From the upgrade to a valid hello; then 4014.
        heartbeat_interval_ns: A connection that brought no byte for so long is pinged; 0: never.
        heartbeat_timeout_ns: No byte for so long after a ping: 4009.
        expiry_warning_s: ``token_expiring`` goes out so long before.
        max_message_bytes, messages_per_minute: As told to clients.
        max_unfinished: See ``Dispatcher``.
        packets_per_second: Of a connection, before it is read more slowly; 0: no limit.
        outbox_bytes: Bounds of outboxes by tier, where they are not the hub's own.
        close_timeout_s: For a connection without a socket of the hub's to take what it was sent last.
        leeway_s: How long after ``exp`` a token is still taken.
    """

    node: str = "local"
    hello_timeout_ns: int = 5 * NS_PER_S
    heartbeat_interval_ns: int = 30 * NS_PER_S
    heartbeat_timeout_ns: int = 10 * NS_PER_S
    expiry_warning_s: int = 60
    max_message_bytes: int = 102_400
    messages_per_minute: int = 0
    close_timeout_s: float = 5.0
    leeway_s: int = 10
    max_unfinished: int = 64
    packets_per_second: int = 0
    outbox_bytes: Mapping[str, int] = field(default_factory=dict)


class Service:
    """Drives the hub and serves its connections.

    **Thread**: made and used on the loop's thread.

    Args:
        loop: The running loop.
        options: See ``ServiceOptions``.
        verifier: Verifies tokens.
        application: Its handlers; None: there is none.
        clock_ns: Monotonic time, nanoseconds.
        time_s: Time since the epoch, seconds.
        max_connections: At a time; 0: no bound.
        hub_options: Passed to ``Hub``.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ServiceOptions,
        verifier: TokenVerifier,
        application: FastIM | None = None,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        time_s: Callable[[], float] = time.time,
        max_connections: int = 0,
        **hub_options: Any,
    ) -> None:
        self.loop = loop
        self.clock_ns = clock_ns
        self.time_s = time_s
        self.options = options
        self.verifier = verifier
        self.hub = Hub(on_dirty=self._on_dirty, max_connections=max_connections, **hub_options)
        self._max_connections = max_connections
        self.connections: set[Connection] = set()
        self.bridges: dict[int, FedBridge] = {}
        self.held: set[FedBridge] = set()
        self.tasks: set[asyncio.Task[Any]] = set()
        self.runtime = Runtime(loop, self.hub, clock_ns)
        self.dispatcher = Dispatcher(self.runtime, application, self.spawn, options.max_unfinished)
        if options.packets_per_second:
            self.dispatcher.throttle = PacketThrottle(self.runtime, options.packets_per_second)
        self.messaging: Messaging | None = None
        self.front: Front | None = None
        self.http: HandOver | None = None
        self.draining = False
        self._polling = False
        self._dirty = False
        self._again = False
        self._left: Iterator[tuple[int, Any, Any]] = iter(())  # events of the last poll that were not reached
        self._stopped = False  # what was scheduled before finds the hub shut down
        self._timer_handle: asyncio.TimerHandle | None = None
        self._tick_s = IDLE_TICK_S

    # -- life

    def start(self, messaging: Messaging, front: Front) -> None:
        """Begin to poll; the listeners may come before or after."""
        self.messaging = messaging
        self.front = front
        self.dispatcher.add_builtins(messaging.builtins)
        self.dispatcher.add_service("hello", self.hello)
        self.dispatcher.add_service("refresh", self.refresh)
        for event in ("ok", "error"):
            self.dispatcher.add_service(event, functools.partial(self.runtime.answered, event=event))
        self.loop.add_reader(self.hub.fileno(), self.poll)
        self._timer_handle = self.loop.call_later(self._tick_s, self._tick)

    def stop(self) -> None:
        """Stop polling and let the hub go; connections that are left are reset."""
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = None
        self.loop.remove_reader(self.hub.fileno())
        self.dispatcher.close()
        self._stopped = True
        self.hub.shutdown()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine in a task that is kept until it ends; what it raises is logged."""
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background task failed", exc_info=error)

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be; accepted sockets the hub counts itself."""
        return bool(self._max_connections) and self.hub.connections >= self._max_connections

    # -- the loop's side of the hub

    def poll(self) -> None:
        """Take what the sockets brought, serve it, and write what came of it."""
        hub = self.hub
        now_ns = self.clock_ns()
        self._polling = True
        try:
            if self._serve(self._left, now_ns):
                self._left = iter(hub.poll(now_ns))
                unserved = not self._serve(self._left, now_ns)
            else:
                unserved = True
        finally:
            self._polling = False
        if self._dirty:
            self.flush()
        if unserved or hub.pending:
            self.poll_soon()
        if self.held:
            self.held = {bridge for bridge in self.held if not bridge.read_again()}
        if self._tick_s != TICK_S:
            self._set_tick(TICK_S)

    def _serve(self, events: Iterator[tuple[int, Any, Any]], now_ns: int) -> bool:
        """Serve events until the turn is over; False if some may be left.

        A poll is bounded in frames, but a frame may hold a thousand packets.
        """
        receive = self.dispatcher.receive
        count = 0
        for kind, subject, data in events:
            try:
                if kind == _TEXT:
                    count += receive(subject, data, 0)
                elif kind == _BINARY:
                    count += receive(subject, data, 1)
                elif kind == _HEAD:
                    self.front.serve(subject, data[0], data[1], now_ns)  # type: ignore[union-attr]
                elif kind == _CLOSED:
                    self._closed(subject)
                elif kind == _TIMER:
                    self.check_timers(subject, now_ns)
                elif kind == _DRAINED:
                    self.messaging.on_drained(subject)  # type: ignore[union-attr]
            except Exception:
                self._failed(subject)
            if count >= PACKETS_A_LOOK:
                count = 0
                if self.clock_ns() - now_ns > TURN_NS:
                    return False
        return True

    def _poll_again(self) -> None:
        self._again = False
        if not self._stopped:
            self.poll()

    def _failed(self, subject: object) -> None:
        """Contain a mistake of ours: log it, and end the one connection that it belongs to."""
        log.exception("an event of a connection could not be served")
        if isinstance(subject, Connection):
            self.hub.close(subject.handle, CloseCode.INTERNAL_ERROR, "", self.clock_ns())
        else:
            self.hub.abort(subject)  # type: ignore[arg-type]

    def _on_dirty(self) -> None:
        self._dirty = True
        if not self._polling:
            self.loop.call_soon(self._flush_soon)

    def _flush_soon(self) -> None:
        if self._dirty and not self._stopped:
            self.flush()

    def flush(self) -> None:
        """Write what waits, once to each connection."""
        self._dirty = False
        self.hub.flush(self.clock_ns())
        if self.bridges:
            for handle in self.hub.fed_ready():
                bridge = self.bridges.get(handle)
                if bridge is not None:
                    bridge.pump()
        if self.hub.pending:
            self.poll_soon()

    def poll_soon(self) -> None:
        """Poll in the next turn of the loop: a budget left something over, or bytes were fed."""
        if not self._again:
            self._again = True
            self.loop.call_soon(self._poll_again)

    def _set_tick(self, tick_s: float) -> None:
        self._tick_s = tick_s
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = self.loop.call_later(tick_s, self._tick)

    def _tick(self) -> None:
        # Polling first keeps the pace: a tick without connections falls back to the slow one below.
        self._timer_handle = self.loop.call_later(self._tick_s, self._tick)
        try:
            self.poll()
            if self.messaging is not None:
                self.messaging.tick(self.clock_ns())
        except Exception:
            log.exception("a tick failed")
        if self.hub.connections == 0:
            self._set_tick(IDLE_TICK_S)

    # -- hello

    def hello(self, connection: Connection, body: Any, ref: int | None) -> None:
        """Serve a hello; the first packet of a connection, and the only one served before its ok."""
        if connection.phase != Phase.OPENING:
            raise RequestError(ErrorCode.BAD_REQUEST, "hello: this connection said it already")
        hello = decode_body(body, bodies.Hello, connection.encoding)
        claims: Claims | None = connection.extra
        if hello.token:
            try:
                claims = self.verifier.verify(hello.token, self.time_s())
            except RequestError:
                assert self.front is not None
                self.front.refused(self.hub.peer(connection.handle), self.clock_ns())
                raise
        if claims is None:
            raise RequestError(ErrorCode.UNAUTHORIZED, "a token is needed, in hello or in the request's head")
        connection.phase = Phase.ENTERING
        step(self._enter(connection, hello, claims, ref), self.spawn)

    async def _enter(self, connection: Connection, hello: Any, claims: Claims, ref: int | None) -> None:
        try:
            assert self.messaging is not None
            body = await self.messaging.attach(connection, hello, claims)
        except RequestError as error:
            self._hello_failed(connection, ref, error)
        except StoreError:
            self._hello_failed(
                connection, ref, RequestError(ErrorCode.UNAVAILABLE, "the store does not answer")
            )
        except Exception:
            self.dispatcher.internal(connection, ref, "hello")
            self._hello_failed(connection, ref, None)
        else:
            if connection.phase == Phase.ENTERING:
                self._entered(connection, hello, claims, ref, body)

    def _hello_failed(self, connection: Connection, ref: int | None, error: RequestError | None) -> None:
        if connection.phase == Phase.ENTERING:
            connection.phase = Phase.OPENING
        if error is not None:
            connection.fail(ref, "hello", error)

    def _entered(
        self, connection: Connection, hello: Any, claims: Claims, ref: int | None, body: dict[str, Any]
    ) -> None:
        options = self.options
        connection.extra = None
        connection.exp = self._deadline_s(claims.exp)
        connection.phase = Phase.READY
        body["node"] = options.node
        body["heartbeat_ms"] = options.heartbeat_interval_ns // 1_000_000
        body["limits"] = {
            "max_message_bytes": options.max_message_bytes,
            "messages_per_minute": options.messages_per_minute,
        }
        connection.answer(ref, body)
        self.hub.configure(
            connection.handle, batch=hello.batch, outbox_bytes=options.outbox_bytes.get(connection.tier)
        )
        assert self.messaging is not None
        self.messaging.begin(connection)
        self.dispatcher.connected(connection)
        self.check_timers(connection, self.clock_ns())

    def _deadline_s(self, exp: int) -> int:
        """When a token's connection ends: at ``exp``, or within the leeway if that is how it came in."""
        return exp if exp > self.time_s() else exp + self.options.leeway_s

    def refresh(self, connection: Connection, body: Any, ref: int | None) -> None:
        """Take a new token of the same user."""
        refresh = decode_body(body, bodies.Refresh, connection.encoding)
        claims = self.verifier.verify(refresh.token, self.time_s())
        if claims.user != connection.user_id:
            raise RequestError(ErrorCode.UNAUTHORIZED, "token: it belongs to another user")
        connection.exp = self._deadline_s(claims.exp)
        connection.tier = claims.tier
        self.hub.configure(connection.handle, outbox_bytes=self.options.outbox_bytes.get(claims.tier))
        connection.scope = claims.scope
        connection.warned = False
        connection.answer(ref, {"exp": claims.exp})
        self.check_timers(connection, self.clock_ns())

    # -- timers: one a connection in the hub, for the hello, the heartbeat and the token

    def check_timers(self, connection: Connection, now_ns: int) -> None:
        """Do what is due for a connection, and set its timer to what is due next."""
        if connection.phase == Phase.OPENING:
            self.hub.close(connection.handle, CloseCode.NO_HELLO, "no hello in time", now_ns)
        elif connection.phase == Phase.ENTERING:
            self.hub.set_timer(connection.handle, now_ns + NS_PER_S)
        elif connection.phase != Phase.CLOSED:
            due_ns = self._check_heartbeat(connection, now_ns)
            if due_ns:
                due_ns = self._check_token(connection, now_ns, due_ns)
            if due_ns:
                self.hub.set_timer(connection.handle, due_ns)

    def _check_heartbeat(self, connection: Connection, now_ns: int) -> int:
        """Ping a silent connection, end a dead one; returns when to look again, 0 if it was ended."""
        interval_ns = self.options.heartbeat_interval_ns
        if not interval_ns:
            return now_ns + MAX_TIMER_NS
        heard_ns = self.hub.last_received_ns(connection.handle)
        if connection.pinged_ns:
            lost_ns = connection.pinged_ns + self.options.heartbeat_timeout_ns
            if heard_ns < connection.pinged_ns:
                if now_ns < lost_ns:
                    return lost_ns
                self.hub.close(connection.handle, CloseCode.HEARTBEAT_LOST, "heartbeat lost", now_ns)
                return 0
            connection.pinged_ns = 0
        if now_ns < heard_ns + interval_ns:
            return heard_ns + interval_ns
        self.hub.ping(connection.handle)
        connection.pinged_ns = now_ns
        return now_ns + self.options.heartbeat_timeout_ns

    def _check_token(self, connection: Connection, now_ns: int, due_ns: int) -> int:
        """Warn of a token's end and end its connection; returns when to look again, 0 if it was ended."""
        left_s = connection.exp - self.time_s()
        if left_s <= 0:
            self.hub.close(connection.handle, CloseCode.TOKEN_EXPIRED, "token expired", now_ns)
            return 0
        if not connection.warned:
            left_s -= self.options.expiry_warning_s
            if left_s <= 0:
                connection.warned = True
                connection.send_event("token_expiring", {"exp": connection.exp})
                left_s = connection.exp - self.time_s()
        # A token may be good for centuries: bounded before it becomes nanoseconds in C.
        return min(due_ns, now_ns + MAX_TIMER_NS, now_ns + int(min(left_s, 3600.0) * NS_PER_S) + 1_000_000)

    # -- the end of a connection

    def _closed(self, connection: Connection) -> None:
        entered = connection.phase in (Phase.STARTING, Phase.READY)
        connection.phase = Phase.CLOSED
        self.connections.discard(connection)
        if self.messaging is not None:
            self.messaging.detach(connection)
        self.dispatcher.disconnected(connection, entered)
