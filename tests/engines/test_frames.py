"""The compiled frame functions against their twin."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastim._core import frames
from tests.reference import frames as reference

ACCEPT, REJECT = 0, 12
# Where UTF-8 changes its mind: ends of each length, surrogates, the last code point, overlong forms.
EDGES = [
    *(b"\x7f", b"\x80", b"\xc1\xbf", b"\xc2\x80", b"\xdf\xbf", b"\xe0\x9f\xbf", b"\xe0\xa0\x80"),
    *(b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xee\x80\x80", b"\xef\xbf\xbf", b"\xf0\x8f\xbf\xbf"),
    *(
        b"\xf0\x90\x80\x80",
        b"\xf4\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
        b"\xce\xba",
    ),
]
utf8_like = st.lists(
    st.one_of(st.sampled_from(EDGES), st.text(max_size=9).map(str.encode), st.binary(max_size=3)), max_size=8
).map(b"".join)


@given(st.integers(0, 15), st.binary(max_size=300), st.booleans(), st.booleans())
def test_encode_frame_is_the_twins(opcode: int, payload: bytes, fin: bool, rsv1: bool) -> None:
    expected = reference.encode_frame(opcode, payload, fin, 4 if rsv1 else 0)
    assert frames.encode_frame(opcode, payload, fin, rsv1) == expected


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 70_000])
def test_encode_frame_at_the_edges_of_each_length(size: int) -> None:
    payload = bytes(size)
    encoded = frames.encode_frame(2, payload)
    assert encoded == reference.encode_frame(2, payload)
    header = frames.decode_header(encoded)
    assert header is not None
    assert header[5] == size
    assert len(encoded) == header[0] + size


@given(st.binary(max_size=16))
@example(b"\x81\xff" + b"\xff" * 12)
def test_decode_header_is_the_twins(data: bytes) -> None:
    expected = reference.decode_header(data)
    found = frames.decode_header(data)
    if expected is None:
        assert found is None
        return
    h = expected
    assert found == (h.size, h.fin, h.rsv, h.opcode, h.key is not None, h.length)


@given(st.binary(max_size=100), st.binary(min_size=4, max_size=4))
def test_apply_mask_is_the_twins_and_its_own_inverse(data: bytes, key: bytes) -> None:
    masked = frames.apply_mask(data, key)
    assert masked == reference.apply_mask(data, key)
    assert frames.apply_mask(masked, key) == data


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_apply_mask_when_the_key_has_not_four_bytes_then_raises(key: bytes) -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        frames.apply_mask(b"data", key)


@given(utf8_like)
def test_utf8_state_is_the_twins_at_every_split(data: bytes) -> None:
    for cut in range(len(data) + 1):
        state = frames.utf8_state(data[:cut])
        assert (state != REJECT) == reference.is_utf8(data[:cut], final=False)
        assert (state == ACCEPT) == reference.is_utf8(data[:cut])
        assert (frames.utf8_state(data[cut:], state) == ACCEPT) == reference.is_utf8(data)


@pytest.mark.parametrize(
    "code_point", [*range(0x7E, 0x82), 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
)
@pytest.mark.parametrize("before", range(9))
def test_utf8_state_behind_a_run_of_ascii(code_point: int, before: int) -> None:
    data = b"a" * before + chr(code_point).encode()
    assert frames.utf8_state(data) == ACCEPT
    assert frames.utf8_state(data + b"a" * 9) == ACCEPT


@pytest.mark.parametrize("state", [1, 108, 4_000_000_000])
def test_utf8_state_when_the_state_is_made_up_then_raises(state: int) -> None:
    with pytest.raises(ValueError, match="automaton"):
        frames.utf8_state(b"a", state)


def test_views_that_are_not_contiguous_are_refused() -> None:
    backwards = memoryview(b"abcdefgh")[::-1]
    with pytest.raises(BufferError, match="contiguous"):
        frames.utf8_state(backwards)
    with pytest.raises(BufferError, match="contiguous"):
        frames.decode_header(backwards)
    assert frames.encode_frame(2, backwards) == b"\x82\x08hgfedcba"
