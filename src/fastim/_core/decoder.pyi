"""Encoded values, decoded to Python objects."""

from typing import Any

__all__ = ["decode_value"]

__pyx_capi__: dict[str, object]  # the C interface

def decode_value(data: bytes, encoding: int, *, max_depth: int = 64) -> Any:
    """Decode exactly one value, checked like ``values.check`` does, in the same pass.

    Bytes become ``bytes``, arrays ``list``, maps ``dict`` with the literal keys (the last of two that are
    the same).

    Args:
        data: Encoded bytes.
        encoding: Their Encoding.
        max_depth: Arrays and maps inside each other, at most 128.

    Raises:
        ValueError: naming what is wrong and at which byte.

    **Cost**: O(n); recursion to the depth of the value, at most ``max_depth``.
    """
