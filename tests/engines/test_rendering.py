"""What channels get of native packets, against the twin: every byte, in each parser and over each way."""

import json
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastim._core.hub import MESSAGE_SENT_REF, Encoding
from tests.engines.engine_rig import EngineRig, Transport
from tests.reference import rendering
from tests.reference.rendering import ACK, BINARY_ACK, BINARY_EVENT, EVENT, Packet

NAMES = {11: "ok", 12: "error", 13: "new_message", 300: "own"}
CODES = {name: code for code, name in NAMES.items()}
EVENTS = st.sampled_from(["ok", "error", "new_message", "own", "x", 'a "quoted" \\ name', "ä\x00\U0001f600"])
REFS = st.one_of(st.integers(0, 3), st.sampled_from([2**31, 2**32, MESSAGE_SENT_REF - 1, MESSAGE_SENT_REF]))
NAMESPACES = st.sampled_from(["/", "/chat", "/an/other-one", "/" + "n" * 300])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)
BODIES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.text(max_size=4).filter(str.isascii), inner, max_size=4),
    ),
    max_leaves=8,
)
NATIVE = st.one_of(st.tuples(EVENTS, BODIES), st.tuples(EVENTS, BODIES, REFS)).map(list)
no_check = [HealthCheck.function_scoped_fixture]


def in_json(native: list[Any]) -> bytes:
    return json.dumps(native, ensure_ascii=False, separators=(",", ":")).encode()


def in_msgpack(native: list[Any], codes: bool = True) -> bytes:
    return msgpack.packb([CODES.get(native[0], native[0]) if codes else native[0], *native[1:]])


@pytest.fixture
def transport(engine: EngineRig) -> Transport:
    engine.hub.set_event_names(NAMES)
    return engine.transport()


@settings(max_examples=150, deadline=None, suppress_health_check=no_check)
@given(NATIVE, NAMESPACES)
@example(["x", 15], "/")
@example(["x", [1, 2]], "/")
@example(["x", "1,2"], "/chat")
@example(["ok", 1, 2], "/")
@example(["ok", -5], "/")
def test_a_native_packet_when_sent_to_channels_then_each_parser_has_it(
    transport: Transport, native: list[Any], namespace: str
) -> None:
    hub = transport.rig.hub
    text, packed = transport.channel(namespace), transport.channel(namespace, Encoding.MSGPACK)
    expected = rendering.from_native(native, namespace)
    assert hub.send(text.handle, in_json(native))
    assert hub.send(packed.handle, in_msgpack(native))
    assert hub.send(packed.handle, in_msgpack(native, codes=False))
    sent = transport.messages()
    assert sent == [rendering.encode_text(expected), *[rendering.encode_packed(expected)] * 2]
    assert json.dumps(rendering.decode_text(sent[:1])[0].data) == json.dumps(expected.data)
    hub.drop_channel(text.handle)
    hub.drop_channel(packed.handle)


@settings(max_examples=60, deadline=None, suppress_health_check=no_check)
@given(BODIES, REFS)
def test_a_body_when_it_holds_white_space_then_it_is_carried_as_it_is(
    transport: Transport, body: Any, ref: int
) -> None:
    root = transport.channel()
    spaced = json.dumps(body, separators=(" , ", " : "), indent=1).encode()
    for event, type_, data in (("x", EVENT, ["x", body]), ("ok", ACK, [body])):
        if ref == MESSAGE_SENT_REF and type_ == ACK:
            continue
        transport.rig.hub.send(root.handle, b'["%s",%s,%d]' % (event.encode(), spaced, ref))
        (found,) = rendering.decode_text(transport.messages())
        assert json.dumps([found.type, found.data, found.id]) == json.dumps([type_, data, ref])
    transport.rig.hub.drop_channel(root.handle)


@settings(max_examples=60, deadline=None, suppress_health_check=no_check)
@given(
    st.lists(st.tuples(NAMESPACES, st.sampled_from([Encoding.JSON, Encoding.MSGPACK])), max_size=8),
    st.tuples(EVENTS, BODIES).map(list),
    st.sampled_from(["", "o1", 'an "offset"']),
)
def test_a_native_packet_when_published_then_it_is_what_each_would_be_sent(
    transport: Transport, members: list[tuple[str, Encoding]], native: list[Any], offset: str
) -> None:
    hub = transport.rig.hub
    topic = hub.create_topic()
    channels = [transport.channel(namespace, encoding) for namespace, encoding in members]
    for channel in channels:
        hub.subscribe(topic, channel.handle)
    reached = hub.publish(topic, in_json(native), in_msgpack(native), offset=offset.encode())
    assert reached == len(members)
    published = transport.messages()
    handles = [channel.handle for channel in channels]
    assert hub.send_many(handles, in_json(native), in_msgpack(native), offset=offset.encode()) == len(members)
    assert transport.messages() == published
    for (namespace, encoding), message in zip(members, published, strict=True):
        expected = rendering.from_native(native, namespace, offset)
        encode = rendering.encode_text if encoding == Encoding.JSON else rendering.encode_packed
        assert message == encode(expected)
    for handle in handles:
        hub.drop_channel(handle)
    hub.drop_topic(topic)


@pytest.mark.parametrize("packet", [b"", b"x", b"[]", b'{"a":1}', b'["x', b"[1,2]"])
def test_what_is_no_packet_when_sent_in_json_then_it_is_refused(transport: Transport, packet: bytes) -> None:
    root = transport.channel()
    with pytest.raises(ValueError):
        transport.rig.hub.send(root.handle, packet)
    assert transport.messages() == []


@pytest.mark.parametrize(
    "packet", [b"", b"\x90", b"\x94\x01\x01\x01\x01", b"\x92\xc0\x01", b"\x92\xa5a", b"\x93\x01\x92\x01"]
)
def test_what_is_no_packet_when_sent_in_msgpack_then_it_is_refused(
    transport: Transport, packet: bytes
) -> None:
    packed = transport.channel(encoding=Encoding.MSGPACK)
    with pytest.raises(ValueError):
        transport.rig.hub.send(packed.handle, packet)
    assert transport.messages() == []


# -- packets that come rendered


@pytest.mark.parametrize(
    ("packet", "attachments", "expected"),
    [
        (b'40{"sid":"s"}', (), Packet(0, "/chat", {"sid": "s"})),
        (b'44{"message":"no"}', (), Packet(4, "/chat", {"message": "no"})),
        (b"41", (), Packet(1, "/chat")),
        (b'42["e",1]', (), Packet(EVENT, "/chat", ["e", 1])),
        (b"4312[]", (), Packet(ACK, "/chat", [], 12)),
        (
            b'452-["e",{"_placeholder":true,"num":1},{"_placeholder":true,"num":0}]',
            (b"", bytes(300)),
            Packet(BINARY_EVENT, "/chat", ["e", bytes(300), b""]),
        ),
        (b'461-7[{"_placeholder":true,"num":0}]', (b"a",), Packet(BINARY_ACK, "/chat", [b"a"], 7)),
    ],
)
def test_a_rendered_packet_when_sent_then_the_namespace_stands_in_its_place(
    transport: Transport, packet: bytes, attachments: tuple[bytes, ...], expected: Packet
) -> None:
    root, chat = transport.channel(), transport.channel("/chat")
    assert transport.rig.hub.send_rendered(chat.handle, packet, attachments)
    assert rendering.decode_text(transport.messages()) == [expected]
    assert transport.rig.hub.send_rendered(root.handle, packet, attachments)
    assert transport.messages() == [packet.decode(), *attachments]


def test_a_rendered_packet_when_the_parser_is_msgpack_then_the_namespace_is_its_last_key(
    transport: Transport,
) -> None:
    packed = transport.channel("/chat", Encoding.MSGPACK)
    whole = rendering.encode_packed(Packet(ACK, "/chat", [b"\x01"], 0))
    assert transport.rig.hub.send_rendered(
        packed.handle, whole.removesuffix(msgpack.packb("nsp") + b"\xa5/chat")
    )
    assert transport.messages() == [whole]


def test_rendered_forms_when_published_then_channels_get_them_and_others_the_native_packet(
    make_engine: Any,
) -> None:
    rig = make_engine()
    transport = rig.transport()
    topic = rig.hub.create_topic()
    text, packed = transport.channel("/a"), transport.channel("/a", Encoding.MSGPACK)
    for channel in (text, packed):
        rig.hub.subscribe(topic, channel.handle)
    native = rig.open()
    rig.hub.subscribe(topic, native.handle)
    form = msgpack.packb({"type": 2, "data": ["e", 1, b"2"], "nsp": 0})[:-5]  # but the last key and value
    rig.hub.publish(
        topic,
        b'["e",[1]]',
        b"\x92\xa1e\x91\x01",
        sio_json=(b'451-["e",1,{"_placeholder":true,"num":0}]', (b"2",)),
        sio_msgpack=form,
        offset=b"for what is rendered",
    )
    messages = transport.messages()
    assert rendering.decode_text(messages[:2]) == [Packet(BINARY_EVENT, "/a", ["e", 1, b"2"])]
    assert msgpack.unpackb(messages[2]) == {"type": 2, "data": ["e", 1, b"2"], "nsp": "/a"}
    assert native.packets() == [["e", [1]]]


def test_a_packet_when_there_is_none_in_a_channels_parser_then_it_gets_nothing(engine: EngineRig) -> None:
    transport = engine.transport()
    topic = engine.hub.create_topic()
    for encoding in Encoding:
        engine.hub.subscribe(topic, transport.channel("/", encoding).handle)
    assert engine.hub.publish(topic, b'["e",1]', None) == 1
    assert transport.messages() == ['42["e",1]']
    assert engine.hub.publish(topic, None, b"\x92\xa1e\x01") == 1
    assert len(transport.messages()) == 1


# -- the converter


def as_attachment(packet: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Stand for the service's: one value of bytes becomes an attachment."""
    return packet.replace(b'{"$bytes":"YWJj"}', b'{"_placeholder":true,"num":0}').join([b"451-", b""]), (
        b"abc",
    )


def test_keys_with_a_dollar_when_published_then_they_are_converted_once_for_all(engine: EngineRig) -> None:
    asked: list[bytes] = []

    def convert(packet: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        asked.append(packet)
        return as_attachment(packet)

    engine.hub.set_converter(convert)
    transport = engine.transport()
    topic = engine.hub.create_topic()
    for namespace in ("/", "/a", "/b"):
        engine.hub.subscribe(topic, transport.channel(namespace).handle)
    packet = b'["e",{"$bytes":"YWJj"}]'
    assert engine.hub.publish(topic, packet, None, offset=b"o") == 3
    assert rendering.decode_text(transport.messages()) == [
        Packet(BINARY_EVENT, namespace, ["e", b"abc", "o"]) for namespace in ("/", "/a", "/b")
    ]
    assert asked == [packet]


@pytest.mark.parametrize("key", [b"$bytes", b"$$", b"\\u0024bytes"])
def test_a_key_with_a_dollar_when_it_stands_anywhere_then_the_converter_is_asked(
    engine: EngineRig, key: bytes
) -> None:
    asked: list[bytes] = []
    engine.hub.set_converter(lambda packet: (asked.append(packet), (b"42[]", ()))[1])
    root = engine.transport().channel()
    packet = b'["e",[1,{"a":1,"%s":2}]]' % key
    engine.hub.send(root.handle, packet)
    engine.hub.send(
        root.handle, packet.replace(b":2", b" : 2").replace(b",", b" ,\n").replace(b" ,", b",", 1)
    )
    engine.hub.send(root.handle, b'["e",{"a$":"$c","d":\n"$e"}]')
    assert len(asked) == 2


def test_a_converter_when_it_raises_then_it_is_reported_and_the_others_get_theirs(
    engine: EngineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", reported.append)

    def fail(packet: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        raise RuntimeError("not convertible")

    engine.hub.set_converter(fail)
    transport = engine.transport()
    topic = engine.hub.create_topic()
    for encoding in Encoding:
        engine.hub.subscribe(topic, transport.channel("/", encoding).handle)
    assert engine.hub.publish(topic, b'["e",{"$$a":1}]', b"\x92\xa1e\x01") == 1
    assert len(transport.messages()) == 1
    assert [type(report.exc_value) for report in reported] == [RuntimeError]


def test_a_converter_when_it_calls_the_hub_then_it_is_refused(engine: EngineRig) -> None:
    root = engine.transport().channel()

    def convert(packet: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        with pytest.raises(RuntimeError):
            engine.hub.drop_channel(root.handle)
        return as_attachment(packet)

    engine.hub.set_converter(convert)
    assert engine.hub.send(root.handle, b'["e",{"$bytes":"YWJj"}]')
    assert engine.hub.alive(root.handle)
