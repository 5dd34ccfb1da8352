"""A table of C rows by key: what the keyed limits and the session table are built on."""

from typing import NoReturn

from typing_extensions import disjoint_base

def siphash13(key: bytes, data: bytes) -> int:
    """Return the SipHash-1-3 of `data` under a key of 16 bytes.

    Source: J.-P. Aumasson and D. J. Bernstein, "SipHash: a fast short-input PRF", 2012.

    Raises:
        ValueError: key is not 16 bytes.
    """

@disjoint_base
class KeyTable:
    """The common part of tables whose rows are found by the keyed 64-bit digest of a str or bytes.

    Of no use by itself. **Thread**: not synchronized; belongs to whoever calls it.
    """

    def __len__(self) -> int:
        """Return how many keys have a row."""
    def __sizeof__(self) -> int:
        """Return the bytes it holds, rows and index included."""
    def __reduce__(self) -> NoReturn: ...
