"""What stands around Socket.IO's packets: attachments that come one by one, answers, native packets."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgpack
import pytest

from fastim.wire.native import Encoding, encode_packet
from fastim.wire.socketio import (
    DISCONNECT,
    MESSAGE_SENT_REF,
    Assembly,
    PacketType,
    addressed,
    encode_ack,
    encode_connect,
    encode_connect_error,
    encode_event,
    read_map,
    read_text,
    written_from_native,
)

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
TWO = b'52-/chat,7["x",{"_placeholder":true,"num":1},{"a":[{"_placeholder":true,"num":0}]}]'


def test_assembly_when_the_last_attachment_comes_then_the_packet() -> None:
    kind, _, _, _, count = read_text(TWO, 10)
    assert (kind, count) == (PacketType.BINARY_EVENT, 2)
    assembly = Assembly(TWO, 2, 0)
    assert assembly.add(b"first") is None
    assert assembly.add(b"") == (PacketType.EVENT, "/chat", 7, "x", [b"", {"a": [b"first"]}])


def test_assembly_when_attachments_are_too_large_together_then_refused() -> None:
    assembly = Assembly(TWO, 2, len(TWO) + 4)
    assert assembly.add(b"abcd") is None
    with pytest.raises(ValueError, match="too large"):
        assembly.add(b"e")


@pytest.mark.parametrize("encoding", [JSON, MSGPACK])
def test_connect_error_when_addressed_then_it_has_its_namespace(encoding: Encoding) -> None:
    refused = encode_connect_error("unauthorized", {"code": 401}, encoding)
    there, root = addressed(refused, "/x", encoding), addressed(refused, "/", encoding)
    if encoding == JSON:
        assert there == b'44/x,{"message":"unauthorized","data":{"code":401}}'
        assert root == refused
        assert addressed(encode_connect({"sid": "a"}, JSON), "/x", JSON) == b'40/x,{"sid":"a"}'
    else:
        body = {"message": "unauthorized", "data": {"code": 401}}
        assert msgpack.unpackb(there) == {"type": 4, "data": body, "nsp": "/x"}
        assert msgpack.unpackb(root)["nsp"] == "/"


def test_connect_error_when_the_namespace_is_invalid_then_as_clients_know_it() -> None:
    packet = addressed(encode_connect_error("Invalid namespace", None, JSON), "/x", JSON)
    assert packet == b'44/x,{"message":"Invalid namespace"}'


def test_disconnect_when_it_is_msgpack_then_it_has_no_data() -> None:
    assert msgpack.unpackb(DISCONNECT[MSGPACK] + b"\xa3nsp\xa1/") == {"type": 1, "nsp": "/"}
    assert read_map(DISCONNECT[MSGPACK] + b"\xa3nsp\xa1/") == (PacketType.DISCONNECT, "/", None, "", None)


@dataclass
class Order:
    id: UUID
    price: Decimal
    blob: bytes


def test_event_when_values_are_pythons_own_then_they_are_sent_as_plain_ones() -> None:
    order = Order(UUID(int=1), Decimal("1.50"), b"data")
    fields = (
        b'{"id":"00000000-0000-0000-0000-000000000001","price":"1.50","blob":{"_placeholder":true,"num":0}}'
    )
    assert encode_event("order", (order,), JSON) == (b'451-["order",' + fields + b"]", (b"data",))
    assert encode_ack(3, ({"n": frozenset([1])},), JSON) == (b'433[{"n":[1]}]', ())
    with pytest.raises(TypeError):
        encode_event("order", (object(),), JSON)


@pytest.mark.parametrize(
    ("event", "ref", "head"),
    [
        ("new_message", None, b'451-["new_message",%b]'),
        ("question", 7, b'451-7["question",%b]'),
        ("ok", 0, b"461-0[%b]"),
        ("ok", 7, b"461-7[%b]"),
        ("error", 7, b'461-7[{"error":%b}]'),
        ("error", None, b'451-["error",%b]'),
        ("ok", MESSAGE_SENT_REF, b'451-["message_sent",%b]'),
        ("error", MESSAGE_SENT_REF, b'451-["error",%b]'),
    ],
)
def test_native_packet_when_written_then_as_its_rendering(event: str, ref: int | None, head: bytes) -> None:
    body: dict[str, Any] = {"$price": 1, "data": b"\x00\xff"}
    packet = encode_packet(event, body, JSON, ref)
    expected = head % b'{"$price":1,"data":{"_placeholder":true,"num":0}}'
    assert written_from_native(packet) == (expected, (b"\x00\xff",))
