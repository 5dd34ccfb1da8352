"""CONNECT: how a client comes into a namespace, and what it is told if it does not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastim._core.hub import Encoding, Lane
from fastim._core.values import check_name
from fastim.errors import CloseCode, ConnectionRefused, ErrorCode, RequestError, TurnedAway
from fastim.server.application.outgoing import UNSENDABLE
from fastim.server.connection import Phase
from fastim.server.entrance.doors import without_data
from fastim.server.front.opening import Handshake
from fastim.server.socketio.client import Client
from fastim.server.socketio.socket import Socket
from fastim.wire import bodies
from fastim.wire.native import error_body
from fastim.wire.socketio import addressed, encode_connect, encode_connect_error

if TYPE_CHECKING:
    from fastim.server.application.tables import Table
    from fastim.server.connection import Connection
    from fastim.server.engineio.session import EngineSession
    from fastim.server.service import Service
    from fastim.server.socketio.options import SocketIOOptions
    from fastim.server.socketio.recovery import SocketRecovery

__all__ = ["FINAL_CODES", "Connecting", "client_of", "hello_of"]

INVALID_NAMESPACE: Final = "Invalid namespace"  # clients and their tests compare it
PARSERS: Final = {"json": Encoding.JSON, "msgpack": Encoding.MSGPACK}

APART_S: Final = 0.01  # a reader that waits is back for the next read before, on a busy machine too

FINAL_CODES: Final = frozenset(
    {CloseCode.NORMAL, CloseCode.UNAUTHORIZED, CloseCode.BANNED, CloseCode.REPLACED, CloseCode.REMOVED}
)
"""Close codes that end a namespace alone, whose client is told not to come back by itself; all others end the
transport, and it does."""


class Connecting:
    """Serves CONNECT; the door of the entrance for Socket.IO.

    Args:
        service: Whose connections enter.
        options: See ``SocketIOOptions``.

    Attributes:
        recovery: Gives sockets back; None: none is given back.
        count: Sockets that are in.
        entered_count, refused_count: CONNECTs that were answered so.
    """

    def __init__(self, service: Service, options: SocketIOOptions) -> None:
        self._service = service
        self._hub = service.hub
        self._tables = service.dispatcher.tables
        self._max_namespaces = options.max_namespaces
        self.recovery: SocketRecovery | None = None
        self.count = 0
        self.entered_count = 0
        self.refused_count = 0

    def connect(
        self, session: EngineSession, client: Client, namespace: str, auth: dict[str, Any] | None
    ) -> None:
        """Serve a CONNECT to a namespace that the client is not in."""
        if 0 < self._max_namespaces <= len(client.sockets):
            error = RequestError(ErrorCode.TOO_LARGE, f"at most {self._max_namespaces} namespaces at a time")
            self._refuse(session, client, namespace, error)
            return
        table = self._tables.open(namespace)
        if table is None:
            self._refuse(session, client, namespace, None)
            return
        parser = table.namespace.parser
        if parser is not None and PARSERS[parser] != client.parser:
            self._tables.close(namespace)
            error = RequestError(ErrorCode.BAD_REQUEST, f"this namespace speaks {parser}")
            self._refuse(session, client, namespace, error)
            return
        self._enter(session, client, namespace, table, auth)

    def _enter(
        self,
        session: EngineSession,
        client: Client,
        namespace: str,
        table: Table,
        auth: dict[str, Any] | None,
    ) -> None:
        assert client.parser is not None
        socket = Socket(self._hub, session, client.parser, namespace, table)
        handle = self._hub.open_channel(session.handle, namespace.encode(), socket, encoding=client.parser)
        if not handle:  # the transport is gone
            self._tables.close(namespace)
            return
        socket.handle = handle
        socket.connected_ns = session.connected_ns
        client.add(socket)
        self._service.connections.add(socket)
        fields = {} if auth is None else auth
        hello = hello_of(fields)
        try:
            hello.token = self._token(socket, fields.get("token"))
        except RequestError as error:
            self.refused(socket, error)
            return
        if self.recovery is not None:
            socket.returning = self.recovery.returning(socket, hello, fields)
        entrance, handshake = self._service.entrance, None
        if entrance.looks(socket):
            handshake = Handshake(session.head, fields, session.address, "socket.io", namespace)
        entrance.enter(socket, hello, self, handshake, socket.returning)

    def _token(self, socket: Socket, token: object) -> str | None:
        """Return the token that tells who somebody is, from ``auth`` or else from the request's head.

        Where the application finds that out by itself, or nobody needs to be anybody, what ``auth`` calls a
        token may be the application's own.

        Raises:
            RequestError: It is none.
        """
        service, head = self._service, socket.engine.head
        if token is None or token == "":
            return service.front.token_in(head) if head is not None and service.front is not None else None
        is_text = isinstance(token, str) and len(token) <= bodies.MAX_TOKEN_CHARS
        if service.entrance.decisions.authenticates:
            return str(token) if is_text else None
        if not is_text:
            if self._needs_token(socket):
                raise RequestError(ErrorCode.BAD_REQUEST, "token: expected a string")
            return None
        if not self._needs_token(socket):
            try:
                service.verifier.verify(str(token), service.time_s())
            except RequestError:
                return None
        return str(token)

    def _needs_token(self, socket: Socket) -> bool:
        """Whether something is served where a socket is that is not for everybody."""
        return self._service.options.auth_required or self._tables.serves_messaging(socket.namespace)

    def _refuse(
        self, session: EngineSession, client: Client, namespace: str, error: RequestError | None
    ) -> None:
        """Refuse a CONNECT before there is a channel for it."""
        self.refused_count += 1
        encoding = Encoding.JSON if client.parser is None else client.parser
        packet = addressed(_refusal(error, encoding), namespace, encoding)
        self._hub.send_engine(session.handle, packet, encoding == Encoding.MSGPACK, Lane.NORMAL)

    # -- the door

    def entered(self, connection: Connection, body: Mapping[str, Any]) -> None:
        """Answer the CONNECT of a socket that is in; who has a messaging session is told of it as well."""
        assert isinstance(connection, Socket)
        socket = connection
        self.count += 1
        self.entered_count += 1
        socket.engine.connected_ns = 0
        client = client_of(socket.engine)
        if client is not None:
            client.was_in = True
            if client.is_plain:
                socket.engine.sockets = socket
        answer: dict[str, Any] = {}
        if self.recovery is not None:
            answer["pid"] = self.recovery.begin(socket, socket.returning)
            socket.returning = None
        answer = {"sid": socket.sid, **answer}  # who returns has the old one since a line ago
        self._hub.send_rendered(socket.handle, encode_connect(answer, socket.encoding))
        self._set_apart(socket)
        if socket.user is not None and self._tables.serves_messaging(socket.namespace):
            options = socket.engine.engine.options
            silence_ms = options.ping_interval_ms + options.ping_timeout_ms
            socket.send_event("hello", {**body, "heartbeat_ms": silence_ms})
        if self._tables.is_single:  # else the next namespace's handlers may ask for it
            socket.engine.forget_head()
        socket.engine.forget_sid()

    def _set_apart(self, socket: Socket) -> None:
        """Let the answer to a CONNECT come by itself, before the first events.

        Small clients and test programs wait for one message after the other, and miss the second of two that
        come in one read.
        """
        transport = socket.engine.handle
        if self._hub.write_apart(transport):
            self._service.later(APART_S, self._hub.write_on, transport)

    def refused(self, connection: Connection, error: RequestError) -> None:
        """Answer the CONNECT of a socket that is not let in.

        A client that gets CONNECT_ERROR does not try again by itself, as it does when it loses its transport:
        who is refused for now only, as the server is full, loses that.
        """
        assert isinstance(connection, Socket)
        socket = connection
        if socket.phase == Phase.CLOSED:
            return
        self.refused_count += 1
        if isinstance(error, TurnedAway) and error.close_code not in FINAL_CODES:
            socket.close(error.close_code, error.message, self._service.clock_ns())
            return
        self._hub.send_rendered(socket.handle, _refusal(error, socket.encoding))
        self._hub.drop_channel(socket.handle)
        self._service.ended(socket, CloseCode.UNAUTHORIZED, clean=False)

    def left(self, socket: Socket, was_in: bool) -> None:
        """Forget a socket that is gone."""
        self.count -= was_in
        self._tables.close(socket.namespace)
        client = client_of(socket.engine)
        if client is not None:
            client.remove(socket)


def client_of(session: EngineSession) -> Client | None:
    """Return the client of a transport, made where its only socket stands for it; None once that is gone."""
    client = session.sockets
    if isinstance(client, Socket):
        client = session.sockets = Client.of(client)
    return client if isinstance(client, Client) else None


def _refusal(error: RequestError | None, encoding: int) -> bytes:
    """Make the CONNECT_ERROR for an error; None: there is no such namespace."""
    if error is None:
        return encode_connect_error(INVALID_NAMESPACE, None, encoding)
    if isinstance(error, ConnectionRefused):
        try:
            return encode_connect_error(error.message, error.data, encoding)
        except UNSENDABLE as mistake:
            return encode_connect_error(without_data(error, mistake).message, None, encoding)
    data = error_body(error)
    return encode_connect_error(data.pop("message"), data, encoding)


def hello_of(auth: Mapping[str, Any]) -> bodies.Hello:
    """Make of ``auth`` what a native client says in its hello, but for the token.

    What does not fit is the application's own, and left out.
    """
    device = auth.get("device")
    if not isinstance(device, str) or check_name(device, bodies.MAX_ID_BYTES):
        device = None
    return bodies.Hello(device=device, acks=auth.get("acks") is True, resume=_resume_of(auth))


def _resume_of(auth: Mapping[str, Any]) -> bodies.Resume | None:
    try:
        resume = msgspec.convert(auth.get("resume"), bodies.Resume)
        bodies.Hello(resume=resume).validate(Encoding.JSON)
    except (msgspec.ValidationError, RequestError):
        return None
    return resume
