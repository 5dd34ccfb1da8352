"""Sessions: for the same user and device, for a while, bounded in number and memory, each end told once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastim._core.hub import Hub
from fastim.im.domain import Domain
from fastim.im.options import ImOptions
from fastim.im.session import Session, Status
from fastim.im.sessions import (
    CURSOR_BYTES,
    DETACHED_BYTES,
    MAX_DETACHED_A_USER,
    Cursors,
    DetachedSession,
    EndedSession,
    EndReason,
    Sessions,
    note_ack,
)
from fastim.im.user import User

LIFE_NS = 1_000


class Fixture:
    """Sessions of a domain without connections, and the ends they told of."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.now_ns = 1
        self.told: list[EndedSession] = []
        unused: Any = None
        self.domain = Domain(
            hub,
            unused,
            ImOptions(),
            clock_ns=lambda: self.now_ns,
            time_ms=lambda: 0,
            spawn=asyncio.ensure_future,
        )
        self.sessions = self.make(10)

    def make(self, max_detached: int, max_bytes: int = 0, life_ns: int = LIFE_NS) -> Sessions:
        self.sessions = Sessions(self.domain, life_ns, max_detached, max_bytes)
        self.sessions.on_end = self.told.append
        return self.sessions

    def live(self, user_id: str = "ann", device: str = "d") -> Session:
        session = Session(self.hub, 0, 0)
        session.user = self.domain.load_user(user_id, 1, ())
        session.device = device
        session.session_id = Sessions.new_id()
        session.status = Status.BUSY
        self.sessions.enter(session)
        session.user.enter(session)
        return session

    def leave(self, session: Session) -> str:
        assert session.user is not None
        session.user.exit(session)
        self.sessions.detach(session, session.user)
        return session.session_id

    def reasons(self) -> dict[str, EndReason]:
        assert len({ended.session for ended in self.told}) == len(self.told)
        return {ended.session: ended.reason for ended in self.told}


@pytest.fixture
def made() -> Iterator[Fixture]:
    hub = Hub()
    yield Fixture(hub)
    hub.shutdown()


def test_find_when_user_device_and_time_fit_then_as_it_was_left(made: Fixture) -> None:
    session_id = made.leave(made.live())
    sessions = made.sessions
    assert sessions.find(session_id, "bob", "d") is None
    assert sessions.find(session_id, "ann", "e") is None
    assert sessions.find("f" * 16, "ann", "d") is None
    made.now_ns = LIFE_NS
    found = sessions.find(session_id, "ann", "d")
    assert isinstance(found, DetachedSession)
    assert found.status == Status.BUSY
    assert sessions.device_of(session_id, "ann") == "d"
    assert sessions.device_of(session_id, "bob") is None
    made.now_ns = LIFE_NS + 1
    assert sessions.find(session_id, "ann", "d") is None


def test_detached_session_when_it_ends_then_its_user_is_unloaded_and_it_is_told_once(made: Fixture) -> None:
    session_id = made.leave(made.live())
    made.sessions.tick(made.now_ns)
    assert list(made.domain.users) == ["ann"]
    made.now_ns += LIFE_NS
    for _ in range(3):
        made.sessions.tick(made.now_ns)
    assert made.told == [EndedSession(session_id, "ann", "d", EndReason.EXPIRED)]
    assert made.domain.users == {}
    assert made.sessions.stats()["expired_total"] == 1


def test_detached_sessions_when_too_many_then_the_longest_unused_is_evicted_live_ones_do_not_count(
    made: Fixture,
) -> None:
    sessions = made.make(3)
    stays = [made.live("ann", f"live{number}") for number in range(5)]
    left = [made.leave(made.live("bob", str(number))) for number in range(5)]
    sessions.tick(made.now_ns)
    assert made.reasons() == {left[0]: EndReason.EVICTED, left[1]: EndReason.EVICTED}
    assert sessions.stats()["live"] == len(stays)
    assert sessions.stats()["detached"] == 3
    assert [session_id for session_id, _ in sessions.detached_of(made.domain.users["bob"])] == left[2:]


def test_detached_sessions_when_they_hold_too_much_then_the_longest_unused_is_evicted(made: Fixture) -> None:
    sessions = made.make(0, max_bytes=3 * DETACHED_BYTES + 20 * CURSOR_BYTES)
    left = []
    for number in range(4):
        session = made.live("ann", str(number))
        for key in range(10):
            note_ack(session, key, 1)
        left.append(made.leave(session))
    sessions.tick(made.now_ns)
    assert made.reasons() == dict.fromkeys(left[:2], EndReason.EVICTED)
    assert sessions.stats()["detached_bytes"] == 2 * (DETACHED_BYTES + 10 * CURSOR_BYTES)


def test_session_when_ended_while_live_then_told_at_once_and_its_connections_end_is_no_second(
    made: Fixture,
) -> None:
    session = made.live()
    assert made.sessions.end(session.session_id, EndReason.REMOVED)
    assert not made.sessions.end(session.session_id, EndReason.REMOVED)
    made.leave(session)
    made.now_ns += LIFE_NS
    made.sessions.tick(made.now_ns)
    assert made.reasons() == {session.session_id: EndReason.REMOVED}
    assert made.sessions.stats()["detached"] == 0


@pytest.mark.parametrize("detached", [False, True])
def test_session_when_displaced_then_known_as_such_for_its_life_and_told_once(
    made: Fixture, detached: bool
) -> None:
    session = made.live()
    session_id = session.session_id
    if detached:
        made.leave(session)
    made.sessions.displace(session_id)
    if not detached:
        made.leave(session)
    assert made.sessions.find(session_id, "ann", "d") is None
    assert made.sessions.is_displaced(session_id, "ann")
    assert not made.sessions.is_displaced(session_id, "bob")
    assert made.sessions.device_of(session_id, "ann") == "d"
    made.now_ns += LIFE_NS
    made.sessions.tick(made.now_ns)
    assert not made.sessions.is_displaced(session_id, "ann")
    assert made.reasons() == {session_id: EndReason.REPLACED}


def test_session_when_taken_over_then_the_old_connections_end_detaches_nothing(made: Fixture) -> None:
    old = made.live()
    new = made.live()
    new.session_id = old.session_id
    made.sessions.enter(new)
    made.leave(old)
    assert made.sessions.find(new.session_id, "ann", "d") is new


def test_session_when_life_is_zero_then_ends_with_its_connection(made: Fixture) -> None:
    made.make(10, life_ns=0)
    session_id = made.leave(made.live())
    assert made.reasons() == {session_id: EndReason.EXPIRED}
    assert made.sessions.find(session_id, "ann", "d") is None


def test_user_when_many_sessions_are_detached_then_each_is_found_and_goes_alone(made: Fixture) -> None:
    made.make(0)
    left = [made.leave(made.live("ann", str(number))) for number in range(200)]
    user = made.domain.users["ann"]
    assert list(user.detached) == left
    made.sessions.end(left[7], EndReason.REMOVED)
    assert list(user.detached) == left[:7] + left[8:]


def test_user_when_too_many_sessions_are_detached_then_the_one_that_left_first_ends(made: Fixture) -> None:
    made.make(2 * MAX_DETACHED_A_USER)
    others = made.leave(made.live("bob"))
    left = [made.leave(made.live("ann", str(number))) for number in range(MAX_DETACHED_A_USER + 3)]
    assert made.reasons() == dict.fromkeys(left[:3], EndReason.EVICTED)
    assert list(made.domain.users["ann"].detached) == left[3:]
    assert made.sessions.find(others, "bob", "d") is not None


def test_cursors_when_complete_then_what_is_missing_was_never_acknowledged() -> None:
    session = Session(Hub(), 0, 0)
    note_ack(session, 1, 5)
    note_ack(session, 1, 3)
    assert session.cursors.position(1, 0) == 5
    assert session.cursors.position(1, 9) == 9  # joined again after it was acknowledged
    assert session.cursors.position(2, 0) is None
    assert Cursors({1: 5}, complete=True).position(2, 4) == 4
    session.hub.shutdown()


def test_id_when_made_then_short_and_never_twice() -> None:
    made = {Sessions.new_id() for _ in range(1_000)}
    assert len(made) == 1_000
    assert {len(session_id) for session_id in made} == {11}


def test_detached_session_when_measured_then_not_larger_than_what_is_declared() -> None:
    """The estimates are upper bounds of what the interpreter says."""
    hub = Hub()
    session = Session(hub, 0, 0)
    session.device = "d" * 22
    session.session_id = Sessions.new_id()
    for key in range(1_000):
        note_ack(session, 1 << 20 | key, 1 << 20 | key)
    detached = DetachedSession(session, User("ann", 1))
    own = sum(sys.getsizeof(part) for part in (detached, session.device, session.session_id, session.cursors))
    assert own + sys.getsizeof({1: 1}) <= DETACHED_BYTES
    acked = session.cursors.acked
    entries = sys.getsizeof(acked) + sum(
        sys.getsizeof(key) + sys.getsizeof(seq) for key, seq in acked.items()
    )
    assert entries <= CURSOR_BYTES * len(acked)
    hub.shutdown()
