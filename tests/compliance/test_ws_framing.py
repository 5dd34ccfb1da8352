"""Frames over a real socket: Autobahn's groups 1 (framing), 2 (pings), 3 (reserved bits), 4 (opcodes), 5
(fragmentation) and 10 (automatic fragmentation)."""

import pytest

from tests.compliance.raw_websocket import Opcode, close_frame, fragments, frame

TEXT, BINARY, PING, PONG, CLOSE = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG, Opcode.CLOSE
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 124, 125, 126, 127, 128, 65_535, 65_536, 65_537]

# -- 1: framing


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_of_any_length_when_sent_then_is_echoed(ws, opcode, size):
    payload = b"*" * size if opcode == TEXT else bytes(range(256)) * (size // 256) + bytes(size % 256)
    ws.send(frame(opcode, payload))
    ws.expect(opcode, payload)
    ws.send(close_frame(1000))
    ws.expect_close(1000)


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x00\x01\x02\x03"])
def test_message_with_any_mask_when_sent_then_is_unmasked(ws, mask):
    for size in (0, 1, 3, 4, 5, 13, 200):
        payload = bytes(range(size))
        ws.send(frame(BINARY, payload, mask=mask))
        ws.expect(BINARY, payload)


@pytest.mark.parametrize("chop", [1, 2, 3, 5, 7, 11, 997])
def test_messages_when_written_in_pieces_then_are_echoed(ws, chop):
    sizes = (0, 125, 126, 300) if chop < 10 else (0, 126, 65_535, 65_536)
    for size in sizes:
        ws.send(frame(TEXT, b"*" * size), chop=chop)
        ws.expect(TEXT, b"*" * size)


def test_message_when_written_in_pieces_of_every_size_then_is_echoed(ws):
    sent = frame(BINARY, bytes(range(130)))
    for chop in range(1, len(sent) + 1):
        ws.send(sent, frame(PING, b"p"), chop=chop)
        got = {ws.read_frame() for _ in range(2)}
        assert got == {(True, 0, BINARY, bytes(range(130))), (True, 0, PONG, b"p")}


def test_messages_when_many_are_in_one_write_then_all_are_echoed_in_order(ws):
    ws.send(*(frame(TEXT, b"%d" % number) for number in range(2_000)))
    for number in range(2_000):
        ws.expect(TEXT, b"%d" % number)


def test_frame_when_not_masked_then_fails(ws):
    ws.send(frame(TEXT, b"hello", mask=None))
    ws.expect_close(1002)


@pytest.mark.parametrize(("size", "length_bytes"), [(5, 2), (125, 2), (5, 8), (65_535, 8)])
def test_length_when_not_the_shortest_form_then_fails_or_is_understood(ws, size, length_bytes):
    # RFC 6455, section 5.2: the minimal number of bytes MUST be used; suites do not test it.
    ws.send(frame(BINARY, bytes(size), length_bytes=length_bytes))
    got = ws.read_frame()
    assert got.opcode in (BINARY, CLOSE)
    if got.opcode == CLOSE:
        assert got.payload[:2] == (1002).to_bytes(2, "big")


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1, (1 << 32) + 5, (1 << 63) - 1])
def test_length_when_absurd_then_fails_before_anything_is_allocated(ws, length):
    ws.send(bytes((0x82, 0xFF)) + length.to_bytes(8, "big") + b"\0\0\0\0" + b"some")
    ws.expect_close(1002, 1009)


# -- 2: pings and pongs


@pytest.mark.parametrize("size", range(126))
def test_ping_when_sent_then_its_payload_comes_back(ws, size):
    payload = bytes(255 - at for at in range(size))
    ws.send(frame(PING, payload))
    ws.expect(PONG, payload)


def test_ping_when_too_long_then_fails(ws):
    ws.send(frame(PING, bytes(126)))
    ws.expect_close(1002)


def test_ping_when_written_byte_by_byte_then_is_answered(ws):
    ws.send(frame(PING, bytes(125)), chop=1)
    ws.expect(PONG, bytes(125))


def test_pong_when_nobody_asked_then_is_ignored(ws):
    ws.send(frame(PONG), frame(PONG, b"unsolicited"), frame(PING, b"p"))
    ws.expect(PONG, b"p")


@pytest.mark.parametrize("chop", [0, 1])
def test_pings_when_ten_are_sent_then_each_is_answered_in_order(ws, chop):
    ws.send(*(frame(PING, b"payload-%d" % number) for number in range(10)), chop=chop)
    for number in range(10):
        ws.expect(PONG, b"payload-%d" % number)


# -- 3: reserved bits


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_reserved_bits_when_set_without_an_extension_then_fails(ws, opcode, rsv):
    ws.send(frame(TEXT, b"before"))
    ws.expect(TEXT, b"before")
    ws.send(frame(opcode, b"", rsv=rsv), frame(PING))
    ws.expect_close(1002)


@pytest.mark.parametrize("chop", [1, 4])
def test_reserved_bits_when_written_in_pieces_then_fails(ws, chop):
    ws.send(frame(TEXT, b"before"))
    ws.expect(TEXT, b"before")
    ws.send(frame(TEXT, b"x", rsv=2), chop=chop)
    ws.expect_close(1002)


# -- 4: opcodes


@pytest.mark.parametrize("payload", [b"", b"reserved"])
@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_opcode_when_reserved_then_fails(ws, opcode, payload):
    ws.send(frame(TEXT, b"before"))
    ws.expect(TEXT, b"before")
    ws.send(frame(opcode, payload), frame(PING))
    ws.expect_close(1002)


# -- 5: fragmentation


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frame_when_fragmented_then_fails(ws, opcode):
    ws.send(frame(opcode, b"", fin=False), frame(0, b""))
    ws.expect_close(1002)


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_when_in_fragments_then_is_echoed_whole(ws, opcode, size, chop):
    payload = bytes(range(0x20, 0x7F)) * 3
    ws.send(*fragments(opcode, payload, size), chop=chop)
    ws.expect(opcode, payload)


def test_message_when_of_empty_fragments_then_is_echoed_empty(ws):
    ws.send(*fragments(TEXT, b"", 1))
    ws.expect(TEXT, b"")
    ws.send(frame(TEXT, b"", fin=False), frame(0, b"middle", fin=False), frame(0, b""))
    ws.expect(TEXT, b"middle")


@pytest.mark.parametrize("chop", [0, 1])
def test_pings_when_between_fragments_then_are_answered_first(ws, chop):
    ws.send(
        frame(TEXT, b"fragment1", fin=False),
        frame(PING, b"one"),
        frame(0, b"fragment2", fin=False),
        frame(PONG, b"ignored"),
        frame(PING, b"two"),
        frame(0, b"fragment3"),
        chop=chop,
    )
    ws.expect(PONG, b"one")
    ws.expect(PONG, b"two")
    ws.expect(TEXT, b"fragment1fragment2fragment3")


@pytest.mark.parametrize("chop", [0, 1])
@pytest.mark.parametrize("fin", [True, False])
def test_continuation_when_nothing_was_begun_then_fails(ws, fin, chop):
    ws.send(frame(0, b"non-continuation payload", fin=fin), chop=chop)
    ws.expect_close(1002)


def test_continuation_when_the_message_was_over_then_fails(ws):
    ws.send(*fragments(TEXT, b"fragment1fragment2", 9))
    ws.expect(TEXT, b"fragment1fragment2")
    ws.send(frame(0, b"more", fin=False), frame(TEXT, b"x"))
    ws.expect_close(1002)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
def test_new_message_when_the_last_is_not_over_then_fails(ws, opcode, fin):
    ws.send(frame(TEXT, b"fragment1", fin=False), frame(opcode, b"fragment2", fin=fin))
    ws.expect_close(1002)


def test_fragments_when_there_are_thousands_then_are_put_together(ws):
    payload = b"0123456789" * 1_000
    ws.send(*fragments(BINARY, payload, 1))
    ws.expect(BINARY, payload)


# -- 10: automatic fragmentation


def test_message_when_fragmented_as_libraries_do_then_is_echoed(ws):
    payload = b"*" * 65_536
    ws.send(*fragments(TEXT, payload, 1_300))
    ws.expect(TEXT, payload)
