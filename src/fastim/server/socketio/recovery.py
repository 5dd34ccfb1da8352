"""Connection state recovery of Socket.IO: a client that comes back soon has its socket back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from fastim.errors import CloseCode, StoreError
from fastim.guard.pids import Pids
from fastim.server.connection import Phase
from fastim.server.recovery.leaving import left_behind, take_over
from fastim.server.recovery.offsets import new_epoch
from fastim.server.recovery.recorder import Recorder
from fastim.server.recovery.recovery import PID_LIFE_MS, Recovery
from fastim.server.recovery.refusals import NotRecovered
from fastim.server.recovery.restarts import EVERY_NAMESPACE, Restarts
from fastim.server.recovery.returning import Returning
from fastim.server.recovery.tracks import Track
from fastim.server.socketio.connecting import FINAL_CODES

if TYPE_CHECKING:
    from fastim.im.messaging import Messaging
    from fastim.server.application.app import FastIM
    from fastim.server.application.namespaces import Namespace
    from fastim.server.recovery.options import RecoveryOptions
    from fastim.server.service import Service
    from fastim.server.socketio.socket import Socket
    from fastim.store.base import Store
    from fastim.wire.bodies import Hello

__all__ = ["SocketRecovery", "note_start"]

log = logging.getLogger("fastim.recovery")

MS_PER_S: Final = 1_000


class SocketRecovery:
    """What CONNECT asks about recovery, and what recovery is told of sockets.

    Args:
        service: Whose sockets they are.
        messaging: Has the messages that they missed.
        store: Knows the processes before this one.
        pids: Signs and opens private ids.
        options: See ``RecoveryOptions``.
    """

    def __init__(
        self, service: Service, messaging: Messaging, store: Store, pids: Pids, options: RecoveryOptions
    ) -> None:
        self._service = service
        self._messaging = messaging
        self._store = store
        self._pids = pids
        self._recovery = Recovery(
            options,
            pids,
            clock_ns=service.clock_ns,
            time_ms=self._now_ms,
            last_key=lambda: messaging.last_key,
            last_change=lambda: store.last_change,
        )
        self._recorder = Recorder(self._recovery, self._use, service.dispatcher.tables.is_named)
        self.stats: Callable[[], Mapping[str, int]] = self._recovery.stats

    def _now_ms(self) -> int:
        return int(self._service.time_s() * MS_PER_S)

    # -- the life of the process

    async def start(self) -> None:
        """Go on where the process before ended in order; else note that another one begins."""
        service, recovery = self._service, self._recovery
        used = used_namespaces(service.dispatcher.application)
        now_ms = self._now_ms()
        try:
            left = await self._store.take_left_behind()
            if left is not None:
                take_over(recovery, self._pids, left, service.clock_ns(), now_ms)
            known = await self._store.begin_epoch(recovery.epoch, used, now_ms, now_ms - PID_LIFE_MS)
        except StoreError as error:
            # What the store does not know of this process it does not say of it later.
            log.warning("connections will not be recovered after a restart: %s", error)
            used = [EVERY_NAMESPACE]
            for track in list(recovery.tracks):
                recovery.tracks.remove(track)
            recovery.epoch = new_epoch()
        else:
            until_ns = service.clock_ns() + recovery.options.life_ns
            recovery.restarts = Restarts(known.starts, known.used, until_ns)
        self._recorder.start(used)
        service.runtime.recorder = self._recorder
        self._messaging.keep_journal(self._recorder)

    async def stop(self) -> None:
        """Leave what the next process needs to go on; nothing is sent any more."""
        recovery, data = self._recovery, self._service.runtime.data
        for track in list(recovery.tracks):
            if track.connection is not None:
                self.ended(cast("Socket", track.connection), CloseCode.GOING_AWAY)

        def data_of(track: Track) -> Mapping[str, Any] | None:
            return track.data if track.data is not None else data.get(track.pid.session)

        left = left_behind(recovery, data_of, self._service.clock_ns(), self._now_ms())
        try:
            await self._store.leave_behind(left)
        except StoreError as error:
            log.warning("the connections of this process will not be recovered: %s", error)

    def _use(self, namespace: str, then: Callable[[], None]) -> None:
        if self._recovery.restarts is not None:
            self._recovery.restarts.use(namespace)
        self._service.spawn(self._note_use(namespace, then))

    async def _note_use(self, namespace: str, then: Callable[[], None]) -> None:
        try:
            await self._store.use_namespace(namespace, self._recovery.epoch)
        except StoreError as error:
            log.warning("not noted that the application sends in %s: %s", namespace, error)
        then()

    def tick(self, now_ns: int) -> None:
        """Forget what is too old."""
        self._recovery.tick(now_ns)

    # -- CONNECT

    def returning(self, socket: Socket, hello: Hello, auth: dict[str, Any]) -> Returning | None:
        """Return a client's wish to have a socket back; None: it has none, or it cannot be granted.

        Args:
            socket: The new one.
            hello: What the client says; one that resumes a session by itself needs nothing else.
            auth: What it came with; what the client's library has put into it is taken out.
        """
        pid = auth.pop("pid", None)
        if pid is None:
            return None  # and an offset is the application's own
        offset = auth.pop("offset", None)
        if hello.resume is not None:
            return None
        try:
            claim = self._recovery.claim(socket.namespace, socket.encoding, pid, offset)
        except NotRecovered as no:
            self._recovery.refuse(no.refusal)
            return None
        return Returning(
            self._recovery,
            self._recorder,
            self._service.runtime,
            self._messaging,
            claim,
            serves_messaging=self._service.dispatcher.tables.serves_messaging(socket.namespace),
        )

    def begin(self, socket: Socket, returning: Returning | None) -> str:
        """Give a socket that is in its id, and return its private one."""
        if returning is not None and returning.recovered:
            socket.sid = returning.sid
            socket.recovered = True
            return returning.take(socket)
        is_named = self._service.dispatcher.tables.is_named(socket.namespace)
        return self._recovery.begin(socket, complete=socket.replay is None and is_named)

    # -- the end of a socket

    def ended(self, socket: Socket, code: int) -> None:
        """A socket ends; called before it is forgotten."""
        for_good = socket.phase == Phase.LEAVING and code in FINAL_CODES
        if for_good or socket.replay is not None:
            self.disconnected(socket)
        else:
            self._gone(socket)

    def _gone(self, socket: Socket) -> None:
        data = self._service.runtime.data.get(socket.session_id)
        self._recovery.gone(socket, may_return=True, data=data, keeps=socket.user is None)

    def disconnected(self, socket: Socket) -> None:
        """Its client has left it for good."""
        self._recovery.gone(socket, may_return=False)


async def note_start(store: Store, application: FastIM | None) -> None:
    """Note that a process begins that recovers nothing: what it sends cannot be told to anybody later."""
    now_ms = time.time_ns() // 1_000_000
    used = [] if application is None else [EVERY_NAMESPACE]
    try:
        await store.take_left_behind()
        await store.begin_epoch(new_epoch(), used, now_ms, now_ms - PID_LIFE_MS)
    except StoreError as error:
        log.warning("not noted that a process begins: %s", error)


def used_namespaces(application: FastIM | None) -> list[str]:
    """The namespaces in which an application has its part: rooms, what it keeps with sessions, its events."""
    namespaces = application.namespaces.values() if application is not None else ()
    return [
        namespace.pattern
        for namespace in namespaces
        if isinstance(namespace.pattern, str) and _has_handlers(namespace)
    ]


def _has_handlers(namespace: Namespace) -> bool:
    return bool(
        namespace.handlers
        or namespace.catch_all
        or namespace.connect_handlers
        or namespace.disconnect_handlers
        or namespace.middlewares
    )
