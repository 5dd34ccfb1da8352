"""The recorder: gives events that go out their offsets, and keeps them for who may miss them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Hub, Lane
from fastim.im.journal import Journal
from fastim.server.application.outgoing import JSON, MSGPACK
from fastim.server.recovery.recovery import Recovery, everybody, room_of, user_room
from fastim.server.recovery.restarts import EVERY_NAMESPACE
from fastim.wire.native import encode_packet

if TYPE_CHECKING:
    from fastim.im.session import Session
    from fastim.server.application.outgoing import Outgoing
    from fastim.server.connection import Connection
    from fastim.server.recovery.eventlog import Room
    from fastim.wire.socketio import Written

__all__ = ["NativeEvent", "Recorder", "RenderedEvent"]

log = logging.getLogger("fastim.recovery")

_NORMAL: Final = int(Lane.NORMAL)


class RenderedEvent:
    """An application's event as Socket.IO packets, one for each parser, with its offset in it."""

    __slots__ = ("forms",)

    def __init__(self, forms: tuple[Written | None, Written | None]) -> None:
        self.forms = forms

    @property
    def size(self) -> int:
        """What it holds."""
        return self.size_for(JSON) + self.size_for(MSGPACK)

    def size_for(self, encoding: int) -> int:
        """What one client gets of it."""
        form = self.forms[encoding]
        return 0 if form is None else len(form[0]) + sum(map(len, form[1]))

    def send(self, hub: Hub, connection: Connection, offset: bytes) -> None:
        """Send it again."""
        form = self.forms[connection.encoding]
        if form is not None:
            hub.send_rendered(connection.handle, *form)


class NativeEvent:
    """An event of the domain as native packets, which the hub renders; one for each encoding, or None."""

    __slots__ = ("packets",)

    def __init__(self, packets: tuple[bytes | None, bytes | None]) -> None:
        self.packets = packets

    @property
    def size(self) -> int:
        """What it holds."""
        return self.size_for(JSON) + self.size_for(MSGPACK)

    def size_for(self, encoding: int) -> int:
        """What one client gets of it."""
        return len(self.packets[encoding] or b"")

    def send(self, hub: Hub, connection: Connection, offset: bytes) -> None:
        """Send it again."""
        hub.send_many((connection.handle,), *self.packets, offset=offset)


class Recorder(Journal):
    """Records what applications and the domain send.

    An application's first event in a namespace waits until the store knows that there are any, for then the
    namespace's connections cannot be recovered by a process that comes after this one has broken off.

    Args:
        recovery: Where it is kept.
        use: Notes that an application sends in a namespace; calls the second argument once it is noted.
        matters: Whether that has to be noted of a namespace: not where a process that broke off takes all
            connections with it, as in those that a pattern covers.
    """

    def __init__(
        self,
        recovery: Recovery,
        use: Callable[[str, Callable[[], None]], None],
        matters: Callable[[str], bool] = lambda namespace: True,
    ) -> None:
        self._recovery = recovery
        self._use = use
        self._matters = matters
        self._used: set[str] = set()
        self._waiting: dict[str, list[Callable[[], object]]] = {}
        self.returning: set[Session] = set()
        """Connections that are being recovered: what is sent to them now comes with what they missed."""

    # -- an application's events

    def start(self, used: Iterable[str]) -> None:
        """Begin; of these namespaces the store knows."""
        self._used.update(used)

    def hold_back(self, namespace: str, call: Callable[..., object], *arguments: Any) -> bool:
        """Wait with a call that sends events in a namespace; False: there is nothing to wait for."""
        if namespace in self._used or EVERY_NAMESPACE in self._used:
            return False
        if namespace != EVERY_NAMESPACE and not self._matters(namespace):
            return False
        calls = self._waiting.get(namespace)
        if calls is None:
            calls = self._waiting[namespace] = []
            self._use(namespace, partial(self._go_on, namespace))
        calls.append(partial(call, *arguments))
        return True

    def _go_on(self, namespace: str) -> None:
        self._used.add(namespace)
        for call in self._waiting.pop(namespace):
            try:
                call()
            except Exception:  # its caller has gone on; those behind it are others'
                log.exception("an event that waited cannot be sent")

    def to_names(
        self,
        outgoing: Outgoing,
        lane: int,
        namespace: str,
        to: Sequence[str] | None,
        skip: Sequence[str] = (),
    ) -> None:
        """Record an event that is about to be sent to rooms and sids of a namespace; None: to everybody."""
        if to is None:
            rooms = [everybody(namespace)]
        else:
            rooms = [room for name in to for room in self._rooms_of(namespace, name)]
        self._record(outgoing, lane, rooms, skip)

    def _rooms_of(self, namespace: str, name: str) -> Iterable[Room]:
        """What a name means: the connection of that sid; a room, where no such connection is there now."""
        address = self._recovery.address(name, namespace)
        if address is None:
            return (room_of(namespace, name),)
        track = self._recovery.tracks.get(name)
        if track is None or track.connection is not None:
            return (address,)
        return (address, room_of(namespace, name))

    def to_users(self, outgoing: Outgoing, users: Iterable[str], sids: Iterable[str]) -> None:
        """Record an event that is about to be sent to users and to connections."""
        addresses = (self._recovery.address(sid) for sid in sids)
        rooms = [*map(user_room, users), *(address for address in addresses if address is not None)]
        self._record(outgoing, _NORMAL, rooms, ())

    def _record(self, outgoing: Outgoing, lane: int, rooms: Iterable[Room], skip: Sequence[str]) -> None:
        recovery = self._recovery
        if lane != _NORMAL:
            outgoing.mark(None)
            return
        held = [room for room in rooms if recovery.log.is_held(room)]
        if not held:
            return
        skipped = tuple(address for sid in skip if (address := recovery.address(sid)) is not None)
        outgoing.mark(recovery.count())
        parsers = recovery.tracks.encodings
        event = RenderedEvent(
            (
                outgoing.socketio(JSON) if parsers[JSON] else None,
                outgoing.socketio(MSGPACK) if parsers[MSGPACK] else None,
            )
        )
        recovery.keep(held, event, event.size, skipped)

    def forget(self, namespace: str, sid: str) -> None:
        """A connection that is gone, though its end may not have been told yet, must not come back."""
        track = self._recovery.tracks.get(sid)
        if track is not None and track.pid.namespace == namespace:
            self._recovery.tracks.remove(track)

    # -- rooms

    def join(self, connection: Connection, name: str) -> None:
        """A connection has come into a room."""
        if not connection.native:
            self._recovery.join(connection, room_of(connection.namespace, name))

    def leave(self, connection: Connection, name: str) -> None:
        """A connection has left a room."""
        if not connection.native:
            self._recovery.leave(connection, room_of(connection.namespace, name))

    # -- the domain's journal

    def message_offset(self, key: int) -> bytes:
        """See ``Journal``."""
        return self._recovery.message_offset(key)

    def keep_for(self, user: str, event: str, body: Mapping[str, Any], exclude: Session | None) -> bytes:
        """See ``Journal``."""
        recovery = self._recovery
        room = user_room(user)
        if not recovery.log.is_held(room):
            return b""
        skip: tuple[Room, ...] = ()
        if exclude is not None and (address := recovery.address(getattr(exclude, "sid", ""))) is not None:
            skip = (address,)
        offset = recovery.count()
        parsers = recovery.tracks.encodings
        kept = NativeEvent(
            (
                encode_packet(event, body, JSON) if parsers[JSON] else None,
                encode_packet(event, body, MSGPACK) if parsers[MSGPACK] else None,
            )
        )
        recovery.keep((room,), kept, kept.size, skip)
        return offset.encode()

    def change(self) -> tuple[int, bytes]:
        """See ``Journal``."""
        offset = self._recovery.count()
        return self._recovery.log.number, offset.encode()

    def is_waiting(self, session: Session) -> bool:
        """See ``Journal``."""
        return session in self.returning
