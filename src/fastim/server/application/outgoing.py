"""An event on its way out, whatever its receivers speak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Encoding
from fastim.wire.events import SOCKETIO_OWN
from fastim.wire.native import encode_packet
from fastim.wire.socketio import encode_event

if TYPE_CHECKING:
    from fastim.server.connection import Connection
    from fastim.wire.socketio import Written

__all__ = [
    "FORMS",
    "JSON",
    "MSGPACK",
    "UNSENDABLE",
    "Outgoing",
    "check_name",
    "form_of",
    "native_packet",
]

FORMS: Final = 4  # native JSON and msgpack, then Socket.IO's parsers
UNSENDABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)
"""What encoders raise for values that the protocols cannot carry."""

# Compared with for every event: plain ints.
JSON: Final = int(Encoding.JSON)
MSGPACK: Final = int(Encoding.MSGPACK)


def form_of(connection: Connection) -> int:
    """Return the number of the form that a connection takes."""
    return connection.encoding + (0 if connection.native else 2)


def _body_of(args: Sequence[Any]) -> Any:
    """Return an event's values as the one body of a native packet: the value, null, or a list of several."""
    return args[0] if len(args) == 1 else list(args) or None


def check_name(event: object) -> None:
    """Refuse the name of an event that clients would not take.

    Raises:
        TypeError: It is no string.
        ValueError: It is empty, or Socket.IO's own.
    """
    if event.__class__ is not str and not isinstance(event, str):
        raise TypeError(f"event: a string, not {type(event).__name__}")
    if not event:
        raise ValueError("event: a name of at least one character")
    if event in SOCKETIO_OWN:
        raise ValueError(f"event: {event!r} is reserved by Socket.IO, whose clients close when they get it")


def native_packet(
    event: str, args: Sequence[Any], codes: Mapping[str, int], encoding: int, ref: int | None = None
) -> bytes:
    """Encode an event for native connections; the arguments are those of ``Outgoing``.

    Raises:
        ValueError: The values cannot be encoded.
    """
    name = codes.get(event, event) if encoding == MSGPACK else event
    try:
        return encode_packet(name, _body_of(args), encoding, ref)
    except UNSENDABLE as error:
        raise _unsendable(event, error) from None


def _unsendable(event: str, error: Exception) -> ValueError:
    return ValueError(f"the event {event!r} cannot be sent: {error}")


class Outgoing:
    """An event with any number of values, encoded at most once for each form that somebody takes.

    Args:
        event: Its name.
        args: The values.
        codes: Of the application's events, for native msgpack.
        ref: By which it is to be answered; None: not at all.

    Raises:
        TypeError: The name is no string.
        ValueError: The name is empty, or Socket.IO's own.
    """

    __slots__ = ("_args", "_codes", "_event", "_forms", "_mark", "_ref")

    def __init__(
        self, event: str, args: Sequence[Any], codes: Mapping[str, int], ref: int | None = None
    ) -> None:
        check_name(event)
        self._event = event
        self._args = args
        self._codes = codes
        self._ref = ref
        self._forms: list[Any] = [None] * FORMS
        self._mark: tuple[str | None, ...] = ()

    def native(self, encoding: int) -> bytes:
        """Return the native packet.

        Raises:
            ValueError: The protocol cannot carry a value.
        """
        packet: bytes | None = self._forms[encoding]
        if packet is None:
            packet = native_packet(self._event, self._args, self._codes, encoding, self._ref)
            self._forms[encoding] = packet
        return packet

    def mark(self, offset: str | None) -> None:
        """Give it an offset: one more value, by which clients of Socket.IO that come back say what they got.

        Args:
            offset: None: it has none. They would take a string that comes last for one: null comes behind it.
        """
        if offset is None and not (self._args and isinstance(self._args[-1], str)):
            return
        self._mark = (offset,)
        self._forms[2:] = (None, None)  # a thread may have encoded it

    def socketio(self, encoding: int) -> Written:
        """Return the packet of Socket.IO, without its namespace.

        Raises:
            ValueError: A value cannot be encoded.
        """
        packet: Written | None = self._forms[2 + encoding]
        if packet is None:
            try:
                packet = encode_event(self._event, (*self._args, *self._mark), encoding, self._ref)
            except UNSENDABLE as error:
                raise _unsendable(self._event, error) from None
            self._forms[2 + encoding] = packet
        return packet

    def check(self, connection: Connection | None = None) -> None:
        """Encode it for a connection; without one, as Socket.IO has it, which takes more kinds of values.

        Raises:
            ValueError: A value cannot be encoded.
        """
        if connection is not None and connection.native:
            self.native(connection.encoding)
        else:
            self.socketio(JSON if connection is None else connection.encoding)

    def send(self, connection: Connection, lane: int) -> bool:
        """Queue it to a connection; False if that is gone."""
        if connection.native:
            return connection.hub.send(connection.handle, self.native(connection.encoding), lane)
        packet, attachments = self.socketio(connection.encoding)
        return connection.hub.send_rendered(connection.handle, packet, attachments, lane)
