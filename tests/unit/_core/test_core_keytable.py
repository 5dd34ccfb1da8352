"""The keyed digest."""

import pytest

from fastim._core.keytable import siphash13
from tests.reference.siphash import siphash

KEY = bytes(range(16))


def test_reference_gives_the_vector_of_the_paper() -> None:
    # "SipHash: a fast short-input PRF", appendix A; the authors' parameters are 2 and 4 rounds.
    assert siphash(KEY, bytes(range(15)), rounds=(2, 4)) == 0xA129CA6149BE45E5


@pytest.mark.parametrize("size", [*range(20), 63, 64, 65, 1_000])
def test_siphash13_of_any_length_is_as_the_reference(size: int) -> None:
    data = bytes(index * 7 % 256 for index in range(size))
    assert siphash13(KEY, data) == siphash(KEY, data, rounds=(1, 3))
    assert siphash13(KEY[::-1], data) == siphash(KEY[::-1], data, rounds=(1, 3))


def test_siphash13_with_a_short_key_raises() -> None:
    with pytest.raises(ValueError, match="16"):
        siphash13(b"short", b"")
