"""The log of what the application sent: the latest events of each room that somebody may have missed.

Events are counted over all rooms. Who has got everything up to a number gets what came after it in the rooms
it is in, or learns that not all of it is there any more: each room knows the last number that it dropped.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeAlias

__all__ = ["Entry", "EventLog", "Room", "RoomState"]

Room: TypeAlias = Hashable
"""Whatever an event is sent to: a room of the application, a namespace, a connection, a user."""

ENTRY_BYTES: Final = 400  # what an entry costs beside its event (measured with sys.getsizeof, rounded up)
_NUMBER: Final = attrgetter("number")


class Entry:
    """An event.

    Attributes:
        number: Its count.
        key: That of the last message sent before it; see ``Offset``.
        event: As the sender gave it; not looked at here.
        skip: Rooms whose members did not get it.
        bytes: What it is counted for.
        at_ns: When it was sent.
        rooms: How many rooms still have it.
    """

    __slots__ = ("at_ns", "bytes", "event", "key", "number", "rooms", "skip")

    def __init__(
        self, number: int, key: int, event: Any, skip: tuple[Room, ...], bytes: int, at_ns: int
    ) -> None:
        self.number = number
        self.key = key
        self.event = event
        self.skip = skip
        self.bytes = bytes
        self.at_ns = at_ns
        self.rooms = 0


class RoomState(NamedTuple):
    """What is known of the events of a room that were dropped; see ``_Log``."""

    room: Room
    dropped: int
    skipped: Room | None
    skipped_first: int
    dropped_otherwise: int
    excepted: int


class _Log:
    """The events of one room, oldest first.

    Attributes:
        holders: How many members of the room may come back.
        dropped: The greatest number of those that were dropped.
        skipped: The one room whose members did not get that one, or those right before it.
        skipped_first: The number of the first of these.
        dropped_otherwise: The greatest number of those that were dropped before them.
        excepted: The greatest number of the events, of whatever rooms, that members of this one did not get.
    """

    __slots__ = (
        "bytes",
        "dropped",
        "dropped_otherwise",
        "entries",
        "excepted",
        "holders",
        "skipped",
        "skipped_first",
    )

    def __init__(self) -> None:
        self.holders = 0
        self.entries: list[Entry] = []
        self.bytes = 0
        self.dropped = 0
        self.skipped: Room | None = None
        self.skipped_first = 0
        self.dropped_otherwise = 0
        self.excepted = 0

    def has(self, entry: Entry) -> bool:
        """Whether an entry is here still."""
        return bool(self.entries) and self.entries[0].number <= entry.number

    def note_dropped(self, entry: Entry) -> None:
        """Take note of an entry that is dropped; they are dropped in the order of their numbers."""
        skipped = entry.skip[0] if len(entry.skip) == 1 else None
        if skipped is None or skipped != self.skipped:
            self.dropped_otherwise = self.dropped if skipped is not None else entry.number
            self.skipped = skipped
            self.skipped_first = entry.number
        self.dropped = entry.number

    def lost(self, rooms: Mapping[Room, int]) -> int:
        """The greatest number of those that were dropped and a member of these rooms did get."""
        if self.skipped is not None and rooms.get(self.skipped, self.dropped) < self.skipped_first:
            return self.dropped_otherwise
        return self.dropped


class EventLog:
    """The events of all rooms.

    Args:
        max_bytes: That all entries may hold, about; the oldest go first.
        room_bytes: Likewise those of one room.
        life_ns: How long an entry is kept.

    Attributes:
        number: The count of the last event.
        bytes: What the entries are counted for.
    """

    __slots__ = (
        "_entries",
        "_life_ns",
        "_max_bytes",
        "_room_bytes",
        "_rooms",
        "bytes",
        "dropped_count",
        "number",
    )

    def __init__(self, max_bytes: int, room_bytes: int, life_ns: int) -> None:
        self._max_bytes = max_bytes
        self._room_bytes = room_bytes
        self._life_ns = life_ns
        self._rooms: dict[Room, _Log] = {}
        self._entries: OrderedDict[int, tuple[Entry, tuple[_Log, ...]]] = OrderedDict()
        self.number = 0
        self.bytes = 0
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def room_count(self) -> int:
        """How many rooms have somebody who may come back."""
        return len(self._rooms)

    # -- who may come back

    def hold(self, room: Room) -> int:
        """Begin to keep the events of a room for one more member, or go on; returns the count so far."""
        log = self._rooms.get(room)
        if log is None:
            log = self._rooms[room] = _Log()
        log.holders += 1
        return self.number

    def release(self, room: Room) -> None:
        """One member fewer may come back to a room; behind the last one its events are dropped."""
        log = self._rooms[room]
        log.holders -= 1
        if log.holders:
            return
        del self._rooms[room]
        entries, log.entries = log.entries, []
        for entry in entries:
            self._let_go(entry)

    def is_held(self, room: Room) -> bool:
        """Whether anybody may miss what is sent to a room."""
        return room in self._rooms

    def last_concerned(self, room: Room, rooms: Mapping[Room, int]) -> int:
        """The number of the last event that a member of a room got by it, or did not get for being in it.

        Args:
            room: Of ``rooms``.
            rooms: All that the member is in, and the count when it came.
        """
        log = self._rooms[room]
        last = max(log.lost(rooms), log.excepted)
        for entry in reversed(log.entries):
            if not is_skipped(entry, rooms):
                last = max(last, entry.number)
                break
        return last if last > rooms[room] else 0

    # -- events

    def add(
        self,
        rooms: Iterable[Room],
        event: Any,
        event_bytes: int,
        *,
        key: int,
        now_ns: int,
        skip: tuple[Room, ...] = (),
    ) -> None:
        """Keep the event that ``number`` was counted up for, where anybody may miss it.

        Args:
            rooms: It was sent to, to each of their members once.
            event: Whatever is needed to send it again.
            event_bytes: What that holds.
            key: That of the last message sent before it.
            now_ns: Monotonic time.
            skip: Rooms whose members did not get it.
        """
        logs = tuple([log for room in dict.fromkeys(rooms) if (log := self._rooms.get(room)) is not None])
        for room in skip:
            excepted = self._rooms.get(room)
            if excepted is not None:
                excepted.excepted = self.number
        if not logs:
            return
        entry = Entry(self.number, key, event, skip, ENTRY_BYTES + event_bytes, now_ns)
        self._entries[entry.number] = (entry, logs)
        self.bytes += entry.bytes
        entry.rooms = len(logs)
        for log in logs:
            log.entries.append(entry)
            log.bytes += entry.bytes
            while log.bytes > self._room_bytes:
                self._drop_oldest_of(log)
        while self.bytes > self._max_bytes:
            self._drop(*next(iter(self._entries.values())))

    def expire(self, now_ns: int) -> None:
        """Drop what is older than it is kept for."""
        end_ns = now_ns - self._life_ns
        while self._entries:
            entry, logs = next(iter(self._entries.values()))
            if entry.at_ns > end_ns:
                return
            self._drop(entry, logs)

    def missed(self, rooms: Mapping[Room, int], number: int) -> list[Entry] | None:
        """Return what came to rooms behind a number, each event once, in their order.

        Args:
            rooms: What the member is in, and the count when it came in.
            number: Up to where the member has got everything.

        Returns:
            None: Not all of it is here any more.
        """
        found: dict[int, Entry] = {}
        for room, since in rooms.items():
            log = self._rooms.get(room)
            if log is None:
                continue
            after = max(number, since)
            if log.dropped > after and log.lost(rooms) > after:
                return None
            entries = log.entries
            for entry in entries[bisect_right(entries, after, key=_NUMBER) :]:
                if not is_skipped(entry, rooms):
                    found[entry.number] = entry
        return [found[count] for count in sorted(found)]

    # -- from one process to the next

    def rooms(self) -> Iterator[RoomState]:
        """What is known of each room beside its events."""
        for room, log in self._rooms.items():
            yield RoomState(
                room, log.dropped, log.skipped, log.skipped_first, log.dropped_otherwise, log.excepted
            )

    def entries(self) -> Iterator[tuple[Entry, list[Room]]]:
        """All entries in their order, each with the rooms that have it."""
        names = {id(log): room for room, log in self._rooms.items()}
        for entry, logs in self._entries.values():
            yield entry, [names[id(log)] for log in logs if log.has(entry)]

    def restore(
        self,
        rooms: Iterable[RoomState],
        entries: Iterable[tuple[int, int, Any, tuple[Room, ...], tuple[Room, ...], int]],
    ) -> None:
        """Go on with what another log had; who may come back has taken hold of the rooms before.

        Args:
            rooms: What was known of them.
            entries: Number, key, event (which tells its ``size``), skip, rooms and when it was sent;
                ascending.
        """
        for state in rooms:
            log = self._rooms.get(state.room)
            if log is not None:
                log.dropped = state.dropped
                log.skipped = state.skipped
                log.skipped_first = state.skipped_first
                log.dropped_otherwise = state.dropped_otherwise
                log.excepted = state.excepted
        last, marks = self.number, {room: log.excepted for room, log in self._rooms.items()}
        for number, key, event, skip, names, at_ns in entries:
            self.number = number
            self.add(names, event, event.size, key=key, now_ns=at_ns, skip=skip)
        for room, excepted in marks.items():
            self._rooms[room].excepted = excepted
        self.number = last

    # -- dropping

    def _drop(self, entry: Entry, logs: tuple[_Log, ...]) -> None:
        """Drop an entry that is the oldest of all, and so of each room that has it."""
        for log in logs:
            if log.entries and log.entries[0] is entry:
                self._drop_oldest_of(log)

    def _drop_oldest_of(self, log: _Log) -> None:
        entry = log.entries.pop(0)
        log.bytes -= entry.bytes
        log.note_dropped(entry)
        self.dropped_count += 1
        self._let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        entry.rooms -= 1
        if not entry.rooms:
            del self._entries[entry.number]
            self.bytes -= entry.bytes


def is_skipped(entry: Entry, rooms: Mapping[Room, int]) -> bool:
    """Whether a member of these rooms did not get an event for being in one of them."""
    return any(room in rooms and rooms[room] < entry.number for room in entry.skip)
