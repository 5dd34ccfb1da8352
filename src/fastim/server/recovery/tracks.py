"""Tracks: what is known of a connection that can be recovered, while it is live and for a while after it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, Protocol

from fastim.server.recovery.eventlog import Room
from fastim.server.recovery.offsets import Offset

if TYPE_CHECKING:
    from fastim.guard.pids import Pid

__all__ = ["Recoverable", "Track", "Tracks"]

# What a track holds (measured with sys.getsizeof, rounded up; its room's log included).
TRACK_BYTES: Final = 1_200
ROOM_BYTES: Final = 300


class Recoverable(Protocol):
    """A connection, as far as its recovery goes.

    Attributes:
        sid: Its public id; empty until it is in.
        namespace, encoding: Where it is, and what it speaks there.
        user_id, device, session_id: See ``Session``.
        origin: Under what its messages are stored.
    """

    namespace: str
    encoding: int
    device: str
    session_id: str
    origin: str | None

    @property
    def sid(self) -> str: ...
    @property
    def user_id(self) -> str: ...


class Track:
    """A connection that can be recovered.

    Attributes:
        pid: What its private id says; ``text`` is the id.
        encoding: Its parser.
        number, key, change: From where on it has been sent what came: its offset when it began.
        floor: Who has not got everything up to here cannot be told what is missing.
        rooms: What it is in, and the count of events when it came in; see ``EventLog``.
        connection: While it is live.
        data: What the application keeps with its session, where nobody else keeps that for it.
        is_from_before: It was an earlier process's.
        until_ns: Until when it can come back, once it is gone.
        bytes: What it is counted for then.
    """

    __slots__ = (
        "bytes",
        "change",
        "connection",
        "data",
        "encoding",
        "floor",
        "is_from_before",
        "key",
        "number",
        "pid",
        "rooms",
        "text",
        "until_ns",
    )

    def __init__(self, pid: Pid, text: str, encoding: int, place: Offset) -> None:
        self.pid = pid
        self.text = text
        self.encoding = encoding
        self.number = place.number
        self.key = place.key
        self.change = place.change
        self.floor = 0
        self.rooms: dict[Room, int] = {}
        self.connection: Recoverable | None = None
        self.data: dict[str, Any] | None = None
        self.is_from_before = False
        self.until_ns = 0
        self.bytes = 0


class Tracks:
    """All tracks, by the ids of their connections; those that are gone are bounded.

    Args:
        life_ns: How long one that is gone can come back.
        max_count: How many may be gone; who left first goes first.
        max_bytes: Likewise for what they hold; 0: no bound.
        on_end: Called with each that cannot come back any more.

    Attributes:
        encodings: How many speak each parser.
    """

    __slots__ = (
        "_gone",
        "_life_ns",
        "_max_bytes",
        "_max_count",
        "_on_end",
        "_tracks",
        "encodings",
        "evicted_count",
        "expired_count",
        "gone_bytes",
    )

    def __init__(self, life_ns: int, max_count: int, max_bytes: int, on_end: Callable[[Track], None]) -> None:
        self._life_ns = life_ns
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._on_end = on_end
        self._tracks: dict[str, Track] = {}
        self._gone: OrderedDict[str, Track] = OrderedDict()
        self.encodings = [0, 0]
        self.gone_bytes = 0
        self.expired_count = 0
        self.evicted_count = 0

    def __len__(self) -> int:
        return len(self._tracks)

    def __iter__(self) -> Iterator[Track]:
        return iter(self._tracks.values())

    @property
    def gone_count(self) -> int:
        """How many are gone and may come back."""
        return len(self._gone)

    def get(self, sid: str) -> Track | None:
        """Return the track of a connection, live or gone; None: there is none."""
        return self._tracks.get(sid)

    def put(self, track: Track, connection: Recoverable) -> None:
        """A connection is live: a new one, or one that has come back."""
        sid = track.pid.sid
        if self._gone.pop(sid, None) is not None:
            self.gone_bytes -= track.bytes
        if sid not in self._tracks:
            self._tracks[sid] = track
            self.encodings[track.encoding] += 1
        track.connection = connection
        track.data = None
        track.is_from_before = False

    def leave(self, track: Track, data_bytes: int, now_ns: int) -> None:
        """A connection is gone and may come back.

        Args:
            data_bytes: What the application keeps with it, about.
        """
        track.connection = None
        self._put_away(track, data_bytes, now_ns + self._life_ns)

    def _put_away(self, track: Track, data_bytes: int, until_ns: int) -> None:
        track.until_ns = until_ns
        track.bytes = TRACK_BYTES + ROOM_BYTES * len(track.rooms) + data_bytes
        self._gone[track.pid.sid] = track
        self.gone_bytes += track.bytes
        while self._gone and (len(self._gone) > self._max_count or 0 < self._max_bytes < self.gone_bytes):
            self.evicted_count += 1
            self.remove(next(iter(self._gone.values())))

    def restore(self, track: Track, data_bytes: int, until_ns: int) -> None:
        """Know of one that an earlier process had; of several the one that left first comes first."""
        self._tracks[track.pid.sid] = track
        self.encodings[track.encoding] += 1
        self._put_away(track, data_bytes, until_ns)

    def expire(self, now_ns: int) -> None:
        """End those whose time to come back is over."""
        while self._gone:
            track = next(iter(self._gone.values()))
            if track.until_ns > now_ns:
                return
            self.expired_count += 1
            self.remove(track)

    def remove(self, track: Track) -> None:
        """End one: it cannot come back."""
        sid = track.pid.sid
        if self._tracks.get(sid) is not track:
            return
        del self._tracks[sid]
        self.encodings[track.encoding] -= 1
        if self._gone.pop(sid, None) is not None:
            self.gone_bytes -= track.bytes
        track.connection = None
        self._on_end(track)
