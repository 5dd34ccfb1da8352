"""The recorder: an application's first event in a namespace waits; the others are kept as they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fastim.guard.pids import Pids
from fastim.server.application.outgoing import Outgoing
from fastim.server.recovery.options import RecoveryOptions
from fastim.server.recovery.recorder import Recorder, RenderedEvent
from fastim.server.recovery.recovery import Recovery, room_of
from fastim.server.recovery.restarts import EVERY_NAMESPACE

NORMAL, LOW = 1, 2


class Connection:
    """What recovery wants to know of a connection."""

    def __init__(self, sid: str, encoding: int = 0) -> None:
        self.sid = sid
        self.user_id = self.device = ""
        self.namespace = "/"
        self.session_id = sid
        self.encoding = encoding
        self.origin: str | None = None


class Desk:
    """A recorder, and what it has asked the store to note."""

    def __init__(self) -> None:
        self.recovery = Recovery(
            RecoveryOptions(),
            Pids([b"a secret of the unit tests, 32 bytes."]),
            clock_ns=lambda: 0,
            time_ms=lambda: 0,
            last_key=lambda: 0,
            last_change=lambda: 0,
        )
        self.asked: list[tuple[str, Callable[[], None]]] = []
        self.recorder = Recorder(self.recovery, lambda namespace, then: self.asked.append((namespace, then)))

    def events(self) -> list[Any]:
        return [entry.event for entry, _ in self.recovery.log.entries()]


def test_first_event_when_the_namespace_is_not_known_then_waits_with_those_behind_it() -> None:
    desk = Desk()
    desk.recorder.start(["/chat"])
    done: list[int] = []
    assert not desk.recorder.hold_back("/chat", done.append, 0)
    assert desk.recorder.hold_back("/", done.append, 1)
    assert desk.recorder.hold_back("/", done.append, 2)
    assert (done, [namespace for namespace, _ in desk.asked]) == ([], ["/"])
    desk.asked[0][1]()
    assert done == [1, 2]
    assert not desk.recorder.hold_back("/", done.append, 3)


def test_first_event_when_all_namespaces_are_known_then_does_not_wait() -> None:
    desk = Desk()
    desk.recorder.start([EVERY_NAMESPACE])
    assert not desk.recorder.hold_back("/any", list)


def test_first_event_when_nobody_comes_back_there_after_a_restart_then_does_not_wait() -> None:
    desk = Desk()
    recorder = Recorder(desk.recovery, lambda namespace, then: pytest.fail(namespace), {"/"}.__contains__)
    assert not recorder.hold_back("/team-7", list)


def test_first_event_when_it_cannot_be_sent_then_those_behind_it_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    done: list[int] = []
    assert desk.recorder.hold_back("/", [].remove, 1)
    assert desk.recorder.hold_back("/", done.append, 2)
    desk.asked[0][1]()
    assert done == [2]
    assert "cannot be sent" in caplog.text


def test_name_when_a_connection_of_that_sid_is_gone_then_is_a_room_too() -> None:
    desk = Desk()
    ann, bob = Connection("ann"), Connection("bob")
    for connection in (ann, bob):
        desk.recovery.begin(connection, complete=True)
    desk.recovery.join(bob, room_of("/", "ann"))
    desk.recorder.to_names(Outgoing("event", (1,), {}), NORMAL, "/", ("ann",))
    desk.recovery.gone(ann, may_return=True)
    desk.recorder.to_names(Outgoing("event", (2,), {}), NORMAL, "/", ("ann",))
    rooms = [rooms for _, rooms in desk.recovery.log.entries()]
    assert rooms == [["ann"], ["ann", room_of("/", "ann")]]


def test_event_when_nobody_can_miss_it_then_has_no_offset() -> None:
    desk = Desk()
    outgoing = Outgoing("event", (1,), {})
    desk.recorder.to_names(outgoing, NORMAL, "/", None)
    assert outgoing.socketio(0) == (b'42["event",1]', ())
    assert desk.events() == []


def test_event_when_somebody_can_miss_it_then_is_kept_as_it_is_sent() -> None:
    desk = Desk()
    for connection in (Connection("ann"), Connection("bob", 1)):
        desk.recovery.begin(connection, complete=True)
    outgoing = Outgoing("event", (1, b"x"), {})
    outgoing.socketio(0)  # as a thread does
    desk.recorder.to_names(outgoing, NORMAL, "/", None)
    (event,) = desk.events()
    assert isinstance(event, RenderedEvent)
    assert event.forms == (outgoing.socketio(0), outgoing.socketio(1))
    offset = f"{desk.recovery.epoch}-1-0-0".encode()
    assert event.forms[0] is not None
    assert event.forms[1] is not None
    assert event.forms[0][0].endswith(b',"' + offset + b'"]')
    assert offset in event.forms[1][0]
    assert event.size > event.size_for(0) > len(offset)


def test_volatile_event_when_its_last_value_is_a_string_then_null_comes_behind_it() -> None:
    desk = Desk()
    desk.recovery.begin(Connection("ann"), complete=True)
    for args, expected in (
        ((1, "text"), b'42["event",1,"text",null]'),
        (("text", 1), b'42["event","text",1]'),
        ((), b'42["event"]'),
    ):
        outgoing = Outgoing("event", args, {})
        desk.recorder.to_names(outgoing, LOW, "/", None)
        assert outgoing.socketio(0) == (expected, ())
    assert desk.events() == []
