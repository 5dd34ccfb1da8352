"""Socket.IO over Engine.IO: each message to its packet, each packet to its namespace and the handlers there.

A packet that a client in order does not send ends its transport, as in the reference implementation: one that
cannot be read, one for a namespace that the client is not in, a second CONNECT to one that it is in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Encoding
from fastim.errors import CloseCode, RequestError
from fastim.server.application.handlers import Args
from fastim.server.application.outgoing import UNSENDABLE
from fastim.server.application.tables import Mode
from fastim.server.connection import Phase
from fastim.server.socketio.client import Client
from fastim.server.socketio.connecting import FINAL_CODES, Connecting, client_of
from fastim.server.socketio.socket import Socket
from fastim.wire.events import NAMES
from fastim.wire.socketio import (
    MESSAGE_SENT_REF,
    Assembly,
    PacketType,
    read_map,
    read_text,
    written_from_native,
)

if TYPE_CHECKING:
    from fastim.server.engineio.session import EngineSession
    from fastim.server.service import Service
    from fastim.server.socketio.options import SocketIOOptions
    from fastim.wire.socketio import Packet

__all__ = ["SocketIO"]

NS_PER_S: Final = 1_000_000_000
MAX_REASON_CHARS: Final = 80
MAX_LEFT: Final = 16  # namespaces; a client that is put out of more and has not noticed loses its transport

# Compared with for every packet: plain ints.
_CONNECT, _DISCONNECT, _EVENT = int(PacketType.CONNECT), int(PacketType.DISCONNECT), int(PacketType.EVENT)
_ACK, _BINARY_EVENT = int(PacketType.ACK), int(PacketType.BINARY_EVENT)
_READY: Final = int(Phase.READY)
# Built-in events whose answer goes out even where none is asked for.
_CONFIRMED: Final = frozenset({"message", "binary"})


class SocketIO:
    """What speaks over the sessions of an Engine.IO endpoint.

    Args:
        service: Whose hub and handlers it uses.
        options: See ``SocketIOOptions``.

    Attributes:
        connecting: See ``Connecting``.
        malformed_count: Transports that were closed for what their clients sent.
    """

    def __init__(self, service: Service, options: SocketIOOptions) -> None:
        self._service = service
        self._hub = service.hub
        self._dispatcher = service.dispatcher
        self._options = options
        self._max_attachments = options.max_attachments
        self.connecting = Connecting(service, options)
        self.malformed_count = 0
        service.figures["socketio"] = self.stats
        service.socketio = self
        service.hub.set_channel_codes(FINAL_CODES)
        service.hub.set_converter(written_from_native)
        codes = service.runtime.codes
        service.hub.set_event_names(NAMES | {code: event for event, code in codes.items()})

    def stats(self) -> dict[str, int]:
        """Return the gauges and counters for the metrics."""
        return {
            "sockets": self.connecting.count,
            "entered_total": self.connecting.entered_count,
            "refused_total": self.connecting.refused_count,
            "malformed_total": self.malformed_count,
        }

    # -- the transport

    def opened(self, session: EngineSession, now_ns: int) -> None:
        """Begin to wait for a CONNECT."""
        session.sockets = Client()
        self._hub.set_timer(session.handle, now_ns + self._options.connect_timeout_ns)

    def on_timer(self, session: EngineSession, now_ns: int) -> None:
        """End a transport whose client is in no namespace, or whose attachments have not come."""
        client = session.sockets
        if not isinstance(client, Client):
            return
        if client.assembly is not None:
            self._malformed(session, "attachments did not come in time")
        elif client.sockets and not client.was_in:  # it is being let in; the store may be slow
            self._hub.set_timer(session.handle, now_ns + NS_PER_S)
        elif not client.was_in:
            session.close(CloseCode.NO_HELLO, "no CONNECT in time")

    def moved(self, session: EngineSession, now_ns: int) -> None:
        """Go on to wait for what was waited for."""
        client = session.sockets
        if not isinstance(client, Client):
            return
        if client.assembly is not None:
            self._hub.set_timer(session.handle, now_ns + self._options.attachments_timeout_ns)
        elif not client.was_in:
            self._hub.set_timer(session.handle, now_ns + self._options.connect_timeout_ns)

    def carries(self, session: EngineSession) -> bool:
        """Tell whether a client has sockets."""
        client = session.sockets
        return isinstance(client, Client | Socket) and bool(client.sockets)

    def closed(self, session: EngineSession, code: int, reason: str, clean: bool) -> None:
        """Forget a transport; its sockets were told before."""
        session.sockets = None

    # -- packets

    def received(self, session: EngineSession, data: bytes, binary: bool, now_ns: int) -> int:
        """Serve a message; returns how many packets it held: one, or none where one is not complete."""
        client: Any = session.sockets
        if client is None:
            return 1
        try:
            if client.expects_text and not binary:
                packet = read_text(data, self._max_attachments)
            else:
                found = self._read(session, client, data, binary)
                if found is None:
                    return 0
                packet = found
            kind, namespace, ref, event, arguments = packet
            if kind != _EVENT:
                self._serve_other(session, client, data, packet, now_ns)
                return 1
            for socket in client.sockets:
                if socket.namespace == namespace:
                    break
            else:
                self._pass_over(client, namespace)
                return 1
        except ValueError as problem:
            self._malformed(session, str(problem))
            return 1
        if socket.phase != _READY or socket.work is not None:
            return self._serve_slowly(session, socket, packet)
        entry = socket.table.entries.get(event)
        if entry is None or entry[0]:
            return self._serve_slowly(session, socket, packet)
        # The hot path: an application's plain handler.
        dispatcher, handler = self._dispatcher, entry[2]
        self._hub.touch(socket.handle)
        try:
            context = socket.context or dispatcher.context(socket)
            if handler.least <= len(arguments) <= handler.most:
                result = handler.call(context, *arguments)
            else:
                result = handler.with_args(context, arguments)
            if ref is not None:
                try:
                    socket.acknowledge(ref, result)
                except UNSENDABLE as error:
                    dispatcher.unsendable(socket, event, ref, error)
        except RequestError as error:
            dispatcher.fail(socket, ref, event, error)
        except Exception:
            dispatcher.internal(socket, ref, event)
        return 1

    def _read(
        self, session: EngineSession, client: Client | Socket, data: bytes, binary: bool
    ) -> Packet | None:
        """Read a message that is the client's first, or not plain text; None: a packet is not complete.

        Raises:
            ValueError: It cannot be read.
        """
        if isinstance(client, Client) and client.parser is None:
            client.parser = Encoding.MSGPACK if binary else Encoding.JSON
            if self._options.parser not in (None, client.parser):
                raise ValueError("another parser is spoken here")
        if client.parser == Encoding.MSGPACK:
            if not binary:
                raise ValueError("text, where msgpack is spoken")
            return read_map(data)
        assembly = client.assembly
        if assembly is None:
            if binary:
                raise ValueError("bytes, though no packet waits for attachments")
            return read_text(data, self._max_attachments)
        if not binary:
            raise ValueError("text, though attachments are awaited")
        packet = assembly.add(data)
        if packet is not None:
            assert isinstance(client, Client)
            client.assembly = None
            self._hub.set_timer(session.handle, 0)
        return packet

    def _serve_other(
        self, session: EngineSession, client: Client | Socket, data: bytes, packet: Packet, now_ns: int
    ) -> None:
        """Serve a packet that is no event, or no complete one.

        Raises:
            ValueError: It has no place here.
        """
        kind, namespace, ref, _, value = packet
        socket = client.find(namespace)
        if kind == _CONNECT:
            whole = client_of(session)
            assert whole is not None
            if socket is not None:
                if self._hub.alive(socket.handle):
                    raise ValueError("a second CONNECT to a namespace")
                whole.remove(socket)  # we have put it out, and hear so in the next turn
            self.connecting.connect(session, whole, namespace, value)
            return
        if socket is None:
            self._pass_over(client, namespace)
        elif socket.phase < Phase.STARTING and kind != _DISCONNECT:
            raise ValueError("a packet before the answer to CONNECT")
        if kind >= _BINARY_EVENT:
            whole = client_of(session)
            assert whole is not None
            whole.assembly = Assembly(data, value, self._options.max_packet_bytes)
            self._hub.set_timer(session.handle, now_ns + self._options.attachments_timeout_ns)
        elif socket is not None and kind == _DISCONNECT:
            self._disconnect(socket)
        elif socket is not None:
            self._dispatcher.receive_answer(socket, ref or 0, Args(value))

    def _disconnect(self, socket: Socket) -> None:
        """Serve a client's DISCONNECT, unless we have put it out already and hear so in the next turn."""
        if self._hub.drop_channel(socket.handle):
            if self._service.recovery is not None:
                self._service.recovery.disconnected(socket)
            self._service.ended(socket, CloseCode.NORMAL, clean=True)

    def _serve_slowly(self, session: EngineSession, socket: Socket, packet: Packet) -> int:
        """Serve an event that is not for a plain handler of a connection that is ready."""
        _, _, ref, event, arguments = packet
        if socket.phase < Phase.STARTING:
            self._malformed(session, "a packet before the answer to CONNECT")
            return 1
        if ref is None and event in _CONFIRMED:
            entry = socket.table.entries.get(event)
            if entry is not None and entry[0] == Mode.BUILTIN:
                ref = MESSAGE_SENT_REF
        self._hub.touch(socket.handle)
        self._dispatcher.receive_packet(socket, event, Args(arguments), ref)
        return 1

    @staticmethod
    def _pass_over(client: Client | Socket, namespace: str) -> None:
        """Pass over a packet for a namespace that we put the client out of.

        Raises:
            ValueError: The client was not in that namespace.
        """
        if namespace not in client.left:
            raise ValueError("a packet for a namespace that the client is not in")

    def _malformed(self, session: EngineSession, problem: str) -> None:
        """End a transport for what its client sent; that speaks against it, or against its address."""
        self.malformed_count += 1
        session.close(CloseCode.PROTOCOL_ERROR, problem[:MAX_REASON_CHARS])

    # -- the end of a socket

    def left(self, socket: Socket, was_in: bool, clean: bool) -> None:
        """Forget a socket that is gone.

        Args:
            was_in: Its CONNECT was answered.
            clean: Its client put an end to it; else it may not know yet.
        """
        self.connecting.left(socket, was_in)
        client = socket.engine.sockets
        if was_in and not clean and isinstance(client, Client) and client.find(socket.namespace) is None:
            others = tuple(name for name in client.left if name != socket.namespace)
            client.left = (*others[1 - MAX_LEFT :], socket.namespace)
