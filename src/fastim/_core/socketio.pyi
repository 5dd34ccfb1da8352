"""Packets of Socket.IO protocol 5: read to Python values, and written from them.

Values are plain ones: those that JavaScript's JSON and notepack have. What is read is null (None), booleans,
integers (in JSON those past 64 bits are floats), floats, strings (lone surrogates become U+FFFD), bytes,
dates of msgpack (``datetime`` in UTC), arrays (``list``) and maps with string keys (``dict``). An argument
may hold 72 levels of arrays and maps: a message's content of the full depth in its body.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

__all__ = ["PacketWriter", "complete", "native_body", "read_map", "read_text"]

_Packet: TypeAlias = tuple[int, str, int | None, str, Any]

def read_text(packet: bytes, max_attachments: int) -> _Packet:
    """Read a packet of the default parser.

    Args:
        packet: What an Engine.IO message of text holds.
        max_attachments: More are refused; count.

    Returns:
        ``(type, namespace, id, event, data)``. Type 0 (CONNECT): data is a dict or None. Type 1 (DISCONNECT):
        None. Type 2 (EVENT): the name and the arguments as a list. Type 3 (ACK): no name, and the list. Type
        5 and 6 (BINARY_EVENT, BINARY_ACK): data is how many attachments are to come; then see ``complete``.

    Raises:
        ValueError: It is no packet that a client sends.

    **Cost**: one pass.
    """

def complete(packet: bytes, attachments: list[bytes]) -> _Packet:
    """Read a packet of type 5 or 6 as type 2 or 3, now that its attachments have come.

    Args:
        packet: As it was given to ``read_text``.
        attachments: In the order they came; emptied.

    Raises:
        ValueError: It has another number of attachments.
    """

def read_map(packet: bytes) -> _Packet:
    """Read a packet of the msgpack parser; returns and raises as ``read_text``, without types 5 and 6.

    Extensions of type 0 are what notepack writes: ``undefined`` (1 byte in the fixed form) is None, a date (8
    bytes in the fixed form) a ``datetime``, anything else a typed array. Other types are refused. A field
    that is undefined or null is one that is not there.
    """

def native_body(value: object, encoding: int) -> bytes:
    """Encode an argument as the body of a native packet.

    Raises:
        ValueError: The native protocol cannot carry it.
    """

@final
class PacketWriter:
    """Writes packets, without their namespace, which the hub knows.

    In JSON a packet is an Engine.IO message with its digit; in msgpack a map whose head counts the ``nsp``
    that is still to be appended.

    Args:
        convert: Makes a value that is none here into one; raises where it cannot.
    """

    def __init__(self, convert: Callable[[Any], object]) -> None: ...
    def event(
        self, event: str, arguments: Sequence[object], encoding: int, ref: int | None = None
    ) -> tuple[bytes, tuple[bytes, ...]]:
        """Write an EVENT, with an id if it asks for an answer.

        In JSON floats that are no numbers are null and dates are strings, as JavaScript has it. Bytes
        (``bytes``, ``bytearray``, ``memoryview``) go into attachments. Keys that are integers become strings.

        Returns:
            The packet and its attachments, of which only JSON has any.

        Raises:
            ValueError, TypeError: A value cannot be sent.
        """

    def ack(self, ref: int, arguments: Sequence[object], encoding: int) -> tuple[bytes, tuple[bytes, ...]]:
        """Write an ACK; see ``event``."""

    def answer(self, type: int, data: Mapping[str, object], encoding: int) -> bytes:
        """Write a CONNECT (0) or CONNECT_ERROR (4) with a ``dict``."""
