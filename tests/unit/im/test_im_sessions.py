"""Ended sessions: for the same user and device, for a while, bounded."""

from __future__ import annotations

import pytest

from fastim._core.hub import Hub
from fastim.im.resume import Sessions
from fastim.im.session import Session, Status
from fastim.im.user import User


def ended(hub: Hub, sessions: Sessions, user: str, device: str, now_ns: int) -> int:
    session = Session(hub, 0, 0)
    session.user = User(user, 1)
    session.device = device
    session.number = sessions.new_number()
    session.status = Status.BUSY
    sessions.end(session, now_ns)
    return session.number


def test_take_when_user_device_and_time_fit_then_once() -> None:
    hub, sessions = Hub(), Sessions(1000, 10)
    number = ended(hub, sessions, "ann", "d", 0)
    assert sessions.take(number, "bob", "d", 1) is None
    assert sessions.take(number, "ann", "e", 1) is None
    assert sessions.take(number, "ann", "d", 1000) is None
    found = sessions.take(number, "ann", "d", 999)
    assert found is not None
    assert found.status == Status.BUSY
    assert sessions.take(number, "ann", "d", 999) is None
    hub.shutdown()


def test_end_when_full_or_old_then_the_oldest_go() -> None:
    hub, sessions = Hub(), Sessions(1000, 3)
    numbers = [ended(hub, sessions, "ann", "d", now_ns) for now_ns in (0, 100, 200, 300)]
    assert len(sessions) == 3
    assert sessions.take(numbers[0], "ann", "d", 300) is None
    ended(hub, sessions, "ann", "d", 1250)
    assert len(sessions) == 2
    sessions.forget(numbers[3])
    assert sessions.take(numbers[3], "ann", "d", 1250) is None
    hub.shutdown()


def test_id_when_made_then_read_back() -> None:
    for _ in range(100):
        number = Sessions.new_number()
        assert 0 < number < 1 << 60
        assert Sessions.from_id(Sessions.to_id(number)) == number


@pytest.mark.parametrize(
    "text", ["", "x", "-" * 16, " 123456789012345", "+123456789012345", "1_34567890123456"]
)
def test_id_when_nonsense_then_none(text: str) -> None:
    assert Sessions.from_id(text) == 0
