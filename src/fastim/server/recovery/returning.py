"""A client's wish to have its connection back, on its way through the entrance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from fastim.errors import CloseCode, StoreError
from fastim.im.missed import MissedMessage
from fastim.im.session import Status
from fastim.im.sessions import MovedSession, Sessions
from fastim.server.recovery.eventlog import Entry
from fastim.server.recovery.recorder import NativeEvent, Recorder
from fastim.server.recovery.refusals import NotRecovered, Refusal
from fastim.wire import bodies

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.im.messaging import Messaging
    from fastim.server.application.runtime import Runtime
    from fastim.server.connection import Connection
    from fastim.server.recovery.recovery import Claim, Recovery

__all__ = ["Returning"]

OUTBOX_SHARE: Final = 2
"""What was missed may take one part of so many of an outbox; the rest is for what is sent live."""


class Returning:
    """Goes from a claim to a connection that is recovered, or is not.

    The steps are those of the entrance: who is it (``check``), the session (``moved``), what was missed
    (``gather``); then, in the same turn of the loop, the answer (``take``) and what was missed (``replay``);
    at the end, whatever came of it, ``release``. What fails leaves a client that gets a new connection.

    Args:
        recovery: What is known.
        recorder: Told what waits while what was missed is put together.
        runtime: Has the application's rooms.
        messaging: Has the messages.
        claim: What the client shows.
        serves_messaging: Whether messages are sent in its namespace.
    """

    __slots__ = (
        "_claim",
        "_events",
        "_messages",
        "_messaging",
        "_recorder",
        "_recovery",
        "_runtime",
        "_serves_messaging",
        "recovered",
    )

    def __init__(
        self,
        recovery: Recovery,
        recorder: Recorder,
        runtime: Runtime,
        messaging: Messaging,
        claim: Claim,
        *,
        serves_messaging: bool,
    ) -> None:
        self._recovery = recovery
        self._recorder = recorder
        self._runtime = runtime
        self._messaging = messaging
        self._claim: Claim | None = claim
        self._serves_messaging = serves_messaging
        self._events: list[Entry] = []
        self._messages: list[MissedMessage] = []
        self.recovered = False
        """All that was missed is at hand."""

    # -- on the way

    def check(self, connection: Connection, claims: Claims | None, hello: bodies.Hello) -> bodies.Hello:
        """Ask whether the old connection is this client's; see ``Recovery.check``.

        Returns:
            What the client would say to have its session back; what it says if it is not.
        """
        claim, user = self._claim, "" if claims is None else claims.user
        if claim is None:
            return hello
        device = claims.device if claims is not None and claims.device is not None else hello.device
        try:
            self._recovery.check(claim, user, device)
        except NotRecovered as no:
            self._give_up(no.refusal, None)
            return hello
        pid = claim.pid
        if not self._has_session(claim):
            self._give_up(Refusal.SESSION, claim)
            return hello
        if claim.track is not None:  # what is sent to it from now on waits in the log
            self._recorder.returning.add(connection)
        if not user:
            connection.session_id = pid.session
        return bodies.Hello(
            token=hello.token,
            device=pid.device or None,
            acks=hello.acks,
            resume=bodies.Resume(pid.session, {}),
        )

    def _has_session(self, claim: Claim) -> bool:
        """Whether its messaging session can still be resumed, where this process has it."""
        pid, track = claim.pid, claim.track
        if track is None or track.is_from_before or not pid.user:
            return True
        return self._messaging.sessions.find(pid.session, pid.user, pid.device) is not None

    def release(self, connection: Connection) -> None:
        """It is in, or it is not: nothing is held back for it any more."""
        self._recorder.returning.discard(connection)

    @property
    def sid(self) -> str:
        """The id of the connection that is wanted back."""
        assert self._claim is not None
        return self._claim.pid.sid

    @property
    def is_wanted(self) -> bool:
        """Whether it may still be recovered."""
        return self._claim is not None

    @property
    def skips_middleware(self) -> bool:
        """Whether the application's middleware has let it in before."""
        return self._claim is not None and self._recovery.options.skips_middleware

    @property
    def moved(self) -> MovedSession | None:
        """Its session, where another process has had it."""
        claim = self._claim
        if claim is None or (claim.track is not None and not claim.track.is_from_before):
            return None
        return MovedSession(claim.pid.session, Status.ONLINE, None)

    async def gather(self, connection: Connection, outbox_bytes: int) -> None:
        """Put together what was missed.

        Args:
            connection: It has its session, and is sent nothing yet.
            outbox_bytes: What it may be sent at a time.
        """
        claim = self._claim
        if claim is None:
            return
        try:
            if connection.session_id != claim.pid.session:
                raise NotRecovered(Refusal.SESSION)
            if self._serves_messaging and connection.user is not None:
                self._messages = await self._missed_messages(connection, claim)
            self._events = self._missed_events(connection, claim)
            self._check_size(connection, outbox_bytes)
        except NotRecovered as no:
            self._give_up(no.refusal, claim)
            if connection.user is None:  # its old session may have a connection still
                connection.session_id = Sessions.new_id()
        except StoreError:
            self._give_up(Refusal.STORE, claim)
        else:
            self.recovered = True

    async def _missed_messages(self, connection: Connection, claim: Claim) -> list[MissedMessage]:
        messaging, is_from_before = self._messaging, claim.track is None or claim.track.is_from_before
        # What changed in an earlier process is not known any more, only that something did.
        if is_from_before and await messaging.changed_since(connection, claim.place.change):
            raise NotRecovered(Refusal.RESTART)
        messages = await messaging.missed(connection, claim.place.key)
        if messages is None:
            raise NotRecovered(Refusal.MESSAGES)
        return messages

    def _missed_events(self, connection: Connection, claim: Claim) -> list[Entry]:
        entries = self._recovery.missed_events(claim)
        if not self._serves_messaging:
            return entries
        for change, packet in self._messaging.changes(connection, claim.place.number):
            packets = (None, packet) if connection.encoding else (packet, None)
            entries.append(Entry(change.number, change.key, NativeEvent(packets), (), 0, 0))
        entries.sort(key=lambda entry: entry.number)
        return entries

    def _check_size(self, connection: Connection, outbox_bytes: int) -> None:
        """Ask whether what was missed may be queued at once.

        Raises:
            NotRecovered: It is too much.
        """
        size = sum(entry.event.size_for(connection.encoding) for entry in self._events)
        size += sum(len(message.packet) for message in self._messages)
        room = outbox_bytes // OUTBOX_SHARE - connection.hub.queued_bytes(connection.handle)
        if size > min(room, self._recovery.options.replay_bytes):
            raise NotRecovered(Refusal.SIZE)

    def _give_up(self, refusal: Refusal, claim: Claim | None) -> None:
        self._claim = None
        self._recovery.refuse(refusal, claim)

    # -- in

    def take(self, connection: Connection) -> str:
        """Give the connection back; returns its private id.

        Args:
            connection: It has its old id.
        """
        claim = self._claim
        assert claim is not None
        track = claim.track
        before: Any = track.connection if track is not None else None
        data = track.data if track is not None else None
        taken = self._recovery.take(claim, connection)
        if data is not None:
            self._runtime.data[connection.session_id] = data
        if before is not None:
            if not claim.pid.user:
                before.session_id = ""  # what is kept with it is this connection's now
            before.close(CloseCode.REPLACED, "recovered elsewhere", self._runtime.clock_ns())
        for name in self._rooms(taken.rooms, connection.namespace):
            self._runtime.rooms.join(connection, name)
        return claim.text

    @staticmethod
    def _rooms(rooms: Any, namespace: str) -> Iterator[str]:
        for room in rooms:
            if isinstance(room, tuple) and room[0] == namespace and room[1] is not None:
                yield room[1]

    def replay(self, connection: Connection) -> None:
        """Send what was missed; what is sent from now on comes behind it."""
        claim, hub = self._claim, connection.hub
        assert claim is not None
        for what, offset in self._recovery.merged(claim, self._events, self._messages):
            if isinstance(what, Entry):
                what.event.send(hub, connection, offset)
            else:
                packets = (None, what.packet) if connection.encoding else (what.packet, None)
                hub.send_many((connection.handle,), *packets, offset=offset)
