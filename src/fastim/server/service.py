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
from fastim.errors import CloseCode, ErrorCode
from fastim.guard.logins import LoginPolicy
from fastim.guard.pressure import PressurePolicy
from fastim.guard.tiers import DEFAULT_POLICIES, TIERS, Placement, TierPolicy
from fastim.server.application.dispatch import Dispatcher
from fastim.server.application.hooks import Hook
from fastim.server.application.lifecycle import Lifecycle
from fastim.server.application.notices import Notices
from fastim.server.application.reasons import reason_of
from fastim.server.application.runtime import Runtime
from fastim.server.application.tables import Tables
from fastim.server.connection import Connection, Phase
from fastim.server.engineio.session import TransportOwner
from fastim.server.engineio.waiting import Waiting
from fastim.server.entrance.entrance import Entrance
from fastim.server.entrance.places import Places
from fastim.server.flushing import Bridge, Flusher, FlushWindow
from fastim.server.front.requests import HttpRequest
from fastim.server.heartbeat import Heartbeat, HeartbeatOptions
from fastim.server.process.pressure import Relief, ReliefOptions
from fastim.server.socketio.socket import Socket
from fastim.server.timers import Timers

if TYPE_CHECKING:
    from fastim._core.histogram import Histogram
    from fastim.guard.tokens import TokenVerifier
    from fastim.im.messaging import Messaging
    from fastim.server.application.app import FastIM
    from fastim.server.front.front import Front
    from fastim.server.front.handover import HandOver
    from fastim.server.front.tls import FedBridge, TlsDoor
    from fastim.server.process.drain import Drain
    from fastim.server.socketio.protocol import SocketIO
    from fastim.server.socketio.recovery import SocketRecovery

__all__ = ["Service", "ServiceOptions"]

log = logging.getLogger("fastim.service")

TICK_S: Final = 0.025  # timers and windows, while there are connections
IDLE_TICK_S: Final = 1.0
TURN_NS: Final = 10_000_000  # for what a poll brought; the loop's other callbacks come before the rest
PACKETS_A_LOOK: Final = 32  # between two looks at the clock
NS_PER_S: Final = 1_000_000_000

_HEAD, _TEXT, _BINARY = int(EventKind.HEAD), int(EventKind.TEXT), int(EventKind.BINARY)
_CLOSED, _TIMER, _DRAINED = int(EventKind.CLOSED), int(EventKind.TIMER), int(EventKind.DRAINED)
_ACCEPTED, _BODY = int(EventKind.ACCEPTED), int(EventKind.BODY)
_ENGINE_TEXT, _ENGINE_BINARY = int(EventKind.ENGINE_TEXT), int(EventKind.ENGINE_BINARY)

# What the hub closes connections with whose bytes make no sense, or are too many before the user is known.
_FAULTS: Final = frozenset(
    {
        CloseCode.PROTOCOL_ERROR,
        CloseCode.UNSUPPORTED_DATA,
        CloseCode.INVALID_PAYLOAD,
        CloseCode.MESSAGE_TOO_BIG,
        CloseCode.RATE_LIMITED,
    }
)
# Errors that a client in order gives no cause for; counted against its user.
_VIOLATIONS: Final = frozenset({ErrorCode.BAD_PACKET, ErrorCode.TOO_LARGE, ErrorCode.RATE_LIMITED})


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Plain options of the service, filled from the settings.

    Attributes:
        node: This server's name, as the ok of a hello tells it.
        hello_timeout_ns: From the upgrade to a valid hello; then 4014.
        heartbeat: See ``HeartbeatOptions``.
        expiry_warning_s: ``token_expiring`` goes out so long before.
        max_message_bytes, messages_per_minute: As told to clients.
        max_unfinished: See ``Dispatcher``.
        flush_window_ns: The longest that what is sent waits for more under load; 0: nothing ever waits.
        degraded_window_factor: How many times as long the degraded tier waits.
        tiers: What connections may ask for, by their tier.
        pressure, relief: When the server has too much to do, and how it spares itself.
        close_timeout_s: For a connection without a socket of the hub's to take what it was sent last.
        leeway_s: How long after ``exp`` a token is still taken.
        login_policy: How many logins a user may have at a time.
        auth_required: Whether who does not say who it is stays out.
        decision_timeout_s: For an application to decide about a connection; 0: no bound.
        messaging: Whether the built-in events are served.
        max_dynamic_namespaces: Of patterns, at a time; 0: no bound.
    """

    node: str = "local"
    hello_timeout_ns: int = 5 * NS_PER_S
    heartbeat: HeartbeatOptions = field(default_factory=HeartbeatOptions)
    expiry_warning_s: int = 60
    max_message_bytes: int = 102_400
    messages_per_minute: int = 0
    close_timeout_s: float = 5.0
    leeway_s: int = 10
    login_policy: LoginPolicy = LoginPolicy.ANY
    max_unfinished: int = 64
    auth_required: bool = True
    decision_timeout_s: float = 5.0
    messaging: bool = True
    max_dynamic_namespaces: int = 1_000
    flush_window_ns: int = 0
    degraded_window_factor: int = 4
    tiers: Mapping[str, TierPolicy] = field(default_factory=lambda: DEFAULT_POLICIES)
    pressure: PressurePolicy = field(default_factory=PressurePolicy)
    relief: ReliefOptions = field(default_factory=ReliefOptions)


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
        max_connections: That may have a place at a time; 0: no bound.
        max_sockets: Connections in all, those that come and go included; 0: no bound.
        hub_options: Passed to ``Hub``.

    Attributes:
        figures: What ``/metrics`` tells of each part: its name, and what returns its counters (names that end
            in ``_total``) and gauges.
        histograms: What else it tells, of durations in nanoseconds: ``fastim_<name>_seconds``.
        size_histograms: Likewise of counts and sizes: ``fastim_<name>``.
        posted: Packets that POSTs have brought; a turn counts them with those of its sockets.
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
        max_sockets: int = 0,
        **hub_options: Any,
    ) -> None:
        self.loop = loop
        self.clock_ns = clock_ns
        self.time_s = time_s
        self.options = options
        self.verifier = verifier
        self.bridges: dict[int, Bridge] = {}
        self.flusher = Flusher(
            loop,
            FlushWindow(options.flush_window_ns, options.degraded_window_factor),
            self.bridges,
            self.poll_soon,
            clock_ns,
        )
        self.hub = Hub(on_dirty=self.flusher.on_dirty, max_connections=max_sockets, **hub_options)
        self.flusher.hub = self.hub
        self._max_sockets = max_sockets
        self.connections: set[Connection] = set()
        self.held: set[FedBridge] = set()
        self.waiting = Waiting(clock_ns)
        self.posted = 0
        self.tasks: set[asyncio.Task[Any]] = set()
        self.runtime = Runtime(loop, self.hub, clock_ns)
        self.runtime.rooms.connections = lambda: self.connections
        tables = Tables(application, options.max_dynamic_namespaces, options.messaging)
        self.dispatcher = Dispatcher(self.runtime, application, self.spawn, options.max_unfinished, tables)
        self.lifecycle = Lifecycle(self.dispatcher, application, self.spawn)
        for rank, tier in enumerate(TIERS):
            if tier in options.tiers:
                self.hub.set_packet_rate(rank, options.tiers[tier].packets_per_second)
        caps = [options.tiers[tier].connections if tier in options.tiers else 0 for tier in TIERS]
        self.relief = Relief(self, options.pressure, options.relief)
        self.places = Places(self, Placement(caps, max_connections))
        self.dispatcher.watch = self._watch
        self.entrance = Entrance(self)
        self.timers = Timers(self)
        self.notices = self.runtime.notices = Notices(self)
        self.heartbeat = Heartbeat(self.hub, options.heartbeat, options.tiers.values())
        self.figures: dict[str, Callable[[], Mapping[str, int]]] = {"hub": self.hub.stats}
        self.figures["flush"] = self.flusher.stats
        self.figures["handlers"] = self.dispatcher.unfinished.stats
        self.figures["heartbeat"] = self.hub.heartbeat_stats
        self.histograms: dict[str, Histogram] = {"round_trip": self.hub.round_trips}
        self.size_histograms: dict[str, Histogram] = {}
        self.messaging: Messaging | None = None
        self.front: Front | None = None
        self.tls: TlsDoor | None = None
        self.http: HandOver | None = None
        self.socketio: SocketIO | None = None
        self.recovery: SocketRecovery | None = None
        self.draining = False
        self.drain: Drain | None = None
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
        self.runtime.sessions_of = messaging.sessions_of
        self.runtime.session_of = messaging.sessions.live
        self.figures["im"] = messaging.stats
        self.figures["storm"] = messaging.storm_stats
        self.figures["sessions"] = messaging.sessions.stats
        self.figures["logins"] = self.entrance.logins.stats
        messaging.sessions.on_end = self.lifecycle.session_ended
        self.lifecycle.admitted = self.entrance.logins.admitted
        self.figures["tiers"] = self.places.stats
        self.figures["cache"] = messaging.cache_stats
        self.histograms["im_ack_latency"] = messaging.ack_latency
        application = self.dispatcher.application
        if application is not None and application.undelivered_handlers:
            messaging.tell_undelivered(Hook("on_undelivered", application.undelivered_handlers, self.spawn))
        self.figures["pressure"] = self.relief.stats
        tables = self.dispatcher.tables
        tables.add_builtins(messaging.builtins)
        tables.add_service("refresh", self.entrance.refresh)
        tables.add_service("hello", self.entrance.hello, native=True)
        for event in ("ok", "error"):
            answered = functools.partial(self.runtime.answered, event=event)
            tables.add_service(event, answered, native=True)
        self.loop.add_reader(self.hub.fileno(), self.poll)
        self._timer_handle = self.loop.call_later(self._tick_s, self._tick)
        self.relief.start()

    def stop(self) -> None:
        """Stop polling and let the hub go; connections that are left are reset."""
        if self._timer_handle is not None:
            self._timer_handle.cancel()
            self._timer_handle = None
        self.relief.stop()
        self.loop.remove_reader(self.hub.fileno())
        self.dispatcher.close()
        self.flusher.stop()
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
        return bool(self._max_sockets) and self.hub.connections >= self._max_sockets

    # -- the loop's side of the hub

    def poll(self) -> None:
        """Take what the sockets brought, serve it, and write what came of it."""
        hub = self.hub
        now_ns = self.clock_ns()
        self.flusher.polling = True
        try:
            if self._serve(self._left, now_ns):
                self._left = iter(hub.poll(now_ns))
                unserved = not self._serve(self._left, now_ns)
            else:
                unserved = True
        finally:
            self.flusher.polling = False
        self.flusher.after_poll(now_ns)
        if unserved or hub.pending:
            self.poll_soon()
        if self.held:
            self.held = {bridge for bridge in self.held if not bridge.read_again()}
        if self.waiting.look():
            self.poll_soon()
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
                elif kind == _ENGINE_TEXT:
                    count += subject.on_text(data, now_ns)
                elif kind == _ENGINE_BINARY:
                    count += subject.on_binary(data, now_ns)
                elif kind == _HEAD:
                    self.front.serve(subject, data[0], data[1], now_ns)  # type: ignore[union-attr]
                    count += self._count_posted()
                elif kind == _CLOSED:
                    self._closed(subject, *data)
                elif kind == _TIMER:
                    if isinstance(subject, TransportOwner):
                        subject.on_timer(now_ns)
                    else:
                        self.timers.check(subject, now_ns)
                elif kind == _DRAINED:
                    self.messaging.on_drained(subject)  # type: ignore[union-attr]
                elif kind == _BODY:
                    subject.received(data)
                    count += self._count_posted()
                elif kind == _ACCEPTED:
                    self.tls.shake_hands(*data)  # type: ignore[union-attr]
            except Exception:
                self._failed(subject)
            if count >= PACKETS_A_LOOK:
                count = 0
                if self.clock_ns() - now_ns > TURN_NS:
                    return False
        return True

    def _count_posted(self) -> int:
        posted, self.posted = self.posted, 0
        return posted

    def _poll_again(self) -> None:
        self._again = False
        if not self._stopped:
            self.poll()

    def _failed(self, subject: object) -> None:
        """Contain a mistake of ours: log it, and end the one connection that it belongs to."""
        log.exception("an event of a connection could not be served")
        if isinstance(subject, Connection):
            self.hub.close(subject.handle, CloseCode.INTERNAL_ERROR, "", self.clock_ns())
        elif isinstance(subject, TransportOwner):
            subject.fail(self.clock_ns())
        else:
            self.hub.abort(subject.handle if isinstance(subject, HttpRequest) else subject)  # type: ignore[arg-type]

    def flush(self) -> None:
        """Write what waits, once to each connection, whatever the window."""
        self.flusher.flush()

    def poll_soon(self) -> None:
        """Poll in the next turn of the loop: a budget left something over, or bytes were fed."""
        if not self._again:
            self._again = True
            self.loop.call_soon(self._poll_again)

    def later(self, delay_s: float, call: Callable[..., object], *arguments: Any) -> None:
        """Call after a delay, unless the hub is shut down by then."""
        self.loop.call_later(delay_s, self._unless_stopped, call, arguments)

    def _unless_stopped(self, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if not self._stopped:
            call(*arguments)

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
            if self.recovery is not None:
                self.recovery.tick(self.clock_ns())
        except Exception:
            log.exception("a tick failed")
        if self.hub.connections == 0:
            self._set_tick(IDLE_TICK_S)

    # -- the end of a connection

    def _closed(
        self, connection: Connection | HttpRequest | TransportOwner, code: int, reason: str, clean: bool
    ) -> None:
        if isinstance(connection, HttpRequest):
            connection.aborted()
            return
        if isinstance(connection, TransportOwner):
            connection.on_closed(code, reason, clean)
            return
        self.ended(connection, code, clean)

    def ended(self, connection: Connection, code: int, clean: bool) -> None:
        """Let a connection go that the hub has let go.

        Args:
            code: What it was closed with, or would have been.
            clean: The client closed it.
        """
        entered = connection.phase in (Phase.STARTING, Phase.READY, Phase.LEAVING)
        if not clean and code in _FAULTS and connection.takes_blame():
            self._offend(connection)
        if self.recovery is not None and isinstance(connection, Socket):
            self.recovery.ended(connection, code)
        connection.phase = Phase.CLOSED
        self.connections.discard(connection)
        if self.messaging is not None:
            self.messaging.detach(connection)
        self.lifecycle.disconnected(connection, entered, reason_of(code, clean))
        if self.socketio is not None and isinstance(connection, Socket):
            self.socketio.left(connection, entered, clean)

    # -- what speaks against a client

    def _watch(self, connection: Connection, code: ErrorCode) -> None:
        """Count an error that was answered, if it is of those that a client in order gives no cause for."""
        if code in _VIOLATIONS:
            self._offend(connection)

    def stranger_closed(self, code: int, address: str) -> None:
        """Count what somebody unknown was closed with, if it speaks against the address."""
        if code in _FAULTS and self.front is not None:
            self.front.admission.offence(address, self.clock_ns())

    def _offend(self, connection: Connection) -> None:
        assert self.front is not None
        admission, address = self.front.admission, self.hub.peer(connection.handle)
        if connection.user is None:
            admission.offence(address, self.clock_ns())
        else:
            admission.violation(connection.user_id, address, self.clock_ns())
