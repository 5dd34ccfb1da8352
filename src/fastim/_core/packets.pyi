"""Packets, as encoded bytes: split into their parts, and put together from values."""

from collections.abc import Collection, Mapping, Sequence
from typing import final

from fastim.errors import RequestError

__all__ = ["Encoded", "PacketCodec", "Shape", "encode_value"]

@final
class Encoded:
    """A value that is encoded already; stands in other values where they are encoded.

    Its bytes must have been checked: they are inserted as they are where the encodings agree, else transcoded.
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
class PacketCodec:
    """Splits messages into packets and makes packets.

    Args:
        names: Event name by integer code; msgpack packets carry the codes.
        max_packets: Of one batch.
        max_event_bytes: Of an event's name, in UTF-8.
    """

    def __init__(
        self, names: Mapping[int, str], *, max_packets: int = 1000, max_event_bytes: int = 64
    ) -> None: ...
    def split(
        self, payload: bytes, encoding: int
    ) -> list[tuple[str | int | None, bytes | RequestError, int | None]]:
        """Split a message into its packets ``(event, body, ref)``.

        ``body`` is the encoded body: in JSON well-formed, in msgpack only known to be complete; else, for a packet
        that cannot be served, a RequestError with what is known of event and ref beside it. ``event`` is an int
        only for a code that has no name here.

        Raises:
            RequestError: ``bad_packet`` if the message is not one packet or one batch, ``too_large`` for a batch
                of too many packets; nothing of it may be served then.

        **Cost**: one pass; no recursion, whatever the depth.
        """

    def encode(self, event: str | int, body: object, encoding: int, ref: int | None = None) -> bytes:
        """Make a packet; ``body`` as in ``encode_value``.

        Raises:
            ValueError: the body cannot be encoded.
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
