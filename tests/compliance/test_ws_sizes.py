"""Large messages, and many, over a real socket: Autobahn's group 9 in sizes that suit a test run."""

import pytest

from tests.compliance.raw_websocket import Opcode, fragments, frame

TEXT, BINARY, PING, PONG = Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG
KIB = 1024
LIMIT_BYTES = 16 * KIB * KIB


@pytest.mark.parametrize("size", [64 * KIB, 256 * KIB, KIB * KIB, 4 * KIB * KIB])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_message_when_large_then_is_echoed(ws, opcode, size):
    payload = b"*" * size
    ws.send(frame(opcode, payload))
    ws.expect(opcode, payload)


@pytest.mark.parametrize("size", [64, 256, KIB, 4 * KIB, 64 * KIB, KIB * KIB])
def test_message_when_large_and_in_fragments_then_is_echoed(ws, size):
    payload = bytes(range(256)) * (4 * KIB if size >= KIB else KIB)
    ws.send(*fragments(BINARY, payload, size))
    ws.expect(BINARY, payload)


@pytest.mark.parametrize("chop", [64, 512, 2048])
def test_message_when_large_and_written_in_pieces_then_is_echoed(ws, chop):
    payload = b"*" * (256 * KIB)
    ws.send(frame(TEXT, payload), chop=chop)
    ws.expect(TEXT, payload)


@pytest.mark.parametrize("size", [0, 16, 64, 256, KIB, 4 * KIB])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_when_a_thousand_go_back_and_forth_then_all_come_back(ws, opcode, size):
    payload = b"*" * size
    for _ in range(1_000):
        ws.send(frame(opcode, payload))
        ws.expect(opcode, payload)


def test_message_when_just_within_the_limit_then_is_echoed(ws):
    payload = b"x" * LIMIT_BYTES
    ws.send(frame(BINARY, payload))
    ws.expect(BINARY, payload)


def test_frame_when_over_the_limit_then_fails_by_its_head_alone(ws):
    ws.send(frame(BINARY, bytes(LIMIT_BYTES + 1))[:14])
    ws.expect_close(1009)


def test_fragments_when_together_over_the_limit_then_fails(ws):
    piece = bytes(KIB * KIB)
    ws.send(frame(BINARY, piece, fin=False), *(frame(0, piece, fin=False) for _ in range(15)))
    ws.expect_alive()
    ws.send_until_refused(frame(0, b"x", fin=False))
    ws.expect_close(1009)


def test_neighbour_when_another_sends_large_messages_then_is_served(ws, deflated):
    other = deflated()
    payload = b"*" * (2 * KIB * KIB)
    ws.send(frame(BINARY, payload), frame(BINARY, payload))
    other.send(frame(PING, b"n"))
    other.expect(PONG, b"n")
    ws.expect(BINARY, payload)
    ws.expect(BINARY, payload)
