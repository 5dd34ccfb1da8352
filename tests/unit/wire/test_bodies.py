"""What the bodies of client events must be; the error names the field."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest

from fastim.errors import ErrorCode, RequestError
from fastim.wire.bodies import (
    BODIES,
    Ack,
    Binary,
    Body,
    ConversationCreate,
    Conversations,
    ConversationUpdate,
    Hello,
    History,
    Members,
    Message,
    Ping,
    Presence,
    PresenceSubscribe,
    ReadReceipt,
    Refresh,
    Typing,
    decode_body,
)
from fastim.wire.native import Encoding, decode_value, encode_value

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
BOTH = (JSON, MSGPACK)

GOOD: list[tuple[type[Body], dict[str, Any]]] = [
    (Hello, {}),
    (
        Hello,
        {
            "token": "t",
            "device": "d",
            "batch": True,
            "acks": True,
            "resume": {"session": "s", "seen": {"c": 0}},
        },
    ),
    (Hello, {"resume": {"session": "s"}}),
    (Hello, {"token": None, "device": None, "resume": None}),
    (Message, {"conversation": "c", "content": "hi"}),
    (
        Message,
        {"conversation": "é" * 64, "content": None, "kind": "own", "client_id": "c" * 64, "reply_to": 1},
    ),
    (Binary, {"conversation": "c", "data": b"\x00", "name": "n", "type": "image/png", "client_id": "x"}),
    (Ack, {"conversation": "c", "seq": 0}),
    (ReadReceipt, {"conversation": "c", "seq": 2**63 - 1}),
    (Typing, {"conversation": "c", "typing": False}),
    (Presence, {"status": "away", "metadata": {"$x": [1]}}),
    (Presence, {"status": "busy"}),
    (PresenceSubscribe, {"users": ["u"] * 500}),
    (PresenceSubscribe, {"conversation": "c", "unsubscribe": True}),
    (History, {"conversation": "c"}),
    (History, {"conversation": "c", "after": 0, "limit": 1}),
    (History, {"conversation": "c", "before": 5, "limit": 500}),
    (Conversations, {}),
    (Conversations, {"after": "c", "limit": 5}),
    (
        ConversationCreate,
        {"kind": "group", "members": [], "title": "", "client_id": "x", "conversation": "c"},
    ),
    (ConversationCreate, {"kind": "direct", "members": ["u"]}),
    (ConversationUpdate, {"conversation": "c", "title": "t", "add": ["u"], "remove": ["v"]}),
    (Members, {"conversation": "c", "after": "u", "limit": 500}),
    (Refresh, {"token": "t"}),
    (Ping, {}),
]

BAD: list[tuple[type[Body], Any, str]] = [
    *((kind, [], "body: expected map") for kind in BODIES.values()),
    *((kind, None, "body: expected map") for kind in BODIES.values()),
    (Hello, {"token": 5}, "token: expected str"),
    (Hello, {"token": ""}, "token: "),
    (Hello, {"token": "x" * 8193}, "token: "),
    (Hello, {"device": ""}, "device: expected 1 to 128"),
    (Hello, {"batch": 1}, "batch: expected bool"),
    (Hello, {"resume": {}}, "resume.session: required"),
    (Hello, {"resume": {"session": "s\n"}}, "resume.session: expected no control"),
    (Hello, {"resume": {"session": "s", "seen": {"c": -1}}}, "resume.seen"),
    (Hello, {"resume": {"session": "s", "seen": {"": 1}}}, "resume.seen: expected 1 to 128"),
    (
        Hello,
        {"resume": {"session": "s", "seen": {str(i): 1 for i in range(1001)}}},
        "resume.seen: expected map",
    ),
    (Message, {"content": "x"}, "conversation: required"),
    (Message, {"conversation": "c"}, "content: required"),
    (Message, {"conversation": 5, "content": "x"}, "conversation: expected str, got int"),
    (Message, {"conversation": "", "content": "x"}, "conversation: expected 1 to 128 bytes, got 0"),
    (Message, {"conversation": "é" * 65, "content": "x"}, "conversation: expected 1 to 128 bytes, got 130"),
    (Message, {"conversation": "c\x00", "content": "x"}, "conversation: expected no control"),
    (Message, {"conversation": "c", "content": "x", "client_id": "c" * 65}, "client_id: expected 1 to 64"),
    (Message, {"conversation": "c", "content": "x", "client_id": 5}, "client_id: expected str"),
    (Message, {"conversation": "c", "content": 1, "kind": "text"}, "content: expected a string"),
    (Message, {"conversation": "c", "content": b"x", "kind": "text"}, "content: expected a string"),
    (Message, {"conversation": "c", "content": "x", "kind": ""}, "kind: expected 1 to 64"),
    (Message, {"conversation": "c", "content": "x", "kind": "a\n"}, "kind: expected no control"),
    (Message, {"conversation": "c", "content": "x", "reply_to": 0}, "reply_to: expected int >= 1"),
    (Message, {"conversation": "c", "content": "x", "reply_to": 2**63}, "reply_to: expected int <= "),
    (Message, {"conversation": "c", "content": "x", "reply_to": 1.5}, "reply_to: expected int, got float"),
    (Binary, {"conversation": "c", "data": "text"}, "data: expected bytes, got string"),
    (Binary, {"conversation": "c"}, "data: required"),
    (Binary, {"conversation": "c", "data": b"", "name": "\x00"}, "name: expected no control"),
    (Ack, {"conversation": "c", "seq": -1}, "seq: expected int >= 0"),
    (Ack, {"conversation": "c", "seq": True}, "seq: expected int, got bool"),
    (Ack, {"conversation": "c", "seq": 2**64 - 1}, "seq: expected int <= "),
    (ReadReceipt, {"conversation": "c"}, "seq: required"),
    (Typing, {"conversation": "c", "typing": "yes"}, "typing: expected bool"),
    (Presence, {"status": "offline"}, "status: "),
    (Presence, {"status": "away", "metadata": "x" * 1024}, "metadata: expected at most 1024"),
    (PresenceSubscribe, {}, "users: expected either"),
    (PresenceSubscribe, {"users": [], "conversation": "c"}, "users: expected either"),
    (PresenceSubscribe, {"users": ["u"] * 501}, "users: expected array of length <= 500"),
    (PresenceSubscribe, {"users": ["u", ""]}, "users[1]: expected 1 to 128"),
    (PresenceSubscribe, {"users": ["u", 5]}, "users[1]: expected str"),
    (History, {"conversation": "c", "limit": 501}, "limit: expected int <= 500"),
    (History, {"conversation": "c", "limit": 0}, "limit: expected int >= 1"),
    (History, {"conversation": "c", "after": 1, "before": 2}, "before: "),
    (History, {"conversation": "c", "after": -1}, "after: "),
    (Conversations, {"after": ""}, "after: "),
    (ConversationCreate, {"kind": "room", "members": []}, "kind: "),
    (ConversationCreate, {"kind": "group"}, "members: required"),
    (ConversationCreate, {"kind": "group", "members": "ab"}, "members: expected array"),
    (ConversationCreate, {"kind": "group", "members": ["a", "\n"]}, "members[1]: "),
    (ConversationCreate, {"kind": "group", "members": ["a"] * 10_001}, "members: "),
    (ConversationCreate, {"kind": "group", "members": [], "title": "t" * 257}, "title: "),
    (ConversationUpdate, {"conversation": "c", "add": [""]}, "add[0]: "),
    (ConversationUpdate, {"conversation": "c", "remove": [1]}, "remove[0]: "),
    (Members, {"conversation": "c", "limit": "5"}, "limit: expected int, got str"),
    (Refresh, {}, "token: required"),
]


def refusal(body: bytes, kind: type[Body], encoding: Encoding) -> str:
    with pytest.raises(RequestError) as caught:
        decode_body(body, kind, encoding)
    assert caught.value.code == ErrorCode.BAD_REQUEST
    return caught.value.message


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(("kind", "fields"), GOOD)
def test_body_when_good_then_its_fields(kind: type[Body], fields: dict[str, Any], encoding: Encoding) -> None:
    body = decode_body(encode_value({**fields, "unknown": {"$$": [1]}}, encoding), kind, encoding)
    for name, value in fields.items():
        got = getattr(body, name) if name != "content" or kind is not Binary else None
        if isinstance(got, bytes):
            assert decode_value(got, encoding) == value
        elif name == "resume" and value:
            assert got.session == value["session"]
            assert got.seen == value.get("seen", {})
        else:
            assert got == value


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(("kind", "fields", "problem"), BAD)
def test_body_when_bad_then_the_error_names_the_field(
    kind: type[Body], fields: Any, problem: str, encoding: Encoding
) -> None:
    assert refusal(encode_value(fields, encoding), kind, encoding).startswith(problem)


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("x", "text"),
        (b"x", "binary"),
        (None, "data"),
        (1, "data"),
        ([], "data"),
        ({"a": 1}, "data"),
        (1.5, "data"),
    ],
)
def test_message_when_no_kind_is_given_then_it_follows_the_content(
    content: Any, kind: str, encoding: Encoding
) -> None:
    body = decode_body(encode_value({"conversation": "c", "content": content}, encoding), Message, encoding)
    assert body.kind == kind
    assert type(body.content) is bytes


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"1e999", "double out of range"),
        (b"18446744073709551616", "integer out of range"),
        (b'"\\udfff"', "Unicode"),
        (b'{"$x":1}', "written with"),
        (b'{"$bytes":"x"}', "base64"),
        (b"[" * 65 + b"]" * 65, "nested"),
    ],
)
def test_json_content_when_against_the_rules_then_named(content: bytes, problem: str) -> None:
    message = refusal(b'{"conversation":"c","content":' + content + b"}", Message, JSON)
    assert message.startswith("content: ")
    assert problem in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (msgpack.packb(msgpack.ExtType(5, b"x")), "extension"),
        (b"\x81\x01\x01", "key"),
        (b"\xa1\xff", "UTF-8"),
        (msgpack.packb(float("nan")), "finite"),
        (b"\x91" * 65 + b"\x01", "nested"),
    ],
)
def test_msgpack_content_when_against_the_rules_then_named(content: bytes, problem: str) -> None:
    message = refusal(b"\x82\xacconversation\xa1c\xa7content" + content, Message, MSGPACK)
    assert message.startswith("content: ")
    assert problem in message


def test_content_when_json_then_kept_byte_for_byte() -> None:
    body = decode_body(b'{"content": { "a" : [1 , 2] } ,"conversation":"c"}', Message, JSON)
    assert body.content == b'{ "a" : [1 , 2] }'


@pytest.mark.parametrize("encoding", BOTH)
def test_binary_when_decoded_then_its_content_is_a_map(encoding: Encoding) -> None:
    fields = {"data": b"\x00\xff", "name": "a.png", "type": "image/png"}
    body = decode_body(encode_value({"conversation": "c", **fields}, encoding), Binary, encoding)
    assert decode_value(body.content(encoding), encoding) == fields
    bare = decode_body(encode_value({"conversation": "c", "data": b""}, encoding), Binary, encoding)
    assert decode_value(bare.content(encoding), encoding) == {"data": b""}


@pytest.mark.parametrize("encoding", BOTH)
@pytest.mark.parametrize("fields", [{"status": "away"}, {"status": "away", "metadata": None}])
def test_presence_when_no_metadata_then_empty(fields: dict[str, Any], encoding: Encoding) -> None:
    body = decode_body(encode_value(fields, encoding), Presence, encoding)
    assert body.metadata == b""
    assert not body.metadata


@pytest.mark.parametrize("kind", BODIES.values())
def test_body_when_bytes_are_anything_then_only_request_errors(kind: type[Body]) -> None:
    for data in (
        b"",
        b"{",
        b'{"conversation":"\\ud800"}',
        b'{"x":' + b"[" * 50_000,
        b"\xc1",
        b"\x81\xa1x" + b"\x91" * 9000,
    ):
        for encoding in BOTH:
            refusal(data, kind, encoding)


def test_body_when_a_string_has_a_lone_surrogate_then_refused() -> None:
    fields = {"conversation": "c", "content": "x", "client_id": "\ud800"}
    assert refusal(json.dumps(fields).encode(), Message, JSON).startswith("client_id: expected Unicode text")
    assert refusal(b"\x82\xacconversation\xa1\xff\xa3seq\x01", Ack, MSGPACK).startswith("conversation: ")
