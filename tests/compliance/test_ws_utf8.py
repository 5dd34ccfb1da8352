"""UTF-8 in text messages and close reasons, over a real socket: Autobahn's group 6.

The valid and invalid sequences are those of Markus Kuhn's "UTF-8 decoder capability and stress test", as
the suite has them, and the edges of Unicode 15, table 3-7.
"""

import pytest

from tests.compliance.raw_websocket import Opcode, close_frame, fragments, frame

TEXT = Opcode.TEXT

VALID = [
    "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "κόσμε".encode(),
    b"\x00",
    b"\x7f",
    b"\xc2\x80",
    b"\xdf\xbf",
    b"\xe0\xa0\x80",
    b"\xed\x9f\xbf",
    b"\xee\x80\x80",
    b"\xef\xbf\xbd",
    b"\xef\xbf\xbe",  # noncharacters are characters to UTF-8
    b"\xef\xbf\xbf",
    b"\xf0\x90\x80\x80",
    b"\xf0\x9f\xbf\xbe",
    b"\xf3\xaf\xbf\xbf",
    b"\xf4\x8f\xbf\xbf",
    "你好，世界 🌍 \U0010ffff".encode(),
    "".join(chr(code) for code in range(0x20, 0x2000)).encode(),
]

BAD = [
    *(bytes((byte,)) for byte in (0x80, 0xBF)),  # a continuation alone
    b"\x80\xbf",
    b"\x80\xbf\x80\xbf\x80\xbf\x80",
    bytes(range(0x80, 0xC0)),
    *(bytes((byte, 0x20)) for byte in range(0xC0, 0x100)),  # a start alone
    b"\xc0\xaf",  # overlong
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf8\x80\x80\x80\xaf",
    b"\xfc\x80\x80\x80\x80\xaf",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xed\xa0\x80",  # surrogates, alone and in pairs
    b"\xed\xad\xbf",
    b"\xed\xae\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xbf\xbf",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\xed\xaf\xbf\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",  # past U+10FFFF
    b"\xf5\x80\x80\x80",
    b"\xf7\xbf\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfb\xbf\xbf\xbf\xbf",
    b"\xfc\x84\x80\x80\x80\x80",
    b"\xfd\xbf\xbf\xbf\xbf\xbf",
    b"\xfe",
    b"\xff",
    b"\xfe\xfe\xff\xff",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80\x65\x64\x69\x74\x65\x64",
]

CUT = [
    b"\xc2",
    b"\xdf",
    b"\xe0\xa0",
    b"\xef\xbf",
    b"\xe1",
    b"\xf0\x90\x80",
    b"\xf4\x8f\xbf",
    b"\xf0\x9f",
    b"\xf3",
]


@pytest.mark.parametrize("payload", VALID, ids=lambda payload: payload[:8].hex())
def test_text_when_valid_then_is_echoed(ws, payload):
    for text in (payload, b"before " + payload + b" after"):
        ws.send(frame(TEXT, text))
        ws.expect(TEXT, text)
        ws.send(*fragments(TEXT, text, 1))
        ws.expect(TEXT, text)


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: payload[:10].hex())
def test_text_when_invalid_then_fails_with_1007(ws, payload):
    ws.send(frame(TEXT, payload))
    ws.expect_close(1007)


@pytest.mark.parametrize("payload", BAD, ids=lambda payload: payload[:10].hex())
def test_text_when_invalid_and_in_fragments_then_fails_with_1007(ws, payload):
    # The last fragment is never sent: what is known to be wrong is said at once (section 6.4 of the suite).
    ws.send(*(frame(0 if at else TEXT, payload[at : at + 1], fin=False) for at in range(len(payload))))
    ws.expect_close(1007)


@pytest.mark.parametrize("payload", CUT, ids=lambda payload: payload.hex())
@pytest.mark.parametrize("before", [b"", b"valid until here "])
def test_text_when_it_ends_within_a_character_then_fails_with_1007(ws, payload, before):
    ws.send(frame(TEXT, before + payload))
    ws.expect_close(1007)


@pytest.mark.parametrize("payload", CUT, ids=lambda payload: payload.hex())
def test_text_when_its_last_fragment_ends_within_a_character_then_fails_with_1007(ws, payload):
    ws.send(frame(TEXT, b"valid", fin=False), frame(0, payload, fin=False), frame(0, b""))
    ws.expect_close(1007)


def test_text_when_a_character_is_split_at_every_point_then_is_put_together(ws):
    text = "aé€🌍z".encode()
    for at in range(len(text) + 1):
        ws.send(frame(TEXT, text[:at], fin=False), frame(Opcode.PING, b"between"), frame(0, text[at:]))
        ws.expect(Opcode.PONG, b"between")
        ws.expect(TEXT, text)


@pytest.mark.parametrize("tail", [b"", b"\x80", b"x"])
def test_text_when_it_becomes_invalid_within_a_codepoint_then_fails_at_that_fragment(ws, tail):
    # 6.4.1 and 6.4.2: F4 can still become a character, F4 90 cannot.
    ws.send(frame(TEXT, "κόσμε".encode() + b"\xf4", fin=False))
    ws.expect_alive()
    ws.send(frame(0, b"\x90" + tail, fin=False))
    ws.expect_close(1007)


def test_text_when_part_of_a_frame_is_invalid_then_fails_before_the_frame_is_complete_or_with_it(ws):
    # 6.4.3 and 6.4.4, bytes instead of fragments: a server may wait for the whole frame.
    whole = frame(TEXT, "κόσμε".encode() + b"\xf4\x90\x80\x80" + b"edited")
    ws.send(whole[:-6])
    ws.send_until_refused(whole[-6:])
    ws.expect_close(1007)


def test_binary_when_no_utf8_then_is_echoed(ws):
    for payload in (*BAD, *CUT):
        ws.send(frame(Opcode.BINARY, payload))
        ws.expect(Opcode.BINARY, payload)


@pytest.mark.parametrize("payload", [*BAD[:4], b"\xed\xa0\x80", b"\xf4\x90\x80\x80", *CUT[:3]], ids=bytes.hex)
def test_close_reason_when_invalid_then_fails(ws, payload):
    ws.send(close_frame(1000, b"reason " + payload))
    ws.expect_close(1007, 1002)
