"""The context: a connection, as an application's handlers see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Lane
from fastim.server.application.rooms import check_room

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.server.application.runtime import Runtime
    from fastim.server.connection import Connection
    from fastim.server.front.opening import Arrival, Handshake

__all__ = ["DEFAULT_ASK_TIMEOUT_S", "Context"]

DEFAULT_ASK_TIMEOUT_S: Final = 10.0
_NORMAL: Final = int(Lane.NORMAL)
_LOW: Final = int(Lane.LOW)


class Context:
    """A connection, as an application's handlers see it: of Socket.IO, a client in one namespace.

    Those of one connection are equal, and have the same state; which of them a handler gets says nothing.

    **Thread**: the methods may be called from any thread; from another than the loop's they are queued there.
    **Lifetime**: valid for as long as one likes; once the connection is gone its methods do nothing.
    """

    __slots__ = ("_connection", "_runtime", "_session", "arrival")

    def __init__(self, runtime: Runtime, connection: Connection) -> None:
        self._runtime = runtime
        self._connection = connection
        self._session: dict[str, Any] | None = None
        self.arrival: Arrival | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Context) and other._connection is self._connection

    def __hash__(self) -> int:
        return hash(self._connection)

    @property
    def _claims(self) -> Claims | None:
        """Who it says it is, while its connection does not know yet."""
        return self.arrival.claims if self.arrival is not None else None

    # -- who it is

    @property
    def user(self) -> str:
        """The user's id; empty for an anonymous one."""
        claims = self._claims
        return self._connection.user_id if claims is None else claims.user

    @property
    def device(self) -> str:
        """The device's id."""
        return self._connection.device

    @property
    def sid(self) -> str:
        """By which others reach it: ``to=`` and ``skip=``; the same again when its session is resumed."""
        return self._connection.sid

    @property
    def session_id(self) -> str:
        """The id by which the client may resume."""
        return self._connection.session_id

    @property
    def connection(self) -> int:
        """A number that no other connection of this process has or will have."""
        return self._connection.handle

    @property
    def namespace(self) -> str:
        """Where it is; native connections are in ``/``."""
        return self._connection.namespace

    @property
    def recovered(self) -> bool:
        """Whether a client of Socket.IO has its connection back: sid, rooms, and all that it missed."""
        return self._connection.recovered

    @property
    def transport(self) -> str:
        """``websocket``, or ``polling`` while a client of Socket.IO has not upgraded."""
        return self._connection.transport

    @property
    def tier(self) -> str:
        """The tier that it has got: the one that its token grants, or a lower one."""
        return self._connection.tier

    @property
    def rtt_ms(self) -> float | None:
        """The latest round trip of a ping, milliseconds; None: none was answered, or it is gone.

        The server measures it at each heartbeat, by its own clock.
        """
        return self._runtime.round_trip_ms(self._connection)

    @property
    def scope(self) -> frozenset[str]:
        """The names that the token's ``scope`` lists."""
        claims = self._claims
        return frozenset(self._connection.scope) if claims is None else claims.scope

    @property
    def handshake(self) -> Handshake:
        """What it came with; kept until its ``on_connect`` handlers are over.

        Raises:
            RuntimeError: They are.
        """
        handshake = self.arrival.handshake if self.arrival is not None else None
        if handshake is None:
            raise RuntimeError("the handshake is kept until on_connect is over; copy what is needed later")
        return handshake

    @property
    def state(self) -> dict[str, Any]:
        """A place for the application's own values, one for each connection."""
        state = self._connection.values
        if state is None:
            state = self._connection.values = {}
        return state

    @property
    def session(self) -> dict[str, Any]:
        """The same, one for each session: a client that resumes has it again.

        It goes when the session ends (``FastIM.on_session_end`` tells), and is not stored.
        """
        if self._session is None:
            self._session = self._runtime.data_of(self._connection)
        return self._session

    def entered(self) -> None:
        """The connection is in: what middleware has put down is kept with its session from now on."""
        early, self._session = self._session, None
        if early:
            self.session.update(early)

    def hold_session(self) -> None:
        """Keep what is kept with the session, as nobody else does any more."""
        self._session = self.session

    # -- sending

    def emit(self, event: str, *args: Any, volatile: bool = False) -> None:
        """Send an event to this connection.

        Args:
            event: Its name.
            args: Any values; a native client gets one of them as the body, several as a list, none as null.
            volatile: Drop it if the connection is behind with what was sent before.

        Raises:
            ValueError: The protocol cannot carry a value.
        """
        self._runtime.emit(self._connection, event, args, _LOW if volatile else _NORMAL)

    def broadcast(self, topic: str, event: str, body: Any = None, include_self: bool = True) -> None:
        """Send an event to each connection of the root that joined a room; see ``FastIM.emit``.

        Args:
            topic: The room's name; one that nobody joined reaches nobody.
            event: The event's name.
            body: Any value the protocol can carry.
            include_self: Whether this connection gets it too, if it joined.
        """
        exclude = None if include_self else self._connection
        outgoing = self._runtime.outgoing(event, (body,))
        self._runtime.on_loop(self._runtime.broadcast, topic, outgoing, exclude)

    # -- rooms

    def join(self, room: str) -> None:
        """Let this connection get what is sent to a room of its namespace; joining twice is joining once."""
        self._runtime.on_loop(self._runtime.join, self._connection, check_room(room))

    def leave(self, room: str) -> None:
        """Take a join back."""
        self._runtime.on_loop(self._runtime.leave, self._connection, check_room(room))

    @property
    def rooms(self) -> tuple[str, ...]:
        """The rooms that it is in, or was in when it went, in the order it joined them."""
        return tuple(room.name for room in self._connection.rooms if room.name is not None)

    # -- questions

    async def ask(self, event: str, body: Any = None, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Send a request to the client and return its answer.

        **Thread**: the loop's; elsewhere use ``ask_blocking``.

        Raises:
            TimeoutError: No answer in time.
            RequestError: The client answered with an error.
            ConnectionError: The connection is gone.
        """
        return await self._runtime.ask(self._connection, event, (body,), timeout_s)

    def ask_blocking(self, event: str, body: Any = None, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Do what ``ask`` does for a handler that runs in a thread.

        Raises:
            RuntimeError: Called on the loop's thread, which it would block.
        """
        return self._runtime.blocking(self.ask(event, body, timeout_s), "await ctx.ask(...)")

    async def call(self, event: str, *args: Any, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Send an event that the client is to acknowledge, and return what it acknowledges it with.

        Returns:
            Its value; None without one. Of Socket.IO, a tuple of several.

        Raises:
            TimeoutError: No answer in time.
            RequestError: The client answered with an error.
            ConnectionError: The connection is gone.
        """
        return await self._runtime.ask(self._connection, event, args, timeout_s)

    def call_blocking(self, event: str, *args: Any, timeout_s: float = DEFAULT_ASK_TIMEOUT_S) -> Any:
        """Do what ``call`` does for a handler that runs in a thread.

        Raises:
            RuntimeError: Called on the loop's thread, which it would block.
        """
        return self._runtime.blocking(self.call(event, *args, timeout_s=timeout_s), "await ctx.call(...)")

    # -- its end

    def disconnect(self, close: bool = False) -> None:
        """End it for good, after what was sent to it before: the client does not come back by itself.

        Args:
            close: Of Socket.IO: close what all namespaces of the client share; default: it leaves this one.
        """
        self._runtime.on_loop(self._runtime.disconnect, self._connection, close)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close this connection with a close code, after what was sent to it before."""
        self._runtime.on_loop(self._runtime.close, self._connection, code, reason)
