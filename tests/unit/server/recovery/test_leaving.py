"""From one process to the next: what was left is what is found, or nothing is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim.guard.pids import Pids
from fastim.server.recovery.leaving import left_behind, take_over
from fastim.server.recovery.options import RecoveryOptions
from fastim.server.recovery.recorder import NativeEvent, RenderedEvent
from fastim.server.recovery.recovery import Recovery, everybody, room_of, user_room
from fastim.server.recovery.refusals import NotRecovered, Refusal

SECRET, OTHER_SECRET = b"a secret of the unit tests, 32 bytes.", b"another one of the unit tests, 32 bytes"
S = 1_000_000_000
MS = 1_000_000
NAMES, ROOMS = ("ann", "bob", "cat"), ("a", "b")


class Connection:
    """What recovery wants to know of a connection."""

    def __init__(self, sid: str) -> None:
        self.sid = self.user_id = sid
        self.namespace = "/"
        self.device = self.session_id = "one"
        self.encoding = 0
        self.origin: str | None = None


class Process:
    """A process: its recovery and its clocks."""

    def __init__(self, secret: bytes = SECRET, now_ms: int = 1_700_000_000_000, **options: Any) -> None:
        self.now_ns = 50 * S
        self.now_ms = now_ms
        self.pids = Pids([secret])
        self.recovery = Recovery(
            RecoveryOptions(**options),
            self.pids,
            clock_ns=lambda: self.now_ns,
            time_ms=lambda: self.now_ms,
            last_key=lambda: 7,
            last_change=lambda: 3,
        )
        self.data: dict[str, Any] = {}

    def come(self, *names: str) -> dict[str, tuple[Connection, str]]:
        made = {}
        for name in names:
            connection = Connection(name)
            made[name] = (connection, self.recovery.begin(connection, complete=True))
        return made

    def go(self, connection: Connection) -> None:
        self.recovery.gone(connection, may_return=True)

    def send(self, rooms: tuple[Any, ...], skip: tuple[Any, ...] = (), *, native: bool = False) -> int:
        self.recovery.count()
        number = self.recovery.log.number
        event: Any = RenderedEvent(((b"42[%d]" % number, (b"bytes",)), None))
        if native:
            event = NativeEvent((b'["event",%d]' % number, None))
        self.recovery.keep(rooms, event, event.size, skip)
        return number

    def leave(self) -> bytes:
        data_of = lambda track: self.data.get(track.pid.sid)  # noqa: E731
        return left_behind(self.recovery, data_of, self.now_ns, self.now_ms)

    def missed(self, pid: str, offset: str | None) -> list[Any] | Refusal:
        try:
            claim = self.recovery.claim("/", 0, pid, offset)
            entries = self.recovery.missed_events(claim)
        except NotRecovered as no:
            return no.refusal
        return [(entry.number, entry.key, forms_of(entry.event)) for entry in entries]


def forms_of(event: Any) -> Any:
    return event.forms if isinstance(event, RenderedEvent) else event.packets


def next_process(before: Process, *, down_ms: int = 1_000, secret: bytes = SECRET) -> Process:
    after = Process(secret, before.now_ms + down_ms)
    after.now_ns = 9_000 * S  # its clock begins anywhere
    assert take_over(after.recovery, after.pids, before.leave(), after.now_ns, after.now_ms)
    return after


def test_connections_when_the_next_process_begins_then_are_as_they_were() -> None:
    first = Process()
    ann, pid = first.come("ann")["ann"]
    first.recovery.join(ann, room_of("/", "a"))
    first.send((room_of("/", "a"),))
    offset = first.recovery.message_offset(7).decode()
    first.send((everybody("/"),))
    first.send((user_room("ann"),), native=True)
    first.data["ann"] = {"cart": [1, b"\xff", {"x": None}]}
    first.go(ann)
    before = first.missed(pid, offset)
    assert isinstance(before, list)
    assert len(before) == 2
    second = next_process(first)
    assert second.recovery.epoch == first.recovery.epoch
    assert second.recovery.log.number == first.recovery.log.number
    assert second.missed(pid, offset) == before
    track = second.recovery.tracks.get("ann")
    assert track is not None
    assert track.is_from_before
    assert track.data == first.data["ann"]
    back = Connection("ann")
    second.recovery.take(second.recovery.claim("/", 0, pid, offset), back)
    assert not track.is_from_before
    # What is sent from now on goes on behind it.
    number = second.send((room_of("/", "a"),))
    second.go(back)
    after = second.missed(pid, offset)
    assert isinstance(after, list)
    assert [event[0] for event in after] == [event[0] for event in before] + [number]


def test_life_when_the_server_is_down_then_goes_on() -> None:
    first = Process(life_ns=10 * S)
    connections = first.come("ann", "bob")
    first.go(connections["ann"][0])
    first.now_ns += 6 * S
    first.go(connections["bob"][0])
    second = next_process(first, down_ms=5_000)
    assert second.missed(connections["ann"][1], None) == Refusal.UNKNOWN
    assert second.missed(connections["bob"][1], None) == []
    second.now_ns += 5 * S
    second.recovery.tick(second.now_ns)
    assert second.missed(connections["bob"][1], None) == Refusal.UNKNOWN
    assert second.recovery.log.room_count == 0


def test_connection_when_what_is_kept_with_it_cannot_be_written_then_is_left_out() -> None:
    first = Process()
    connections = first.come("ann", "bob")
    first.data["ann"] = {"object": object()}
    for connection, _ in connections.values():
        first.go(connection)
    second = next_process(first)
    assert second.missed(connections["ann"][1], None) == Refusal.UNKNOWN
    assert second.missed(connections["bob"][1], None) == []


def test_connection_when_the_secret_is_another_then_is_left_out() -> None:
    first = Process()
    ann, pid = first.come("ann")["ann"]
    first.go(ann)
    second = next_process(first, secret=OTHER_SECRET)
    assert len(second.recovery.tracks) == 0
    assert second.missed(pid, None) == Refusal.FORGED


@pytest.mark.parametrize("damage", ["nothing", "half", "version", "type"])
def test_left_when_it_cannot_be_read_then_nothing_happens(damage: str) -> None:
    first = Process()
    ann, _ = first.come("ann")["ann"]
    first.go(ann)
    data = first.leave()
    if damage == "nothing":
        data = b""
    elif damage == "half":
        data = data[: len(data) // 2]
    else:
        fields = msgspec.msgpack.decode(data)
        fields["version" if damage == "version" else "tracks"] = 99
        data = msgspec.msgpack.encode(fields)
    second = Process()
    epoch = second.recovery.epoch
    assert not take_over(second.recovery, second.pids, data, 0, 0)
    assert (second.recovery.epoch, len(second.recovery.tracks)) == (epoch, 0)


STEPS = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(st.just("leave"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(
        st.just("send"),
        st.lists(st.sampled_from(ROOMS), min_size=1, max_size=2, unique=True),
        st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(STEPS, max_size=40), st.sampled_from([1_500, 4_000, 1 << 20]))
def test_missed_when_asked_in_the_next_process_then_is_the_same(steps: list[Any], room_bytes: int) -> None:
    first = Process(room_bytes=room_bytes, log_bytes=8_000)
    connections = first.come(*NAMES)
    offsets: list[str | None] = [None]
    for kind, *more in steps:
        if kind == "send":
            skip = tuple(first.recovery.address(name) for name in more[1])
            first.send(tuple(room_of("/", room) for room in more[0]), skip)
            offsets.append(first.recovery.message_offset(7).decode())
        else:
            act = first.recovery.join if kind == "join" else first.recovery.leave
            act(connections[more[0]][0], room_of("/", more[1]))
    for connection, _ in connections.values():
        first.go(connection)
    second = next_process(first)
    assert second.recovery.log.bytes <= first.recovery.log.bytes
    for _, pid in connections.values():
        for offset in offsets:
            assert second.missed(pid, offset) == first.missed(pid, offset)
    third = next_process(second, down_ms=0)
    assert msgspec.msgpack.decode(third.leave())["events"] == [
        [*event[:2], event[2] + 1_000, *event[3:]]
        for event in msgspec.msgpack.decode(first.leave())["events"]
    ]
    second.now_ns += 1_000 * S
    second.recovery.tick(second.now_ns)
    stats = second.recovery.stats()
    assert (stats["records"], stats["log_events"], stats["log_bytes"], stats["log_rooms"]) == (0, 0, 0, 0)
