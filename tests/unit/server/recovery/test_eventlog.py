"""The event log: what was missed comes once and in order, or it is said that something is gone."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastim.server.recovery.eventlog import ENTRY_BYTES, EventLog, Room


class Member:
    """Somebody in rooms, and what came to them: (number, event)."""

    def __init__(self, log: EventLog, name: str) -> None:
        self.log = log
        self.name = name
        self.rooms: dict[Room, int] = {}
        self.got: list[int] = []
        self.floor = 0
        self.join(name)  # one's own room

    def join(self, room: Room) -> None:
        if room not in self.rooms:
            self.rooms[room] = self.log.hold(room)

    def leave(self, room: Room) -> None:
        if room in self.rooms:
            self.floor = max(self.floor, self.log.last_concerned(room, self.rooms))
            del self.rooms[room]
            self.log.release(room)

    def missed(self, number: int) -> list[int] | None:
        found = self.log.missed(self.rooms, number)
        return None if found is None else [entry.number for entry in found]


def send(
    log: EventLog, members: list[Member], rooms: tuple[Room, ...], skip: tuple[Room, ...] = (), size: int = 0
) -> int:
    """Send an event as the service does: to each member of any of the rooms, once."""
    log.number += 1
    log.add(rooms, ("event", log.number), size, key=log.number * 10, now_ns=log.number, skip=skip)
    for member in members:
        if not member.rooms.keys().isdisjoint(rooms) and member.rooms.keys().isdisjoint(skip):
            member.got.append(log.number)
    return log.number


def plenty() -> EventLog:
    return EventLog(1 << 30, 1 << 30, 1 << 60)


def test_missed_when_sent_to_several_rooms_of_one_then_comes_once_in_order() -> None:
    log = plenty()
    ann = Member(log, "ann")
    for room in ("a", "b", "c"):
        ann.join(room)
    sent = [send(log, [ann], rooms) for rooms in (("a",), ("b", "a"), ("c", "b", "a"), ("ann",), ("a", "a"))]
    assert ann.missed(0) == sent
    assert ann.missed(sent[1]) == sent[2:]
    assert ann.missed(sent[-1]) == []
    entries = log.missed(ann.rooms, 0)
    assert entries is not None
    assert [(entry.event, entry.key) for entry in entries] == [(("event", n), n * 10) for n in sent]


def test_missed_when_sent_before_one_came_into_the_room_then_is_not_among_it() -> None:
    log = plenty()
    ann, bob = Member(log, "ann"), Member(log, "bob")
    bob.join("a")
    send(log, [ann, bob], ("a",))
    ann.join("a")
    second = send(log, [ann, bob], ("a",))
    assert ann.missed(0) == [second]


def test_missed_when_nobody_may_come_back_then_nothing_is_kept() -> None:
    log = plenty()
    send(log, [], ("a",))
    assert (len(log), log.bytes, log.number) == (0, 0, 1)


def test_room_when_the_last_member_leaves_then_its_events_are_dropped() -> None:
    log = plenty()
    ann, bob = Member(log, "ann"), Member(log, "bob")
    for member in (ann, bob):
        member.join("a")
    send(log, [ann, bob], ("a",))
    both = send(log, [ann, bob], ("a", "bob"))
    ann.leave("a")
    assert len(log) == 2
    bob.leave("a")
    assert len(log) == 1
    assert bob.missed(0) == [both]
    assert log.bytes == ENTRY_BYTES
    bob.leave("bob")
    ann.leave("ann")
    assert (len(log), log.bytes, log.room_count) == (0, 0, 0)


def test_log_when_full_then_the_oldest_goes_and_only_whom_it_concerned_is_told() -> None:
    log = EventLog(10 * (ENTRY_BYTES + 100), 1 << 30, 1 << 60)
    ann, bob = Member(log, "ann"), Member(log, "bob")
    for _ in range(5):
        send(log, [ann, bob], ("ann",), size=100)
    for _ in range(10):
        send(log, [ann, bob], ("bob",), size=100)
    assert len(log) == 10
    assert ann.missed(4) is None
    assert ann.missed(5) == []
    assert bob.missed(0) == list(range(6, 16))


def test_room_when_full_then_it_alone_loses() -> None:
    log = EventLog(1 << 30, 3 * (ENTRY_BYTES + 100), 1 << 60)
    ann, bob = Member(log, "ann"), Member(log, "bob")
    ann.join("loud")
    bob.join("quiet")
    send(log, [ann, bob], ("quiet",), size=100)
    for _ in range(50):
        send(log, [ann, bob], ("loud",), size=100)
    assert len(log) == 4
    assert ann.missed(47) is None
    assert ann.missed(48) == [49, 50, 51]
    assert bob.missed(0) == [1]


def test_room_when_an_event_is_larger_than_it_holds_then_it_is_said_to_be_gone() -> None:
    log = EventLog(1 << 30, 1_000, 1 << 60)
    ann = Member(log, "ann")
    number = send(log, [ann], ("ann",), size=2_000)
    assert (len(log), log.bytes) == (0, 0)
    assert ann.missed(number - 1) is None
    assert ann.missed(number) == []


def test_log_when_its_life_is_over_then_entries_go() -> None:
    log = EventLog(1 << 30, 1 << 30, 100)
    ann = Member(log, "ann")
    for _ in range(10):
        send(log, [ann], ("ann",))
    log.expire(105)
    assert len(log) == 5
    assert ann.missed(4) is None
    assert ann.missed(5) == [6, 7, 8, 9, 10]
    log.expire(1_000)
    assert (len(log), log.bytes) == (0, 0)


def test_dropped_when_one_was_skipped_then_it_misses_nothing() -> None:
    """Who sends to the others of a room, and gets nothing itself, has not moved and has missed nothing."""
    log = EventLog(1 << 30, 2 * ENTRY_BYTES, 1 << 60)
    ann, bob = Member(log, "ann"), Member(log, "bob")
    for member in (ann, bob):
        member.join("a")
    for _ in range(10):
        send(log, [ann, bob], ("a",), skip=("ann",))
    assert ann.missed(0) == []
    assert bob.missed(0) is None
    for _ in range(3):
        send(log, [ann, bob], ("a",), skip=("bob",))
    assert ann.missed(10) is None  # 11 was dropped
    assert ann.missed(11) == [12, 13]
    assert bob.missed(10) == []
    assert bob.missed(9) is None


def test_dropped_when_one_joined_what_was_skipped_in_between_then_what_it_got_before_is_gone() -> None:
    log = EventLog(1 << 30, ENTRY_BYTES - 1, 1 << 60)
    ann = Member(log, "ann")
    send(log, [ann], ("ann",), skip=("a",))
    ann.join("a")
    send(log, [ann], ("ann",), skip=("a",))
    assert ann.got == [1]
    assert ann.missed(0) is None
    assert ann.missed(1) is None or ann.missed(1) == []


ROOMS = ("a", "b", "c")
NAMES = ("ann", "bob", "cat")
STEPS = st.one_of(
    st.tuples(st.just("join"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(st.just("leave"), st.sampled_from(NAMES), st.sampled_from(ROOMS)),
    st.tuples(
        st.just("send"),
        st.lists(st.sampled_from(ROOMS + NAMES), min_size=1, max_size=3),
        st.lists(st.sampled_from(ROOMS + NAMES), max_size=2),
        st.integers(0, 300),
    ),
    st.tuples(st.just("expire"), st.integers(0, 40)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(500, 4_000), st.integers(300, 2_000))
def test_log_when_anything_happens_then_what_it_says_was_missed_is_right(
    steps: list[Any], max_bytes: int, room_bytes: int
) -> None:
    """Against the plain truth: who got what. A position is any that a client can have."""
    log = EventLog(max_bytes, room_bytes, 20)
    members = {name: Member(log, name) for name in NAMES}
    for step in steps:
        if step[0] == "join":
            members[step[1]].join(step[2])
        elif step[0] == "leave":
            members[step[1]].leave(step[2])
        elif step[0] == "send":
            send(log, list(members.values()), tuple(step[1]), tuple(dict.fromkeys(step[2])), step[3])
        else:
            log.expire(log.number + step[1])
        assert log.bytes <= max_bytes
    for member in members.values():
        for position in (0, *member.got):
            if position < member.floor:
                continue
            truth = [number for number in member.got if number > position]
            found = member.missed(position)
            assert found is None or found == truth
        # Whoever has got everything is not refused, where events were kept from one member each: of other
        # events that were dropped it is not known any more who did not get them.
        position = max((0, *member.got))
        kept_from = [set(step[2]) for step in steps if step[0] == "send"]
        if position >= member.floor and all(len(names) < 2 and names <= set(NAMES) for names in kept_from):
            assert member.missed(position) == []
    for member in members.values():
        for room in list(member.rooms):
            member.leave(room)
    assert (len(log), log.bytes, log.room_count) == (0, 0, 0)
