"""Values and packets, encoded in one pass over Python objects."""

from collections.abc import Collection, Sequence
from typing import final

__all__ = ["Encoded", "Shape", "encode_value"]

__pyx_capi__: dict[str, object]  # the C interface

@final
class Encoded:
    """A value that is encoded already; stands in other values where they are encoded.

    Its bytes must have been checked: they are inserted as they are where the encodings agree, else
    transcoded.
    """

    def __init__(self, data: bytes, encoding: int) -> None: ...
    @property
    def data(self) -> bytes: ...
    @property
    def encoding(self) -> int: ...

def encode_value(value: object, encoding: int) -> bytes:
    """Encode a value of the kinds that ``values.check`` accepts, Encoded parts inserted.

    Raises:
        ValueError: it is or holds something else, or is nested deeper than 64.

    **Cost**: one pass, no Python objects but the result.
    """

@final
class Shape:
    """Makes packets of one event whose body is a map of known fields; faster than a dict of them.

    Args:
        event: The event's name.
        code: Its integer code.
        fields: The body's fields, in order.
        optional: Those that are left out where the value is None.
    """

    def __init__(
        self, event: str, code: int, fields: Sequence[str], optional: Collection[str] = ()
    ) -> None: ...
    def packet(self, encoding: int, values: tuple[object, ...], ref: int | None = None) -> bytes:
        """Make a packet of the values, one for each field."""

    def body(self, encoding: int, values: tuple[object, ...]) -> bytes:
        """Make the body alone."""
