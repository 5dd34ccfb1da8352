"""Engine.IO's packets and payloads, byte by byte."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim.errors import CloseCode, ProtocolError
from fastim.wire import engineio


def test_open_packet_has_exactly_five_keys_in_order_and_no_spaces() -> None:
    packet = engineio.open_packet("lv_VI97HAXpY6yYWAAAC", ["websocket"], 25_000, 20_000, 1_000_000)

    assert packet == (
        b'0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,'
        b'"pingTimeout":20000,"maxPayload":1000000}'
    )


def test_open_packet_without_upgrades_has_an_empty_list() -> None:
    packet = engineio.open_packet("x", (), 1, 2, 3)

    assert json.loads(packet[1:])["upgrades"] == []


@pytest.mark.parametrize(
    ("payload", "packets"),
    [
        (b"4hello", [b"4hello"]),
        (b"4a\x1e2\x1e4b", [b"4a", b"2", b"4b"]),
        (b"4hello\x1ebAQIDBA==", [b"4hello", b"bAQIDBA=="]),
        (b"", [b""]),
        (b"\x1e", [b"", b""]),
        ("4ü\x1e4€".encode(), ["4ü".encode(), "4€".encode()]),
    ],
)
def test_payload_is_split_at_each_separator(payload: bytes, packets: list[bytes]) -> None:
    assert list(engineio.split_payload(payload)) == packets
    assert engineio.packet_count(payload) == len(packets)


def test_payload_that_is_no_text_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        engineio.split_payload(b"4\xff")

    assert caught.value.code == CloseCode.INVALID_PAYLOAD


@pytest.mark.parametrize(
    ("payload", "found"),
    [
        (b"3", True),
        (b"3\x1e4a", True),
        (b"4a\x1e3", True),
        (b"4a\x1e3\x1e4b", True),
        (b"43", False),
        (b"4a\x1e43\x1e4b", False),
        (b"4a\x1e33", False),
        (b"4", False),
        (b"", False),
    ],
)
def test_pong_is_found_wherever_it_stands(payload: bytes, found: bool) -> None:
    assert engineio.has_pong(payload) is found


@pytest.mark.parametrize(
    ("packet", "data"),
    [(b"bAQIDBA==", b"\1\2\3\4"), (b"bAQIDBA", b"\1\2\3\4"), (b"b", b""), (b"bAQI=", b"\1\2")],
)
def test_binary_packet_is_decoded_with_its_padding_or_without(packet: bytes, data: bytes) -> None:
    assert engineio.decode_binary(packet) == data


@pytest.mark.parametrize("packet", [b"b*", b"bA", b"bAQID BA==", b"bAQ=ID", b"b====", b"bAQIDBA==="])
def test_binary_packet_that_is_no_base64_is_refused(packet: bytes) -> None:
    with pytest.raises(ProtocolError):
        engineio.decode_binary(packet)


@given(st.binary())
def test_binary_packet_comes_back_as_it_was(data: bytes) -> None:
    packet = b"b" + b64encode(data)

    assert engineio.decode_binary(packet) == data
    assert engineio.SEPARATOR not in packet


@given(st.lists(st.text(st.characters(exclude_characters="\x1e", codec="utf-8")), min_size=1))
def test_payload_comes_apart_as_it_was_put_together(texts: list[str]) -> None:
    packets = [b"4" + text.encode() for text in texts]

    assert list(engineio.split_payload(engineio.SEPARATOR.join(packets))) == packets
