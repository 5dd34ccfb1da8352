"""Recovery: connections that come back are told what they missed, or that this cannot be told.

Each event that can be replayed carries an offset, and a client that comes back says the last one that it got.
The offset is a place in the order in which a server sends: how many events of the application there were, and
the key of the last message. It is the same for all who get the event, and right for each of them: whatever
was sent before it to one of them came before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Final, NamedTuple

from fastim._core.hub import Encoding
from fastim.guard.pids import Pid, Pids
from fastim.guard.tokens import TokenError
from fastim.im.missed import MissedMessage
from fastim.server.recovery.eventlog import Entry, EventLog, Room
from fastim.server.recovery.offsets import Offset, new_epoch, offset_text, parse_offset
from fastim.server.recovery.options import RecoveryOptions
from fastim.server.recovery.refusals import NotRecovered, Refusal
from fastim.server.recovery.restarts import Restarts
from fastim.server.recovery.tracks import Recoverable, Track, Tracks
from fastim.wire.native import encode_value

__all__ = ["Claim", "Recovery", "everybody", "room_of", "user_room"]

PID_LIFE_MS: Final = 7 * 86_400_000
"""A connection that lived longer cannot come back after a restart; while its server lives it can."""
LOG_MARGIN_NS: Final = 60_000_000_000
"""So much longer than a connection may be gone are events kept: it takes a while until its end is noticed."""
UNKNOWN_DATA_BYTES: Final = 4_096  # what is counted for data of an application that cannot be measured


def everybody(namespace: str) -> Room:
    """The room of all in a namespace."""
    return (namespace, None)


def room_of(namespace: str, name: str | None) -> Room:
    """An application's room in a namespace."""
    return (namespace, name)


def user_room(user: str) -> Room:
    """All connections of a user."""
    return ("user", user)


class Claim(NamedTuple):
    """A connection that is wanted back, with good reason as far as its private id goes.

    Attributes:
        pid: What the private id says; ``text`` is the id.
        track: What is known of it; None: it was an earlier process's.
        place: Up to where its client has got everything.
    """

    pid: Pid
    text: str
    track: Track | None
    place: Offset


class Recovery:
    """Keeps what is needed to recover connections, and decides who is recovered.

    Args:
        options: See ``RecoveryOptions``.
        pids: Signs private ids.
        clock_ns: Monotonic time.
        time_ms: Time since the epoch.
        last_key: Returns the key of the last message that was reported.
        last_change: Returns the count of the changes of conversations that were reported.

    Attributes:
        epoch: Of this process.
        log: The events that can be replayed.
        tracks: The connections.
        restarts: See there; None: nobody comes back from an earlier process.
    """

    def __init__(
        self,
        options: RecoveryOptions,
        pids: Pids,
        *,
        clock_ns: Callable[[], int],
        time_ms: Callable[[], int],
        last_key: Callable[[], int],
        last_change: Callable[[], int],
    ) -> None:
        self.options = options
        self.epoch = new_epoch()
        self.log = EventLog(options.log_bytes, options.room_bytes, options.life_ns + LOG_MARGIN_NS)
        self.tracks = Tracks(options.life_ns, options.max_count, options.max_bytes, self._ended)
        self.restarts: Restarts | None = None
        self._pids = pids
        self._clock_ns = clock_ns
        self._time_ms = time_ms
        self._last_key = last_key
        self._last_change = last_change
        self._recovered_count = 0
        self._replayed_count = 0
        self._refused: dict[Refusal, int] = dict.fromkeys(Refusal, 0)

    # -- offsets

    @property
    def place(self) -> Offset:
        """Behind all that was sent."""
        return Offset(self.epoch, self.log.number, self._last_key(), self._last_change())

    def message_offset(self, key: int) -> bytes:
        """The offset of a message that is being sent to those who are there."""
        return b"%b-%x-%x-%x" % (self.epoch.encode(), self.log.number, key, self._last_change())

    def count(self) -> str:
        """Count up an event that is about to be sent, and return its offset."""
        self.log.number += 1
        return offset_text(*self.place)

    def keep(self, rooms: Iterable[Room], event: Any, event_bytes: int, skip: tuple[Room, ...] = ()) -> None:
        """Keep the event that was counted last, for who may miss it.

        Args:
            rooms: It was sent to.
            event: Whatever is needed to send it again.
            event_bytes: What that holds.
            skip: Rooms, or ids of connections, that did not get it.
        """
        self.log.add(rooms, event, event_bytes, key=self._last_key(), now_ns=self._clock_ns(), skip=skip)

    # -- connections that are live

    def begin(self, connection: Recoverable, *, complete: bool) -> str:
        """Make a new connection one that can be recovered; returns its private id.

        Args:
            connection: It has its id.
            complete: Nothing is still to be sent to it that came before this moment.
        """
        place = self.place
        pid = Pid(
            connection.sid,
            connection.namespace,
            connection.user_id,
            connection.device,
            connection.session_id,
            *place,
            complete=complete,
            expires=self._time_ms() + PID_LIFE_MS,
        )
        text = self._pids.sign(pid)
        self._open(pid, text, connection, place)
        return text

    def _open(self, pid: Pid, text: str, connection: Recoverable, place: Offset) -> None:
        track = Track(pid, text, connection.encoding, place)
        self.tracks.put(track, connection)
        self._hold(track, everybody(pid.namespace))
        if pid.user:
            self._hold(track, user_room(pid.user))
        connection.origin = pid.session or None

    def join(self, connection: Recoverable, room: Room) -> None:
        """A connection came into a room."""
        track = self._track_of(connection)
        if track is not None:
            self._hold(track, room)

    def leave(self, connection: Recoverable, room: Room) -> None:
        """A connection left a room; what it has not got of what came before is not sent to it any more."""
        track = self._track_of(connection)
        if track is not None and room in track.rooms:
            track.floor = max(track.floor, self.log.last_concerned(room, track.rooms))
            del track.rooms[room]
            self.log.release(room)

    def address(self, sid: str, namespace: str | None = None) -> Room | None:
        """The room of one connection, live or gone; None: there is none that can come back, not there."""
        track = self.tracks.get(sid)
        if track is None or namespace not in (None, track.pid.namespace):
            return None
        self._hold(track, sid)
        return sid

    def gone(
        self,
        connection: Recoverable,
        *,
        may_return: bool,
        data: dict[str, Any] | None = None,
        keeps: bool = False,
    ) -> None:
        """A connection is gone.

        Args:
            may_return: Neither side has ended it for good, and it had been sent all that came before.
            data: What the application keeps with its session.
            keeps: Nobody else keeps that.
        """
        track = self._track_of(connection)
        if track is None:
            return
        if may_return:
            track.data = data if keeps else None
            self.tracks.leave(track, _data_bytes(data) if data else 0, self._clock_ns())
        else:
            self.tracks.remove(track)

    def _track_of(self, connection: Recoverable) -> Track | None:
        track = self.tracks.get(connection.sid)
        return track if track is not None and track.connection is connection else None

    def _hold(self, track: Track, room: Room) -> None:
        if room not in track.rooms:
            track.rooms[room] = self.log.hold(room)

    def _ended(self, track: Track) -> None:
        for room in track.rooms:
            self.log.release(room)
        track.rooms = {}

    # -- connections that come back

    def claim(self, namespace: str, encoding: int, pid_text: object, offset: object) -> Claim:
        """Look at what a client shows that wants its connection back.

        Args:
            namespace: Where it wants to go.
            encoding: Its parser.
            pid_text: Its private id.
            offset: Of the last event that it got; None: it got none.

        Raises:
            NotRecovered: It is not good, or nothing is known.
        """
        pid = self._opened(pid_text)
        if pid.namespace != namespace:
            raise NotRecovered(Refusal.NAMESPACE)
        place = parse_offset(offset)
        if place is None and offset is not None:
            raise NotRecovered(Refusal.OFFSET)
        text = str(pid_text)
        track = self.tracks.get(pid.sid)
        if track is None:
            return Claim(pid, text, None, self._place_before(pid, place))
        if track.text != text:
            raise NotRecovered(Refusal.UNKNOWN)
        if track.encoding != encoding:
            raise NotRecovered(Refusal.PARSER)
        begin = Offset(self.epoch, track.number, track.key, track.change)
        if place is None or place.epoch != self.epoch:
            # One from before this connection, which clients do not forget, does not count.
            return Claim(pid, text, track, begin)
        self._check_place(place)
        # Likewise: whatever came after it began is behind it in both counts.
        return Claim(pid, text, track, max(begin, place, key=attrgetter("number", "key")))

    def _opened(self, text: object) -> Pid:
        try:
            return self._pids.open(text if isinstance(text, str) else "", self._time_ms())
        except TokenError as error:
            raise NotRecovered(Refusal.EXPIRED if error.expired else Refusal.FORGED) from None

    def _place_before(self, pid: Pid, offset: Offset | None) -> Offset:
        """Up to where a connection of an earlier process has got everything, in terms of this one."""
        if pid.epoch == self.epoch or self.restarts is None:
            raise NotRecovered(Refusal.UNKNOWN)
        key, change = self.restarts.position(pid, offset, self._clock_ns())
        place = self.place._replace(key=key, change=change)
        self._check_place(place)
        return place

    def _check_place(self, place: Offset) -> None:
        """Refuse a place where nobody can be yet."""
        last = self.place
        if place.number > last.number or place.key > last.key or place.change > last.change:
            raise NotRecovered(Refusal.OFFSET)

    def check(self, claim: Claim, user: str, device: str | None) -> None:
        """Ask whether a connection is a client's, now that it is known who that is.

        Args:
            user: Empty for an anonymous one.
            device: What the client says; None: nothing.

        Raises:
            NotRecovered: It is somebody else's.
        """
        if claim.pid.user != user or device not in (None, claim.pid.device):
            raise NotRecovered(Refusal.USER)

    def missed_events(self, claim: Claim) -> list[Entry]:
        """Return the events that a connection missed, in their order.

        Raises:
            NotRecovered: Some of them are not there any more, or the connection has ended meanwhile.
        """
        track = claim.track
        if track is None:
            assert self.restarts is not None
            self.restarts.check(claim.pid)  # as it is now: its first event may have been sent meanwhile
            return []
        if self.tracks.get(claim.pid.sid) is not track:
            raise NotRecovered(Refusal.UNKNOWN)
        number = claim.place.number
        entries = self.log.missed(track.rooms, number) if number >= track.floor else None
        if entries is None:
            raise NotRecovered(Refusal.EVENTS)
        return entries

    def take(self, claim: Claim, connection: Recoverable) -> Track:
        """Give a connection back to its client."""
        self._recovered_count += 1
        if claim.track is None:
            self._open(claim.pid, claim.text, connection, claim.place)
        else:
            self.tracks.put(claim.track, connection)
            connection.origin = claim.pid.session or None
        track = self.tracks.get(claim.pid.sid)
        assert track is not None
        return track

    def refuse(self, refusal: Refusal, claim: Claim | None = None) -> None:
        """Count a connection that is not given back; what is kept of it is of no use any more.

        Args:
            claim: Of its own client; None: of whoever.
        """
        self._refused[refusal] += 1
        if claim is not None and claim.track is not None and claim.track.connection is None:
            self.tracks.remove(claim.track)

    def merged(
        self, claim: Claim, entries: Iterable[Entry], messages: Iterable[MissedMessage]
    ) -> Iterable[tuple[Entry | MissedMessage, bytes]]:
        """Put what a connection missed into the order in which it was sent, each with its offset.

        A client that is cut off while it gets this comes back with the last of them that it got, and gets
        the rest.
        """
        number, waiting = claim.place.number, iter(messages)
        message = next(waiting, None)
        for entry in entries:
            while message is not None and message.key <= entry.key:
                yield message, self._replayed(claim, number, message.key)
                message = next(waiting, None)
            number = entry.number
            yield entry, self._replayed(claim, number, entry.key)
        while message is not None:
            yield message, self._replayed(claim, number, message.key)
            message = next(waiting, None)

    def _replayed(self, claim: Claim, number: int, key: int) -> bytes:
        self._replayed_count += 1
        return offset_text(self.epoch, number, key, claim.place.change).encode()

    # -- time, figures

    def tick(self, now_ns: int) -> None:
        """Forget what is too old."""
        self.tracks.expire(now_ns)
        self.log.expire(now_ns)

    def stats(self) -> dict[str, int]:
        """Return the gauges and counters for the metrics."""
        return {
            "live": len(self.tracks) - self.tracks.gone_count,
            "records": self.tracks.gone_count,
            "record_bytes": self.tracks.gone_bytes,
            "log_events": len(self.log),
            "log_bytes": self.log.bytes,
            "log_rooms": self.log.room_count,
            "log_dropped_total": self.log.dropped_count,
            "expired_total": self.tracks.expired_count,
            "evicted_total": self.tracks.evicted_count,
            "recovered_total": self._recovered_count,
            "replayed_total": self._replayed_count,
            **{f"refused_{refusal.value}_total": count for refusal, count in self._refused.items()},
        }


def _data_bytes(data: Mapping[str, Any]) -> int:
    """Estimate what an application keeps with a session."""
    try:
        return sys.getsizeof(data) + 2 * len(encode_value(data, Encoding.MSGPACK))
    except (TypeError, ValueError, RecursionError):
        return UNKNOWN_DATA_BYTES
