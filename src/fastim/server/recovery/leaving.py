"""What a process that ends in order leaves for the next one, so that its clients find everything there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from fastim._core.hub import Encoding
from fastim.guard.pids import Pids
from fastim.guard.tokens import TokenError
from fastim.server.recovery.eventlog import RoomState
from fastim.server.recovery.offsets import Offset
from fastim.server.recovery.recorder import NativeEvent, RenderedEvent
from fastim.server.recovery.recovery import Recovery
from fastim.server.recovery.tracks import Track
from fastim.wire.native import decode_value, encode_value

__all__ = ["left_behind", "take_over"]

log = logging.getLogger("fastim.recovery")

VERSION: Final = 1
NS_PER_MS: Final = 1_000_000
_MSGPACK: Final = int(Encoding.MSGPACK)
_Room: TypeAlias = str | tuple[str, str | None]


class _LeftTrack(msgspec.Struct, array_like=True):
    text: str
    encoding: int
    place: tuple[str, int, int, int]
    floor: int
    rooms: list[tuple[_Room, int]]
    life_ms: int
    data: bytes | None


class _LeftRoom(msgspec.Struct, array_like=True):
    room: _Room
    dropped: int
    skipped: _Room | None
    skipped_first: int
    dropped_otherwise: int
    excepted: int


class _LeftEvent(msgspec.Struct, array_like=True):
    number: int
    key: int
    age_ms: int
    skip: list[_Room]
    rooms: list[_Room]
    rendered: list[tuple[bytes, tuple[bytes, ...]] | None] | None  # one of an application
    packets: list[bytes | None] | None  # or of the domain


class _Left(msgspec.Struct):
    version: int
    time_ms: int
    epoch: str
    number: int
    tracks: list[_LeftTrack]
    rooms: list[_LeftRoom]
    events: list[_LeftEvent]


def left_behind(
    recovery: Recovery, data_of: Callable[[Track], Mapping[str, Any] | None], now_ns: int, now_ms: int
) -> bytes:
    """Put down all connections that may come back, and what they may have missed.

    A connection whose application keeps something with it that is no value of the protocol is left out.

    Args:
        data_of: Returns what the application keeps with a connection.
        now_ns, now_ms: Monotonic time, and time since the epoch.
    """
    tracks = [_put_down(track, data_of(track), now_ns) for track in recovery.tracks]
    left = _Left(
        VERSION,
        now_ms,
        recovery.epoch,
        recovery.log.number,
        [track for track in tracks if track is not None],
        [_LeftRoom(*state) for state in recovery.log.rooms()],  # type: ignore[arg-type]
        [
            _LeftEvent(
                entry.number,
                entry.key,
                (now_ns - entry.at_ns) // NS_PER_MS,
                list(entry.skip),  # type: ignore[arg-type]
                list(rooms),  # type: ignore[arg-type]
                list(entry.event.forms) if isinstance(entry.event, RenderedEvent) else None,
                list(entry.event.packets) if isinstance(entry.event, NativeEvent) else None,
            )
            for entry, rooms in recovery.log.entries()
        ],
    )
    return msgspec.msgpack.encode(left)


def _put_down(track: Track, data: Mapping[str, Any] | None, now_ns: int) -> _LeftTrack | None:
    try:
        encoded = encode_value(dict(data), _MSGPACK) if data else None
    except (TypeError, ValueError, RecursionError):
        return None
    return _LeftTrack(
        track.text,
        track.encoding,
        ("", track.number, track.key, track.change),
        track.floor,
        list(track.rooms.items()),  # type: ignore[arg-type]
        max(0, track.until_ns - now_ns) // NS_PER_MS,
        encoded,
    )


def take_over(recovery: Recovery, pids: Pids, data: bytes, now_ns: int, now_ms: int) -> bool:
    """Go on where the process before ended.

    Args:
        recovery: New: nothing has happened.
        pids: Opens private ids.
        data: What ``left_behind`` returned.
        now_ns, now_ms: Monotonic time, and time since the epoch.

    Returns:
        False: It is of another version, or damaged; nothing has happened.
    """
    try:
        left = msgspec.msgpack.decode(data, type=_Left)
    except msgspec.DecodeError:
        left = None
    if left is None or left.version != VERSION:
        log.warning("what the process before has left cannot be read: its connections are not recovered")
        return False
    gone_ms = max(0, now_ms - left.time_ms)
    recovery.epoch = left.epoch
    recovery.log.number = left.number
    for record in sorted(left.tracks, key=lambda record: record.life_ms):  # who left first is the first
        _restore(recovery, pids, record, gone_ms, now_ns)
    recovery.log.restore(
        [RoomState(*msgspec.structs.astuple(room)) for room in left.rooms],
        (
            (
                event.number,
                event.key,
                _event_of(event),
                tuple(event.skip),
                tuple(event.rooms),
                now_ns - (gone_ms + event.age_ms) * NS_PER_MS,
            )
            for event in left.events
        ),
    )
    recovery.tick(now_ns)
    return True


def _restore(recovery: Recovery, pids: Pids, record: _LeftTrack, gone_ms: int, now_ns: int) -> None:
    if record.life_ms <= gone_ms:
        return
    try:
        pid = pids.open(record.text, 0)  # its time counts when it is shown
    except TokenError:
        return  # the secret that signed it is not accepted any more
    _, number, key, change = record.place
    track = Track(pid, record.text, record.encoding, Offset(recovery.epoch, number, key, change))
    track.floor = record.floor
    track.is_from_before = True
    for room, since in record.rooms:
        recovery.log.hold(room)
        track.rooms[room] = since
    data: Any = None if record.data is None else decode_value(record.data, _MSGPACK)
    track.data = data
    recovery.tracks.restore(track, len(record.data or b""), now_ns + (record.life_ms - gone_ms) * NS_PER_MS)


def _event_of(event: _LeftEvent) -> RenderedEvent | NativeEvent:
    if event.rendered is not None:
        return RenderedEvent((event.rendered[0], event.rendered[1]))
    packets = event.packets or [None, None]
    return NativeEvent((packets[0], packets[1]))
