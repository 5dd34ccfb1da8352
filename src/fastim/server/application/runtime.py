"""What an application's calls do: events, rooms and questions to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from fastim._core.hub import Hub, Lane
from fastim.server.application.namespaces import ROOT
from fastim.server.application.outgoing import Outgoing, check_name, native_packet
from fastim.server.application.questions import Answers, Questions
from fastim.server.application.rooms import Room, Rooms
from fastim.server.application.sids import handle_of
from fastim.server.connection import Connection, Phase
from fastim.server.recovery.restarts import EVERY_NAMESPACE

if TYPE_CHECKING:
    from fastim.im.session import Session
    from fastim.server.application.notices import Notice, Notices
    from fastim.server.recovery.recorder import Recorder

__all__ = ["Runtime"]

T = TypeVar("T")
# Compared with for every event: plain ints.
_STARTING: Final = int(Phase.STARTING)
_IN: Final = (_STARTING, int(Phase.READY))
_NORMAL: Final = int(Lane.NORMAL)


class Runtime:
    """Carries out what handlers ask for.

    A value that the protocol cannot carry raises ValueError, in the handler that sends it.

    **Thread**: the loop's, but for ``on_loop`` and ``blocking``.

    Attributes:
        sessions_of: The live sessions of a user.
        session_of: The live session of an id; None: there is none.
        sids: Connections that neither a session of the domain's nor their sid itself leads to, by their sid.
        data: What applications keep with sessions, by their id.
        recorder: Told what is sent, for clients that come back; None: none does.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: Hub, clock_ns: Callable[[], int]) -> None:
        self.loop = loop
        self.clock_ns = clock_ns
        self.hub = hub
        self.rooms = Rooms(hub)
        self.questions = Questions()
        self.sessions_of: Callable[[str], Iterable[Session]] = lambda user: ()
        self.session_of: Callable[[str], Session | None] = lambda session_id: None
        self.sids: dict[str, Connection] = {}
        self.data: dict[str, dict[str, Any]] = {}
        self.codes: dict[str, int] = {}
        self.notices: Notices | None = None
        self.recorder: Recorder | None = None
        self._thread = get_ident()

    # -- threads

    def on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call on the loop's thread: at once if this is it, else soon."""
        if get_ident() == self._thread:
            call(*arguments)
        else:
            self.loop.call_soon_threadsafe(call, *arguments)

    def blocking(self, coroutine: Coroutine[Any, Any, T], instead: str) -> T:
        """Wait on another thread for what a coroutine on the loop's comes to.

        Raises:
            RuntimeError: This is the loop's thread; ``instead`` says what to call here.
        """
        if get_ident() == self._thread:
            coroutine.close()
            raise RuntimeError(f"it would block the loop; {instead} here")
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def from_loop(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a call on the loop's thread returns; another thread waits for it."""
        if get_ident() == self._thread:
            return call(*arguments)

        async def ask() -> T:
            return call(*arguments)

        return asyncio.run_coroutine_threadsafe(ask(), self.loop).result()

    # -- one connection

    def outgoing(self, event: str, args: Sequence[Any], connection: Connection | None = None) -> Outgoing:
        """Make an event; on another thread than the loop's it is encoded at once, for its mistakes to show.

        Args:
            event: Its name.
            args: Its values.
            connection: For which one it is; None: for many.

        Raises:
            TypeError: Its name is no string.
            ValueError: Its name is empty or reserved, or the protocol cannot carry a value.
        """
        outgoing = Outgoing(event, args, self.codes)
        if get_ident() != self._thread:
            outgoing.check(connection)
        return outgoing

    def emit(self, connection: Connection, event: str, args: Sequence[Any], lane: int) -> None:
        """Send an event to a connection; nothing happens if it is gone.

        **Thread**: any.

        Raises:
            TypeError: Its name is no string.
            ValueError: Its name is empty or reserved, or the protocol cannot carry a value.
            RuntimeError: The connection is not in yet.
        """
        if connection.phase < _STARTING:
            raise RuntimeError("the connection is not in yet; on_connect is the first that can send to it")
        if not connection.native or get_ident() != self._thread:
            self.on_loop(self._send_one, self.outgoing(event, args, connection), connection, lane)
            return
        check_name(event)
        packet = native_packet(event, args, self.codes, connection.encoding)
        self.hub.send(connection.handle, packet, lane)

    def _send_one(self, outgoing: Outgoing, connection: Connection, lane: int) -> None:
        recorder = self.recorder
        if recorder is not None and not connection.native:
            namespace = connection.namespace
            if recorder.hold_back(namespace, self._send_one, outgoing, connection, lane):
                return
            recorder.to_names(outgoing, lane, namespace, (connection.sid,))
        outgoing.send(connection, lane)

    def join(self, connection: Connection, room: str) -> None:
        """Put a connection into a room; see ``Rooms.join``."""
        if connection.phase < _STARTING:
            raise RuntimeError("the connection is not in yet; on_connect is the first that can join rooms")
        self.rooms.join(connection, room)
        if self.recorder is not None:
            self.recorder.join(connection, room)

    def leave(self, connection: Connection, room: str) -> None:
        """Take a connection out of a room."""
        if self.recorder is not None:
            self.recorder.leave(connection, room)
        self.rooms.leave(connection, room)

    def join_sid(self, namespace: str, sid: str, room: str) -> None:
        """Put the connection of a sid into a room; nothing happens if it is not there."""
        found = self.find(namespace, sid)
        if found is not None:
            self.join(found, room)

    def leave_sid(self, namespace: str, sid: str, room: str) -> None:
        """Take the connection of a sid out of a room; nothing happens if it is not there."""
        found = self.find(namespace, sid)
        if found is not None:
            self.leave(found, room)

    def close_room(self, namespace: str, name: str) -> None:
        """Take everybody out of a room."""
        room = self.rooms.find(namespace, name)
        for connection in self.rooms.members(room) if room is not None else ():
            self.leave(connection, name)

    def members(self, namespace: str, name: str) -> list[str]:
        """Return the sids of who is in a room."""
        room = self.rooms.find(namespace, name)
        return [connection.sid for connection in self.rooms.members(room)] if room is not None else []

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """Close a connection after what was sent to it before."""
        connection.close(code, reason, self.clock_ns())

    def disconnect_sid(self, namespace: str, sid: str, transport: bool) -> None:
        """End the connection of a sid for good, be it there or able to come back."""
        found = self.find(namespace, sid)
        if found is not None:
            self.disconnect(found, transport)
        elif self.recorder is not None:
            self.recorder.forget(namespace, sid)

    def disconnect(self, connection: Connection | None, transport: bool) -> None:
        """End a connection for good; None: it is gone already."""
        if connection is not None:
            connection.disconnect(transport, self.clock_ns())

    def round_trip_ms(self, connection: Connection) -> float | None:
        """Return how long a connection's latest ping took to be answered; None: it is not known."""
        return self.hub.round_trip_ns(connection.handle) / 1_000_000 or None

    def entered(self, connection: Connection) -> None:
        """A connection is in."""
        self.rooms.entered(connection)
        if connection.context is not None:
            connection.context.entered()
        sid = connection.sid
        if self._reach(sid) is not connection:
            self.sids[sid] = connection

    def left(self, connection: Connection) -> None:
        """A connection is gone."""
        self.rooms.leave_all(connection)
        if self.sids.get(connection.sid) is connection:
            del self.sids[connection.sid]
        if connection.user is None:  # nobody comes back for it
            self.data.pop(connection.session_id, None)

    def find(self, namespace: str, sid: str) -> Connection | None:
        """Return the connection of a sid, if it is in the namespace."""
        found = self.sids.get(sid) or self._reach(sid)
        if not isinstance(found, Connection) or found.sid != sid or found.namespace != namespace:
            return None
        return found if found.phase in _IN else None

    def _reach(self, sid: str) -> object:
        """Return whom a sid leads to by itself; whether it is his is the caller's to see."""
        handle = handle_of(sid)
        return self.session_of(sid) if handle is None else self.hub.owner(handle)

    # -- many

    def send(self, outgoing: Outgoing, users: Iterable[str], connections: Iterable[int]) -> None:
        """Send an event to all devices of users, and to connections; to each once."""
        recorder = self.recorder
        if recorder is not None and recorder.hold_back(
            EVERY_NAMESPACE, self.send, outgoing, users, connections
        ):
            return
        users = tuple(users)
        owners = [self.hub.owner(handle) for handle in connections]
        named = [each for each in owners if isinstance(each, Connection) and each.phase in _IN]
        if recorder is not None:
            recorder.to_users(outgoing, users, [connection.sid for connection in named])
        for user in users:
            sessions = cast(Iterable[Connection], self.sessions_of(user))  # the domain's name for them
            named += [session for session in sessions if session.phase in _IN]
        self.rooms.send(named, outgoing, _NORMAL)

    def send_to(self, sessions: Iterable[Session], event: str, body: Any) -> int:
        """Send an event to sessions that are there, to each once; returns to how many."""
        connections = cast(Iterable[Connection], sessions)
        return self.rooms.send(connections, Outgoing(event, (body,), self.codes), _NORMAL)

    def broadcast(self, name: str, outgoing: Outgoing, exclude: Connection | None) -> None:
        """Send an event to a room of the root."""
        recorder = self.recorder
        if recorder is not None:
            if recorder.hold_back(ROOT, self.broadcast, name, outgoing, exclude):
                return
            recorder.to_names(outgoing, _NORMAL, ROOT, (name,), () if exclude is None else (exclude.sid,))
        room = self.rooms.find(ROOT, name)
        if room is not None:
            self.rooms.publish(room, outgoing, exclude, _NORMAL)

    def emit_to(
        self,
        outgoing: Outgoing,
        namespace: str,
        to: Sequence[str] | None,
        skip: Sequence[str],
        lane: int,
    ) -> None:
        """Send an event to rooms and sids of a namespace, to each connection once.

        Args:
            to: None: to everybody.
            skip: Sids of those who do not get it.
        """
        recorder = self.recorder
        if recorder is not None:
            if recorder.hold_back(namespace, self.emit_to, outgoing, namespace, to, skip, lane):
                return
            recorder.to_names(outgoing, lane, namespace, to, skip)
        rooms, connections = self._resolve(namespace, to)
        skipped = [found for sid in skip if (found := self.find(namespace, sid)) is not None]
        if len(rooms) == 1 and not connections and len(skipped) <= 1:
            self.rooms.publish(rooms[0], outgoing, skipped[0] if skipped else None, lane)
        elif len(connections) == 1 and not rooms and not skipped:
            outgoing.send(connections[0], lane)
        elif rooms or connections:
            self.rooms.send(self._union(rooms, connections, skipped), outgoing, lane)

    def _resolve(self, namespace: str, to: Sequence[str] | None) -> tuple[list[Room], list[Connection]]:
        """Return the rooms and the connections that names mean; a sid comes before a room of its name."""
        rooms: list[Room] = []
        connections: list[Connection] = []
        for name in (None,) if to is None else to:
            connection = None if name is None else self.find(namespace, name)
            if connection is not None:
                connections.append(connection)
            elif (room := self.rooms.find(namespace, name)) is not None:
                rooms.append(room)
        return rooms, connections

    def _union(
        self, rooms: Sequence[Room], connections: Iterable[Connection], skipped: Iterable[Connection]
    ) -> list[Connection]:
        found = dict.fromkeys(connections)
        for room in rooms:
            found |= dict.fromkeys(self.rooms.members(room))
        for connection in skipped:
            found.pop(connection, None)
        return list(found)

    def system(self, notice: Notice) -> None:
        """Send a notice; see ``FastIM.system``."""
        assert self.notices is not None
        self.notices.send_soon(notice)

    # -- questions to clients

    async def ask(self, connection: Connection, event: str, args: Sequence[Any], timeout_s: float) -> Any:
        """Ask a connection; see ``Context.call``."""
        self._check_loop()
        if connection.phase < _STARTING:
            raise RuntimeError("the connection is not in yet; on_connect is the first that can ask it")
        return await self.questions.ask(connection, event, args, self.codes, timeout_s)

    async def call(
        self,
        event: str,
        args: Sequence[Any],
        namespace: str,
        to: Sequence[str] | None,
        skip: Sequence[str],
        timeout_s: float,
        single: bool,
    ) -> Any:
        """Ask a sid, or all in rooms; see ``FastIM.call``.

        Args:
            single: ``to`` is one name, not a list: somebody has to be there.
        """
        self._check_loop()
        if single and to is not None and (found := self.find(namespace, to[0])) is not None:
            return await self.ask(found, event, args, timeout_s)
        rooms, connections = self._resolve(namespace, to)
        if single and not rooms:
            raise ConnectionError(
                "to: neither the sid of somebody who is there nor a room with anybody in it"
            )
        skipped = [found for sid in skip if (found := self.find(namespace, sid)) is not None]
        everyone = self._union(rooms, connections, skipped)
        if not everyone:
            return Answers([], [])
        return await self.questions.ask_all(everyone, event, args, self.codes, timeout_s, self.rooms.send)

    def _check_loop(self) -> None:
        if get_ident() != self._thread:
            raise RuntimeError("it is awaited on the server's loop; in a thread call what ends in _blocking")

    def answered(self, connection: Connection, body: Any, ref: int | None, event: str) -> None:
        """Take a client's ``ok`` or ``error``; see ``Questions.answered``."""
        self.questions.answered(connection, body, ref, event)

    # -- what applications keep

    def data_of(self, connection: Connection) -> dict[str, Any]:
        """Return what is kept with a connection's session; once that is gone, a place for now."""
        session_id = connection.session_id
        kept = self.data.get(session_id)
        if kept is None:
            kept = {}
            is_kept = connection.user is None or self.session_of(session_id) is connection
            if session_id and is_kept and connection.phase < Phase.CLOSED:
                kept = self.data.setdefault(session_id, kept)
        return kept
