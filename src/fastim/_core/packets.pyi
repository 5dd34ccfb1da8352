"""Packets, as encoded bytes: split into their parts, and put together from values."""

from collections.abc import Mapping
from typing import final

from fastim.errors import RequestError

__all__ = ["PacketCodec"]

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

        ``body`` is the encoded body: in JSON well-formed, in msgpack only known to be complete; else, for a
        packet that cannot be served, a RequestError with what is known of event and ref beside it.
        ``event`` is an int only for a code that has no name here.

        Raises:
            RequestError: ``bad_packet`` if the message is not one packet or one batch, ``too_large`` for a
                batch of too many packets; nothing of it may be served then.

        **Cost**: one pass; no recursion, whatever the depth.
        """

    def encode(self, event: str | int, body: object, encoding: int, ref: int | None = None) -> bytes:
        """Make a packet; ``body`` as in ``encode_value``.

        Raises:
            ValueError: the body cannot be encoded.
        """
