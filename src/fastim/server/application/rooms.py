"""Rooms: who gets what is sent to one. They are topics of the hub, each in its namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from fastim._core.hub import Hub
from fastim.server.application.outgoing import FORMS, JSON, MSGPACK, Outgoing, form_of
from fastim.server.connection import Connection, Phase

__all__ = ["Room", "Rooms", "check_room"]

MAX_JOINED: Final = 1_024
_IN: Final = (Phase.STARTING, Phase.READY)


def check_room(name: object) -> str:
    """Return a name that is one.

    Raises:
        TypeError: It is no string.
    """
    if not isinstance(name, str):
        raise TypeError(f"room: a string, not {type(name).__name__}")
    return name


class Room:
    """A room while somebody is in it.

    Attributes:
        namespace, name: A name of None: everybody in the namespace.
        number: Of its topic.
        counts: How many members take each form of what is sent.
        alone: The rooms of those who are in no other: one tuple for all of them.
    """

    __slots__ = ("alone", "counts", "name", "namespace", "number")

    def __init__(self, namespace: str, name: str | None, number: int) -> None:
        self.namespace = namespace
        self.name = name
        self.number = number
        self.counts = [0] * FORMS
        self.alone: tuple[Room, ...] = (self,)


class Rooms:
    """All rooms of an application.

    Args:
        hub: Where their topics are.
    """

    def __init__(self, hub: Hub) -> None:
        self.connections: Callable[[], Iterable[Connection]] = tuple
        """All connections."""
        self._hub = hub
        self._rooms: dict[tuple[str, str | None], Room] = {}
        self._joined: set[str] = set()  # namespaces whose members are in its room of all, should there be any

    def __len__(self) -> int:
        return len(self._rooms)

    def find(self, namespace: str, name: str | None) -> Room | None:
        """Return a room; None: nobody is in it."""
        if name is None and namespace not in self._joined:
            self._join_all(namespace)
        return self._rooms.get((namespace, name))

    def _join_all(self, namespace: str) -> None:
        """Make the room of all in a namespace: most applications never send to all of them."""
        if len(self._joined) >= MAX_JOINED:
            self._joined.clear()  # the rooms stay as long as somebody is in them
        self._joined.add(namespace)
        for connection in self.connections():
            if connection.namespace == namespace and connection.phase in _IN:
                self.join(connection, None)

    def entered(self, connection: Connection) -> None:
        """A connection is in: it gets what is sent to everybody."""
        if connection.namespace in self._joined:
            self.join(connection, None)

    def join(self, connection: Connection, name: str | None) -> None:
        """Put a connection into a room; nothing happens if it is there, or gone."""
        if connection.phase == Phase.CLOSED or any(room.name == name for room in connection.rooms):
            return
        key = (connection.namespace, name)
        room = self._rooms.get(key)
        if room is None:
            room = self._rooms[key] = Room(*key, self._hub.create_topic())
        if self._hub.subscribe(room.number, connection.handle):
            room.counts[form_of(connection)] += 1
            connection.rooms = (*connection.rooms, room) if connection.rooms else room.alone
        elif not any(room.counts):
            self._drop(room)

    def leave(self, connection: Connection, name: str) -> None:
        """Take a connection out of a room; nothing happens if it is gone."""
        if connection.phase == Phase.CLOSED:
            return
        for room in connection.rooms:
            if room.name == name:
                connection.rooms = tuple(other for other in connection.rooms if other is not room)
                self._hub.unsubscribe(room.number, connection.handle)
                self._left(connection, room)
                return

    def leave_all(self, connection: Connection) -> None:
        """Take a connection that is gone out of its rooms; the hub has forgotten it already.

        Called once. It still knows which they were: ``on_disconnect`` handlers ask.
        """
        for room in connection.rooms:
            self._left(connection, room)

    def _left(self, connection: Connection, room: Room) -> None:
        room.counts[form_of(connection)] -= 1
        if not any(room.counts):
            self._drop(room)

    def _drop(self, room: Room) -> None:
        del self._rooms[room.namespace, room.name]
        self._hub.drop_topic(room.number)

    # -- who is there, and sending

    def members(self, room: Room) -> list[Connection]:
        """Return who is in a room."""
        owners = map(self._hub.owner, self._hub.topic_handles(room.number))
        return [owner for owner in owners if isinstance(owner, Connection)]

    def publish(self, room: Room, outgoing: Outgoing, exclude: Connection | None, lane: int) -> int:
        """Send an event to a room, encoded once for each form that is needed; returns to how many."""
        left_out = exclude.handle if exclude is not None else 0
        counts = room.counts
        json = outgoing.native(JSON) if counts[JSON] else None
        msgpack = outgoing.native(MSGPACK) if counts[MSGPACK] else None
        if counts[2] or counts[3]:
            return self._hub.publish(
                room.number, json, msgpack, left_out, lane, **_rendered(outgoing, counts)
            )
        return self._hub.publish(room.number, json, msgpack, left_out, lane)

    def send(self, connections: Iterable[Connection], outgoing: Outgoing, lane: int) -> int:
        """Send an event to connections, likewise."""
        handles: dict[int, None] = {}
        counts = [0] * FORMS
        for connection in connections:
            handles[connection.handle] = None
            counts[form_of(connection)] += 1
        json = outgoing.native(JSON) if counts[JSON] else None
        msgpack = outgoing.native(MSGPACK) if counts[MSGPACK] else None
        return self._hub.send_many(handles, json, msgpack, lane, **_rendered(outgoing, counts))


def _rendered(outgoing: Outgoing, counts: Sequence[int]) -> dict[str, Any]:
    rendered: dict[str, Any] = {}
    if counts[2 + JSON]:
        rendered["sio_json"] = outgoing.socketio(JSON)
    if counts[2 + MSGPACK]:
        rendered["sio_msgpack"] = outgoing.socketio(MSGPACK)
    return rendered
