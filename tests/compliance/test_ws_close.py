"""The closing handshake over a real socket: Autobahn's group 7."""

import pytest

from tests.compliance.raw_websocket import Opcode, close_frame, fragments, frame

TEXT, PING, CLOSE = Opcode.TEXT, Opcode.PING, Opcode.CLOSE

VALID_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]


def test_close_when_behind_a_message_then_both_are_answered(ws):
    ws.send(frame(TEXT, b"hello"), close_frame(1000))
    ws.expect(TEXT, b"hello")
    ws.expect_close(1000)


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (frame(TEXT, b"hello", rsv=2), 1002),
        (frame(3, b""), 1002),
        (frame(TEXT, b"hello", mask=None), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(0, b"nothing to continue"), 1002),
        (close_frame(1005), 1002),
    ],
    ids=["reserved-bit", "opcode", "unmasked", "utf-8", "continuation", "close-code"],
)
def test_failure_when_behind_a_message_then_the_message_is_answered_first(ws, wrong, code):
    ws.send(frame(TEXT, b"hello"), frame(TEXT, b"again"), wrong, frame(TEXT, b"never"))
    ws.expect(TEXT, b"hello")
    ws.expect(TEXT, b"again")
    ws.expect_close(code)


@pytest.mark.parametrize(
    "late", [close_frame(1000), frame(PING, b"late"), frame(TEXT, b"late"), b"\xff\xff\xff"], ids=bytes.hex
)
def test_frames_when_behind_the_close_then_are_ignored(ws, late):
    ws.send(close_frame(1000), late)
    ws.expect_close(1000)


def test_close_when_within_a_fragmented_message_then_ends_it(ws):
    ws.send(frame(TEXT, b"fragment1", fin=False), close_frame(1000), frame(0, b"fragment2"))
    ws.expect_close(1000)


def test_close_when_behind_a_large_message_then_the_message_is_echoed_first(ws):
    payload = b"BAsd7&jh23" * 26_214
    ws.send(frame(TEXT, payload), close_frame(1000), frame(PING))
    ws.expect(TEXT, payload)
    ws.expect_close(1000)


def test_close_when_without_a_code_then_is_answered(ws):
    ws.send(close_frame())
    ws.expect_close(None, 1000)


def test_close_when_its_code_is_cut_then_fails(ws):
    ws.send(frame(CLOSE, b"\x03"))
    ws.expect_close(1002)


@pytest.mark.parametrize("code", VALID_CODES)
def test_close_code_when_valid_then_is_answered_with_it(ws, code):
    ws.send(close_frame(code, b"because"))
    ws.expect_close(code, 1000)


@pytest.mark.parametrize("reason", [b"", b"Hello World!"])
@pytest.mark.parametrize("code", INVALID_CODES)
def test_close_code_when_invalid_then_fails(ws, code, reason):
    ws.send(close_frame(code, reason))
    ws.expect_close(1002)


def test_close_reason_when_as_long_as_may_be_then_is_answered(ws):
    ws.send(close_frame(1000, b"*" * 123))
    ws.expect_close(1000)


def test_close_reason_when_too_long_then_fails(ws):
    ws.send(close_frame(1000, b"*" * 124))
    ws.expect_close(1002)


def test_close_when_written_byte_by_byte_then_is_answered(ws):
    ws.send(close_frame(1001, "grüße".encode()), chop=1)
    ws.expect_close(1001, 1000)


@pytest.mark.parametrize("sent", [b"", frame(TEXT, b"x")[:1], frame(TEXT, b"some")[:7]], ids=len)
def test_end_of_the_stream_when_without_a_close_then_the_server_goes_on(ws, sent):
    ws.send(sent)
    ws.end()
    ws.expect_end()


def test_end_of_the_stream_when_behind_fragments_then_the_server_goes_on(ws):
    ws.send(*fragments(TEXT, b"never finished", 3)[:-1])
    ws.end()
    ws.expect_end()
