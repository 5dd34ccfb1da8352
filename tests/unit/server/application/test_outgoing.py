"""Events on their way out: one encoding for each form."""

from __future__ import annotations

from typing import Any

import pytest

from fastim._core.hub import Encoding
from fastim.server.application.outgoing import Outgoing

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK


@pytest.mark.parametrize(
    ("args", "native", "socketio"),
    [
        ([], b'["e",null]', b'42["e"]'),
        ([None], b'["e",null]', b'42["e",null]'),
        ([1], b'["e",1]', b'42["e",1]'),
        ([[1, 2]], b'["e",[1,2]]', b'42["e",[1,2]]'),
        ([1, "x"], b'["e",[1,"x"]]', b'42["e",1,"x"]'),
    ],
)
def test_values_when_encoded_then_as_each_protocol_has_them(
    args: list[Any], native: bytes, socketio: bytes
) -> None:
    outgoing = Outgoing("e", args, {})
    assert outgoing.native(JSON) == native
    assert outgoing.socketio(JSON) == (socketio, ())


def test_form_when_asked_for_again_then_the_same_object() -> None:
    outgoing = Outgoing("e", ["x" * 100], {"e": 300}, 7)
    for form in (outgoing.native, outgoing.socketio):
        for encoding in (JSON, MSGPACK):
            assert form(encoding) is form(encoding)
    assert outgoing.native(JSON).startswith(b'["e",')
    assert outgoing.native(MSGPACK).startswith(b"\x93\xcd\x01\x2c")  # its code
    assert outgoing.native(JSON).endswith(b",7]")
    assert outgoing.socketio(JSON)[0].startswith(b'427["e",')


def test_value_when_it_cannot_be_encoded_then_refused() -> None:
    for form in (Outgoing("e", [object()], {}).native, Outgoing("e", [object()], {}).socketio):
        for encoding in (JSON, MSGPACK):
            with pytest.raises(ValueError):
                form(encoding)
    with pytest.raises(ValueError):
        Outgoing("e", [object()], {}).check()
