"""Check and transcode values that stay encoded: no Python objects are made of them."""

from enum import IntEnum

__all__ = ["Encoding", "Kind", "check", "check_name", "is_string", "transcode"]

__pyx_capi__: dict[str, object]  # the C interface

class Encoding(IntEnum):
    """How packets and values are encoded. Plain ints serve as well."""

    JSON = 0  # text frames
    MSGPACK = 1  # binary frames

class Kind(IntEnum):
    """What a value is at its top."""

    NIL = 0
    BOOLEAN = 1
    INTEGER = 2
    DOUBLE = 3
    STRING = 4
    BYTES = 5
    ARRAY = 6
    MAP = 7

def check(data: bytes | bytearray | memoryview, encoding: int) -> Kind:
    """Check that ``data`` is exactly one value: nothing missing, nothing behind it (JSON: but white space).

    A value is null, a boolean, an integer from −2^63 to 2^64−1, a finite double, a string of Unicode scalar
    values (NUL included), bytes, an array or a map with string keys, at most 64 arrays and maps deep. In
    JSON bytes are ``{"$bytes": "<base64>"}`` (RFC 4648, section 4: padded, no white space, pad bits zero),
    and other keys that begin with ``$`` begin with ``$$``. ``-0`` is the integer 0. In msgpack extension
    types are no values; every width of a number or length is accepted. A key that comes twice is accepted
    and carried as it is; who decodes takes the last.

    Args:
        data: Encoded bytes; borrowed until the call returns.
        encoding: An Encoding.

    Returns:
        What the value is at its top.

    Raises:
        ValueError: naming what is wrong and at which byte.

    **Cost**: one pass, O(n), no allocation and no recursion, whatever the input declares.
    """

def transcode(data: bytes | bytearray | memoryview, source: int, target: int) -> bytes:
    """Write a value in the other encoding, checking it like ``check`` on the way.

    Exact both ways: integers stay integers, doubles doubles (shortest decimal that reads back), strings,
    bytes and keys are the same after any number of turns. The result is compact: no white space, shortest
    msgpack forms. The same encoding twice gives ``data`` back, checked.

    Args:
        data: Encoded bytes; borrowed until the call returns.
        source: The Encoding of data.
        target: The Encoding of the result.

    Raises:
        ValueError: as ``check``.

    **Cost**: O(n); arrays and maps with more than 15 items are moved once per level (at most 64).
    """

def is_string(data: bytes | bytearray | memoryview, encoding: int) -> bool:
    """Say whether a value that was checked is a string, from its first byte."""

def check_name(text: str, max_bytes: int) -> str:
    """Check an id or a name: 1 to ``max_bytes`` bytes of UTF-8 without control characters (Unicode Cc).

    Returns:
        An empty string if it is one, else what was expected, e.g. ``expected 1 to 128 bytes, got 0``.
    """
