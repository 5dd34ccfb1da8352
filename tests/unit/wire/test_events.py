"""The table of events."""

from __future__ import annotations

import pytest

from fastim.wire.bodies import BODIES
from fastim.wire.events import CODES, EVENTS, NAMES, Direction, is_reserved


def test_table_when_read_then_names_and_codes_are_unique() -> None:
    assert len(CODES) == len(NAMES) == len(EVENTS) == 27
    assert all(NAMES[CODES[name]] == name for name in CODES)


def test_table_when_an_event_goes_to_the_server_then_it_has_a_body() -> None:
    wanted = {event.name for event in EVENTS if event.direction is Direction.TO_SERVER}
    assert wanted == set(BODIES)


@pytest.mark.parametrize(
    "event",
    ["message", "message_edit", "conversation.x", "presence_x", "doc", "fastim", "fastim.x", "ok", 1, 255],
)
def test_reserved_when_ours_then_true(event: str | int) -> None:
    assert is_reserved(event)


@pytest.mark.parametrize(
    "event",
    ["echo", "order.watch", "my_message", "Message", "message-back", "messages", "documents", 256, 1000],
)
def test_reserved_when_an_applications_then_false(event: str | int) -> None:
    assert not is_reserved(event)
