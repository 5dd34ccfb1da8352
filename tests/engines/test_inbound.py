"""The compiled receiving half against its twin: the same items, whole, chopped and split at every point."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastim._core.inbound import FrameReader
from tests.reference import frames as reference
from tests.reference.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, encode_header

KEY = b"\x11\xa2\x03\xf4"
LIMIT = 200

keys = st.binary(min_size=4, max_size=4)
payloads = st.one_of(
    st.text(max_size=40).map(str.encode),
    st.binary(max_size=140),
    st.sampled_from([b"", b"\x03\xe8", b"\x03\xed", b"\x0f\xa0bye", b"\x03\xe8\xff", b"a" * 126, b"b" * 200]),
)


@st.composite
def any_frame(draw: st.DrawFn) -> bytes:
    """Mostly sound frames, so that streams get somewhere, and everything else as well."""
    opcode = draw(st.sampled_from([TEXT, BINARY, CONTINUATION, CONTINUATION, PING, PONG, CLOSE, 3, 11]))
    fin = opcode >= CLOSE or draw(st.booleans())
    rsv = draw(st.sampled_from([0] * 8 + [4, 1]))
    key = draw(keys) if draw(st.integers(0, 19)) else None
    return reference.encode_frame(opcode, draw(payloads), fin, rsv, key)


@st.composite
def sound_message(draw: st.DrawFn) -> bytes:
    """A text in fragments, with control frames between them."""
    rest = draw(st.text(max_size=30)).encode()
    out, opcode = b"", TEXT
    while True:
        size = draw(st.integers(0, 20))
        piece, rest = rest[:size], rest[size:]
        out += reference.encode_frame(opcode, piece, not rest, 0, draw(keys))
        if not rest:
            return out
        opcode = CONTINUATION
        if draw(st.booleans()):
            out += reference.encode_frame(PING, draw(st.binary(max_size=125)), key=draw(keys))


streams = st.lists(st.one_of(any_frame(), sound_message()), max_size=8).map(b"".join)


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0) -> bytes:
    return reference.encode_frame(opcode, payload, fin, rsv, KEY)


def read(data: bytes, *, step: int = 0, **rules: int) -> list[tuple[object, ...]]:
    reader = FrameReader(max_message_bytes=LIMIT, **rules)
    step = step or len(data) or 1
    return [item for i in range(0, len(data), step) for item in reader.receive_data(data[i : i + step])]


@settings(max_examples=300)
@given(streams, st.lists(st.integers(0, 400), max_size=6), st.booleans(), st.sampled_from([0, 1, 3]))
def test_reader_gives_the_twins_items_after_each_chunk(
    data: bytes, cuts: list[int], deflate: bool, max_fragments: int
) -> None:
    compiled = FrameReader(max_message_bytes=LIMIT, max_fragments=max_fragments, deflate=deflate)
    twin = reference.FrameReader(max_message_bytes=LIMIT, max_fragments=max_fragments, deflate=deflate)
    ends = [*sorted(cut for cut in cuts if cut < len(data)), len(data)]
    start = 0
    for end in ends:
        chunk = data[start:end]
        items = compiled.receive_data(chunk)
        assert items == twin.receive_data(chunk)
        if any(item[0] == "fail" for item in items):
            assert compiled.receive_data(data) == []
            return
        assert compiled.idle == twin.idle
        start = end


@settings(max_examples=60)
@given(streams)
def test_reader_gives_the_same_items_at_every_split_and_byte_by_byte(data: bytes) -> None:
    whole = read(data)
    assert read(data, step=1) == whole
    for cut in range(len(data) + 1):
        reader = FrameReader(max_message_bytes=LIMIT)
        assert reader.receive_data(data[:cut]) + reader.receive_data(data[cut:]) == whole


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1000])
def test_reader_when_random_bytes_come_then_it_does_as_the_twin(step: int) -> None:
    random = Random(step)
    for _ in range(200):
        data = random.randbytes(random.randrange(1, 80))
        twin = reference.FrameReader(max_message_bytes=LIMIT)
        assert read(data, step=step) == twin.receive_data(data)


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (encode_header(1 << 63, BINARY, key=KEY), (1002, "most significant bit of the length set")),
        (encode_header((1 << 64) - 1, BINARY, key=KEY), (1002, "most significant bit of the length set")),
        (encode_header((1 << 63) - 1, BINARY, key=KEY), (1009, "message too big")),
        (encode_header((1 << 32) + 1, BINARY, key=KEY), (1009, "message too big")),
        (encode_header(LIMIT + 1, BINARY, key=KEY), (1009, "message too big")),
        (frame(TEXT, b"x" * LIMIT, fin=False) + frame(CONTINUATION, b"y"), (1009, "message too big")),
        (encode_header(126, PING, key=KEY), (1002, "control frame too long or fragmented")),
        (frame(PING, fin=False), (1002, "control frame too long or fragmented")),
        (frame(CONTINUATION), (1002, "continuation out of place")),
        (frame(TEXT, fin=False) + frame(TEXT), (1002, "continuation out of place")),
        (frame(TEXT, rsv=4), (1002, "reserved bits set")),
        (frame(TEXT, rsv=1), (1002, "reserved bits set")),
        (frame(7), (1002, "unknown opcode")),
        (frame(15), (1002, "unknown opcode")),
        (reference.encode_frame(TEXT, b"bare"), (1002, "frame not masked")),
        (frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xed\xa0"), (1007, "text is not UTF-8")),
        (frame(TEXT, b"\xce", fin=False) + frame(CONTINUATION), (1007, "text is not UTF-8")),
        (frame(CLOSE, b"\x03"), (1002, "close code cut off")),
        (frame(CLOSE, b"\x03\xe8\xc3"), (1007, "close reason is not UTF-8")),
    ],
)
@pytest.mark.parametrize("step", [0, 1])
def test_reader_when_the_bytes_break_a_rule_then_fails_with_its_code(
    data: bytes, failure: tuple[int, str], step: int
) -> None:
    assert read(data, step=step)[-1] == ("fail", *failure)


@pytest.mark.parametrize("rsv", [5, 6, 7])
def test_reader_when_deflate_is_negotiated_then_only_rsv1_is_allowed(rsv: int) -> None:
    assert read(frame(TEXT, rsv=rsv), deflate=True) == [("fail", 1002, "reserved bits set")]
    assert read(frame(TEXT, b"\xff", rsv=4), deflate=True) == [("message", TEXT, True, b"\xff")]
    wrong = ("fail", 1002, "RSV1 outside a message's first frame")
    assert read(frame(TEXT, fin=False) + frame(CONTINUATION, rsv=4), deflate=True) == [wrong]
    assert read(frame(PING, rsv=4), deflate=True) == [wrong]


@pytest.mark.parametrize(
    "code", [0, 999, 1000, 1003, 1004, 1005, 1006, 1007, 1014, 1015, 2999, 3000, 4999, 5000, 65535]
)
def test_reader_takes_only_close_codes_that_may_be_sent(code: int) -> None:
    found = read(frame(CLOSE, code.to_bytes(2, "big") + b"why"))
    if code in reference.CLOSE_CODES:
        assert found == [("close", code, b"why")]
    else:
        assert found == [("fail", 1002, "invalid close code")]


def test_reader_when_text_is_invalid_then_fails_at_the_byte_that_makes_it_so() -> None:
    reader = FrameReader()
    data = frame(TEXT, b"\xce\xba\xed\xa0 never sent")
    assert reader.receive_data(data[:9]) == []
    assert reader.receive_data(data[9:10]) == [("fail", 1007, "text is not UTF-8")]


def test_reader_when_fragments_never_end_then_the_limit_of_fragments_ends_them() -> None:
    reader = FrameReader(max_fragments=50)
    assert reader.receive_data(frame(TEXT, fin=False)) == []
    for _ in range(49):
        assert reader.receive_data(frame(CONTINUATION, fin=False)) == []
    assert reader.receive_data(frame(CONTINUATION, fin=False)) == [("fail", 1009, "too many fragments")]


def test_reader_when_nothing_is_unfinished_then_holds_no_memory() -> None:
    reader = FrameReader()
    data = frame(TEXT, b"half", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"whole")
    for i in range(len(data) - 1):
        reader.receive_data(data[i : i + 1])
        assert not reader.idle
    assert reader.receive_data(data[-1:]) == [("message", TEXT, False, b"halfwhole")]
    assert reader.idle
