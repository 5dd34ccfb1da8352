"""permessage-deflate (RFC 7692) over a real socket: Autobahn's groups 12 and 13, misuse and bombs."""

import random
import re
import zlib

import pytest

from tests.compliance.raw_websocket import (
    Frame,
    Opcode,
    RawWebSocket,
    close_frame,
    deflate,
    echo_server,
    fragments,
    frame,
)

TEXT, BINARY, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG
RSV1 = 4
MIB = 1 << 20
LIMIT_BYTES = 16 * MIB
SIZES = [0, 1, 16, 64, 255, 256, 257, 1_024, 4_096, 8_192, 16_384, 32_768, 65_536, 131_072]


def json_like(size: int) -> bytes:
    chance = random.Random(size)
    words = [
        b'{"id":%d,"name":"user %d","tags":["a","b"]},' % (at, chance.randrange(9999)) for at in range(200)
    ]
    text = b"".join(chance.choices(words, k=size // 20 + 1))
    return text[:size]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


# -- negotiation


@pytest.mark.parametrize(
    ("offer", "accepted"),
    [
        ("permessage-deflate", True),
        ("permessage-deflate; client_max_window_bits", True),
        ("permessage-deflate; client_max_window_bits=15", True),
        ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", True),
        ("permessage-deflate; server_max_window_bits=15", True),
        ("permessage-deflate; server_max_window_bits=8", False),  # zlib has no window of 8 bits
        ("permessage-deflate; server_max_window_bits=8, permessage-deflate", True),
        ("permessage-deflate; server_max_window_bits=16", False),
        ("permessage-deflate; server_max_window_bits", False),
        ("permessage-deflate; client_max_window_bits=7", False),
        ("permessage-deflate; unknown", False),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", False),
        ("permessage-bzip2, x-webkit-deflate-frame", False),
    ],
)
def test_offer_when_it_can_be_used_then_is_answered_without_context_takeover(deflated, offer, accepted):
    connection = deflated(offer)
    assert bool(connection.extensions) is accepted
    if accepted:
        name, *parameters = re.split(r"\s*;\s*", connection.extensions)
        assert name == "permessage-deflate"
        assert {"server_no_context_takeover", "client_no_context_takeover"} <= set(parameters)
        # Section 7.1.2.2: it must not stand in an answer to an offer without it.
        assert ("client_max_window_bits" in connection.extensions) <= ("client_max_window_bits" in offer)
    payload = json_like(2_000)
    connection.send(frame(TEXT, payload))
    connection.expect(TEXT, payload)


# -- messages


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [json_like, noise])
def test_message_when_compressed_then_is_echoed(deflated, make, size):
    connection = deflated()
    payload = make(size)
    for _ in range(3):  # no context is taken over: the same bytes each time
        connection.send(frame(BINARY, deflate(payload), rsv=RSV1))
        connection.expect(BINARY, payload)


@pytest.mark.parametrize("size", SIZES)
def test_echo_when_worth_it_then_is_compressed(deflated, size):
    connection = deflated()
    payload = json_like(size)
    connection.send(frame(TEXT, payload))
    echoed = connection.read_frame()
    assert echoed.opcode == TEXT
    if size >= 1_024:
        assert echoed.rsv == RSV1
        assert len(echoed.payload) < size / 2


@pytest.mark.parametrize("size", [1, 7, 100, 1_000])
@pytest.mark.parametrize("chop", [0, 3])
def test_message_when_compressed_and_in_fragments_then_is_echoed(deflated, size, chop):
    connection = deflated()
    payload = json_like(20_000)
    pieces = fragments(TEXT, deflate(payload), size, rsv=RSV1)
    assert len(pieces) > 1
    connection.send(*pieces[:1], frame(PING, b"p"), *pieces[1:], chop=chop)
    connection.expect(PONG, b"p")
    connection.expect(TEXT, payload)


def test_messages_when_compressed_and_plain_alternate_then_all_are_echoed(deflated):
    connection = deflated()
    payload = json_like(3_000)
    for at in range(20):
        connection.send(frame(TEXT, deflate(payload), rsv=RSV1) if at % 2 else frame(TEXT, payload))
        connection.expect(TEXT, payload)


def test_messages_when_a_thousand_go_back_and_forth_then_all_come_back(deflated):
    connection = deflated()
    payload = json_like(1_024)
    packed = frame(TEXT, deflate(payload), rsv=RSV1)
    for _ in range(1_000):
        connection.send(packed)
        connection.expect(TEXT, payload)


@pytest.mark.parametrize("level", [0, 1, 9])
def test_message_when_compressed_at_any_level_then_is_echoed(deflated, level):
    # Level 0 makes stored blocks.
    connection = deflated()
    payload = json_like(70_000)
    connection.send(frame(TEXT, deflate(payload, level=level), rsv=RSV1))
    connection.expect(TEXT, payload)


def test_message_when_in_several_blocks_then_is_echoed(deflated):
    # Section 7.2.3.5.
    connection = deflated()
    squeezer = zlib.compressobj(6, zlib.DEFLATED, -12)
    packed = b"".join(
        squeezer.compress(part) + squeezer.flush(zlib.Z_SYNC_FLUSH) for part in (b"one ", b"two ", b"three")
    )
    connection.send(frame(TEXT, packed[:-4], rsv=RSV1))
    connection.expect(TEXT, b"one two three")


def test_message_when_its_block_is_final_then_is_echoed(deflated):
    # Section 7.2.3.4: a block with BFINAL set, then a byte of zero for the empty block.
    connection = deflated()
    connection.send(frame(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", rsv=RSV1))
    connection.expect(TEXT, b"Hello")


@pytest.mark.parametrize(
    "packed", [b"\xf2\x48\xcd\xc9\xc9\x07\x00", b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00"]
)
def test_message_when_as_in_the_rfc_then_is_echoed(deflated, packed):
    # Sections 7.2.3.1 and 7.2.3.3.
    connection = deflated()
    connection.send(frame(TEXT, packed, rsv=RSV1))
    connection.expect(TEXT, b"Hello")


def test_message_when_empty_and_compressed_then_is_echoed(deflated):
    connection = deflated()
    connection.send(frame(TEXT, b"\x00", rsv=RSV1))  # section 7.2.3.6
    connection.expect(TEXT, b"")


@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_window_when_set_then_both_sides_keep_to_it(window_bits):
    far = json_like(200) + noise(3_000) + json_like(200)
    with (
        echo_server("--window-bits", str(window_bits)) as port,
        RawWebSocket(port, f"permessage-deflate; server_max_window_bits={window_bits}") as connection,
    ):
        assert f"server_max_window_bits={window_bits}" in connection.extensions
        connection.send(frame(BINARY, deflate(far * 5, window_bits), rsv=RSV1))
        echoed = connection.read_frame()
        packed = echoed.payload + b"\x00\x00\xff\xff"
        data = zlib.decompressobj(-window_bits).decompress(packed) if echoed.rsv else echoed.payload
        assert data == far * 5


# -- misuse


@pytest.mark.parametrize("opcode", [PING, PONG, Opcode.CLOSE])
def test_rsv1_when_on_a_control_frame_then_fails(deflated, opcode):
    connection = deflated()
    connection.send(frame(opcode, b"", rsv=RSV1))
    connection.expect_close(1002)


def test_rsv1_when_on_a_continuation_then_fails(deflated):
    connection = deflated()
    packed = deflate(json_like(1_000))
    connection.send(frame(TEXT, packed[:20], fin=False, rsv=RSV1), frame(0, packed[20:], rsv=RSV1))
    connection.expect_close(1002)


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_other_reserved_bits_when_set_then_fails(deflated, rsv):
    connection = deflated()
    connection.send(frame(TEXT, deflate(b"x"), rsv=rsv))
    connection.expect_close(1002)


@pytest.mark.parametrize(
    "garbage", [b"\xff\xff\xff\xff", b"\x06garbage", deflate(json_like(500))[5:]], ids=len
)
def test_compressed_data_when_corrupt_then_fails(deflated, garbage):
    connection = deflated()
    connection.send(frame(TEXT, garbage, rsv=RSV1))
    connection.expect_close(1007, 1002)


def test_compressed_text_when_no_utf8_then_fails_with_1007(deflated):
    connection = deflated()
    connection.send(frame(TEXT, deflate(b"valid \xed\xa0\x80"), rsv=RSV1))
    connection.expect_close(1007)


def test_compressed_text_when_it_ends_within_a_character_then_fails_with_1007(deflated):
    connection = deflated()
    connection.send(frame(TEXT, deflate("€".encode()[:2]), rsv=RSV1))
    connection.expect_close(1007)


# -- bombs


def test_message_when_inflated_just_within_the_limit_then_is_echoed(deflated):
    connection = deflated()
    payload = bytes(LIMIT_BYTES)
    connection.send(frame(BINARY, deflate(payload), rsv=RSV1))
    connection.expect(BINARY, payload)


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 20 * LIMIT_BYTES])
def test_message_when_inflated_past_the_limit_then_fails_with_1009(deflated, size):
    connection = deflated()
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = b"".join(squeezer.compress(bytes(min(MIB, size - at))) for at in range(0, size, MIB))
    packed += squeezer.flush(zlib.Z_SYNC_FLUSH)
    connection.send_until_refused(frame(BINARY, packed[:-4], rsv=RSV1))
    connection.expect_close(1009)


def test_bomb_when_in_fragments_then_fails_with_1009(deflated):
    connection = deflated()
    packed = deflate(bytes(LIMIT_BYTES + MIB))
    connection.send_until_refused(*fragments(BINARY, packed, 100, rsv=RSV1))
    connection.expect_close(1009)


def test_close_when_compression_is_on_then_is_plain(deflated):
    connection = deflated()
    connection.send(close_frame(1000, b"*" * 100))
    closing = connection.read_frame()
    assert isinstance(closing, Frame)
    assert (closing.opcode, closing.rsv, closing.payload[:2]) == (Opcode.CLOSE, 0, b"\x03\xe8")
    connection.expect_end()
