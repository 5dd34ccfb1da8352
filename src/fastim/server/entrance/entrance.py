"""The entrance: a connection becomes a user's session by ``hello``, and gets a new token by ``refresh``.

A hello passes these steps, in this order; each may turn it away:

1. the token, a migration ticket, or what the application says (``_identify``),
2. whether its bearer may come in (``checks``, asked about each token of a ``refresh`` too),
3. the login policy, where a session comes back that had to give way (``Logins.check``),
4. the application's middleware (``Decisions.admit``),
5. a place that is free (``Places.reserve``),
6. where it is a ticket: whether it is used for the first time (``_use``),
7. the session, which is found or made (``Messaging.attach``); who is anonymous has none,
8. its place, if need be that of another (``Places.take``),
9. the ``ok`` (``_entered``), the application's ``on_connect`` handlers, and only now, as it is really in, the
   logins that have to give way for it (``Logins.admitted``).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from fastim.errors import CloseCode, ErrorCode, LimitExceeded, RequestError, StoreError, TurnedAway
from fastim.guard.tiers import RANKS
from fastim.guard.tokens import Tier
from fastim.im.messaging import PROTOCOL
from fastim.im.session import SessionState
from fastim.im.sessions import Sessions
from fastim.server.application.eager import step
from fastim.server.connection import Connection, Phase
from fastim.server.entrance.decisions import Decisions
from fastim.server.entrance.doors import Door, NativeDoor
from fastim.server.entrance.identity import NEVER
from fastim.server.entrance.logins import Logins
from fastim.server.front.opening import Arrival, Handshake
from fastim.wire import bodies
from fastim.wire.bodies import decode_body
from fastim.wire.native import decode_value

if TYPE_CHECKING:
    from fastim.guard.tickets import Ticket
    from fastim.guard.tokens import Claims
    from fastim.im.sessions import MovedSession
    from fastim.server.entrance.migration import Migration
    from fastim.server.recovery.returning import Returning
    from fastim.server.service import Service
    from fastim.wire.bodies import Hello

__all__ = ["Check", "Entrance"]

MAX_TIMES: Final = 4_096  # of tokens, kept as shared objects
RETRY_AFTER_MS: Final = 1_000


Check = Callable[[Connection, "Claims"], None]


class Entrance:
    """Serves ``hello`` and ``refresh``.

    Args:
        service: Whose connections come in.

    Attributes:
        checks: Asked in this order about the bearer of each good token: bans before revocations. One that
            raises TurnedAway sends the connection off; any other exception is a mistake.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self.checks: list[Check] = []
        self.migration: Migration | None = None
        self._times: dict[int, int] = {}  # of tokens, to themselves; see ``_shared``
        self.logins = Logins(service, service.options.login_policy)
        self.decisions = Decisions(service.dispatcher.application, service.options.decision_timeout_s)
        self._refreshing: set[Connection] = set()  # whose new token the application looks at

    def hello(self, connection: Connection, body: Any, ref: int | None) -> None:
        """Serve a hello; the first packet of a connection, and the only one served before its ok."""
        if connection.phase != Phase.OPENING:
            raise RequestError(ErrorCode.BAD_REQUEST, "hello: this connection said it already")
        hello = decode_body(body, bodies.Hello, connection.encoding)
        came: Arrival | None = connection.extra
        handshake = came.handshake if came is not None else None
        if handshake is not None:
            handshake.auth = decode_value(body, connection.encoding)
        service = self._service
        self.enter(connection, hello, NativeDoor(service.dispatcher, ref, service.clock_ns), handshake)

    def enter(
        self,
        connection: Connection,
        hello: Hello,
        door: Door,
        handshake: Handshake | None = None,
        returning: Returning | None = None,
    ) -> None:
        """Let a connection in, or not; the door is told, at once or later, unless it has gone meanwhile.

        Args:
            connection: One that is OPENING.
            hello: What it says; for other protocols than the native one, made from what they have.
            door: Of its protocol.
            handshake: What the application may look at; None: nothing. See ``looks``.
            returning: Its wish to have an old connection back; None: it has none.
        """
        connection.phase = Phase.ENTERING
        came: Arrival | None = connection.extra
        arrival = Arrival(handshake, came.claims if came is not None else None)
        # What an application waits for may ask for the current task: a whole one, not a first step without.
        namespace = self._service.dispatcher.tables.namespace_of(connection.namespace)
        run = self._service.spawn if self.decisions.wait(namespace) else self._step
        run(self._enter(connection, hello, door, arrival, returning))

    def _step(self, coroutine: Coroutine[Any, Any, None]) -> None:
        step(coroutine, self._service.spawn)

    def looks(self, connection: Connection) -> bool:
        """Whether the application may look at the handshake of a connection."""
        return self.decisions.looks(self._service.dispatcher.tables.namespace_of(connection.namespace))

    async def _enter(
        self,
        connection: Connection,
        hello: Hello,
        door: Door,
        arrival: Arrival,
        returning: Returning | None,
    ) -> None:
        service = self._service
        try:
            ticket = await self._identify(connection, hello, arrival)
            claims = arrival.claims
            if returning is not None:
                hello = returning.check(connection, claims, hello)
            if claims is not None:
                self._name(connection, hello, claims)
                self.check(connection, claims)
                self.logins.check(hello, claims)
            known = returning is not None and returning.skips_middleware
            if arrival.handshake is not None:
                await self._ask_application(connection, arrival, known)
            if connection.phase != Phase.ENTERING:
                return
            if claims is None:
                body = self._seat_anonymous(connection, hello)
            else:
                body = await self._seat(connection, hello, claims, ticket, returning)
            if returning is not None:
                await returning.gather(connection, service.options.tiers[connection.tier].outbox_bytes)
                if claims is not None and connection.state == SessionState.GONE:
                    return  # it came back once more meanwhile, and this one is being closed
                if known and not returning.recovered and arrival.handshake is not None:
                    await self._ask_application(connection, arrival)
        except RequestError as error:
            self._refused(connection, door, error)
        except StoreError:
            self._refused(connection, door, RequestError(ErrorCode.UNAVAILABLE, "the store does not answer"))
        except Exception:
            self._refused(connection, door, service.dispatcher.note("hello"))
        else:
            if connection.phase == Phase.ENTERING:
                exp = NEVER if claims is None else self._deadline_s(claims.exp)
                self._entered(connection, hello, exp, door, body, returning)
        finally:
            if returning is not None:
                returning.release(connection)

    async def _identify(self, connection: Connection, hello: Hello, arrival: Arrival) -> Ticket | None:
        """Find out who a connection is; a ticket is returned, to be used up.

        Raises:
            RequestError: It has to say and does not, or what it says is refused.
        """
        service = self._service
        assert service.front is not None
        try:
            ticket = self.migration.open(hello) if self.migration is not None else None
            if ticket is not None:
                arrival.claims = ticket.claims()
                return ticket
            if self.decisions.authenticates:
                assert arrival.handshake is not None
                arrival.claims = await self.decisions.identify(arrival.handshake)
                if arrival.claims is None and service.options.auth_required:
                    raise TurnedAway(CloseCode.UNAUTHORIZED, "not authenticated")
            elif hello.token:
                arrival.claims = service.verifier.verify(hello.token, service.time_s())
        except RequestError as error:
            if error.code == ErrorCode.UNAUTHORIZED:
                address = service.hub.peer(connection.handle)
                service.front.bad_token(error, address, service.clock_ns())
            raise
        if arrival.claims is not None:
            self._recognized(connection)
        elif service.options.auth_required:
            raise RequestError(ErrorCode.UNAUTHORIZED, "a token is needed, in hello or in the request's head")
        return None

    async def _ask_application(self, connection: Connection, arrival: Arrival, known: bool = False) -> None:
        """Ask the middleware.

        Args:
            known: It has let the client in before, and is not asked again.

        Raises:
            RequestError: It does not let the connection in.
        """
        if connection.phase != Phase.ENTERING:
            return  # it has gone meanwhile, and would keep a context for good
        dispatcher = self._service.dispatcher
        context = dispatcher.context(connection)
        context.arrival = arrival
        if known:
            return
        await self.decisions.admit(dispatcher.tables.namespace_of(connection.namespace).middlewares, context)

    def _seat_anonymous(self, connection: Connection, hello: Hello) -> dict[str, Any]:
        """Give a connection without a user a place.

        Returns:
            The body of the ok, as of ``Messaging.attach``.

        Raises:
            TurnedAway: There is none.
        """
        service = self._service
        reserved = service.places.reserve(connection, Tier.STANDARD, (), replaces=False)
        service.places.take(connection, Tier.STANDARD, (), reserved)
        connection.device = hello.device or ""
        connection.session_id = connection.session_id or Sessions.new_id()
        return {
            "protocol": PROTOCOL,
            "features": [],
            "session": connection.session_id,
            "user": "",
            "device": connection.device,
            "tier": connection.tier,
            "time": int(service.time_s() * 1000),
            "resumed": False,
        }

    async def _seat(
        self,
        connection: Connection,
        hello: Hello,
        claims: Claims,
        ticket: Ticket | None,
        returning: Returning | None,
    ) -> dict[str, Any]:
        """Give a user's connection its session and its place; returns the body of the ok.

        Raises:
            RequestError: There is no place, or the ticket was used before.
            StoreError: The user could not be loaded.
        """
        messaging, places = self._service.messaging, self._service.places
        assert messaging is not None
        leaving = self.logins.leaving(connection, claims)
        replaces = self._replaces(connection, hello, claims)
        reserved = places.reserve(connection, claims.tier, leaving, replaces=replaces)
        moved = await self._use(connection, ticket) if ticket is not None else None
        if returning is not None and returning.is_wanted:
            body = await messaging.attach(connection, hello, claims, returning.moved, replay=False)
        else:
            body = await messaging.attach(connection, hello, claims, moved)
        if connection.phase == Phase.ENTERING:
            self.check(connection, claims)  # what was decided about its bearer meanwhile
            leaving = self.logins.leaving(connection, claims)
            places.take(connection, claims.tier, leaving, reserved)
        return body

    async def _use(self, connection: Connection, ticket: Ticket) -> MovedSession:
        """Use a ticket up; one that was used before speaks against whoever shows it, as a bad token does."""
        service = self._service
        assert service.front is not None
        assert self.migration is not None
        address = service.hub.peer(connection.handle)
        try:
            moved = await self.migration.use(ticket)
        except RequestError as error:
            service.front.bad_token(error, address, service.clock_ns())
            raise
        self._recognized(connection)
        return moved

    def _recognized(self, connection: Connection) -> None:
        """What the hello showed is good, and counts in its address's favour, unless the head's token did."""
        service = self._service
        came: Arrival | None = connection.extra
        if (came is None or came.claims is None) and service.front is not None:
            service.front.admission.recognized(service.hub.peer(connection.handle), connection.connected_ns)

    def _name(self, connection: Connection, hello: Hello, claims: Claims) -> None:
        """Note what the checks ask for, of whom nothing is known yet: the device, and which token it is."""
        device = claims.device or hello.device
        if device is None and hello.resume is not None and self._service.messaging is not None:
            device = self._service.messaging.sessions.device_of(hello.resume.session, claims.user)
        connection.device = device or ""
        connection.jti = claims.jti
        connection.iat = None if claims.iat is None else self._shared(claims.iat)

    def _replaces(self, connection: Connection, hello: Hello, claims: Claims) -> bool:
        """Whether the session that the hello comes back to has a connection."""
        messaging = self._service.messaging
        if hello.resume is None or messaging is None:
            return False
        found = messaging.sessions.find(hello.resume.session, claims.user, connection.device or None)
        return isinstance(found, Connection)

    def _shared(self, time_s: int) -> int:
        """The same time as one object for all: tokens of one second are many, and 32 bytes each time too."""
        times = self._times
        if len(times) > MAX_TIMES:
            times.clear()
        return times.setdefault(time_s, time_s)

    def check(self, connection: Connection, claims: Claims) -> None:
        """Ask whether the bearer of a good token may be here.

        Raises:
            TurnedAway: No.
        """
        for check in self.checks:
            check(connection, claims)

    def _refused(self, connection: Connection, door: Door, error: RequestError) -> None:
        self._service.places.release(connection)
        if connection.context is not None:
            connection.context.arrival = None
        if connection.phase == Phase.ENTERING:
            connection.phase = Phase.OPENING
        door.refused(connection, error)

    def _entered(
        self,
        connection: Connection,
        hello: Hello,
        exp: int,
        door: Door,
        body: dict[str, Any],
        returning: Returning | None,
    ) -> None:
        options = self._service.options
        connection.extra = None
        self._service.hub.authenticated(connection.handle)
        if body["resumed"]:
            assert self._service.front is not None
            self._service.front.admission.resumed(connection.connected_ns)
        connection.connected_ns = 0
        connection.exp = exp
        connection.phase = Phase.READY
        serves_messaging = self._service.dispatcher.tables.serves_messaging(connection.namespace)
        if not serves_messaging:
            body["features"] = []
        policy = options.tiers[connection.tier]
        body["tier"] = connection.tier
        body["node"] = options.node
        body["heartbeat_ms"] = self._service.heartbeat.longest_silence_ms(policy)
        body["limits"] = {
            "max_message_bytes": options.max_message_bytes,
            "messages_per_minute": policy.messages_per_minute,
        }
        door.entered(connection, body)
        self._service.hub.configure(
            connection.handle,
            batch=hello.batch,
            outbox_bytes=policy.outbox_bytes,
            tier=RANKS[connection.tier],
        )
        if returning is not None and returning.recovered:
            returning.replay(connection)
        if serves_messaging and self._service.messaging is not None:
            self._service.messaging.begin(connection)
        self._service.lifecycle.connected(connection)
        now_ns = self._service.clock_ns()
        self._service.timers.check(connection, now_ns)
        self._begin_heartbeat(connection, now_ns)

    def _begin_heartbeat(self, connection: Connection, now_ns: int) -> None:
        self._service.heartbeat.begin(connection, self._service.options.tiers[connection.tier], now_ns)

    def _deadline_s(self, exp: int) -> int:
        """When a token's connection ends: at ``exp``, or within the leeway if that is how it came in."""
        if exp <= self._service.time_s():
            exp += self._service.options.leeway_s
        return self._shared(exp)

    def refresh(self, connection: Connection, body: Any, ref: int | None) -> None:
        """Take a new token of the same user."""
        refresh = decode_body(body, bodies.Refresh, connection.encoding)
        if not self.decisions.authenticates:
            claims = self._service.verifier.verify(refresh.token, self._service.time_s())
            self._renew(connection, claims, ref)
        elif connection in self._refreshing:
            raise LimitExceeded("a refresh is being served", RETRY_AFTER_MS)
        else:
            self._refreshing.add(connection)
            self._service.spawn(self._refresh(connection, refresh.token, ref))

    async def _refresh(self, connection: Connection, token: str, ref: int | None) -> None:
        """Have the application say whose token it is."""
        service = self._service
        protocol = "fastim" if connection.native else "socket.io"
        address = service.hub.peer(connection.handle)
        handshake = Handshake(None, {"token": token}, address, protocol, connection.namespace)
        try:
            claims = await self.decisions.identify(handshake)
            if claims is None:
                raise RequestError(ErrorCode.UNAUTHORIZED, "token: not accepted")
            if connection.phase < Phase.LEAVING:
                self._renew(connection, claims, ref)
        except RequestError as error:
            service.dispatcher.fail(connection, ref, "refresh", error)
        except Exception:
            service.dispatcher.internal(connection, ref, "refresh")
        finally:
            self._refreshing.discard(connection)

    def _renew(self, connection: Connection, claims: Claims, ref: int | None) -> None:
        """Go on with what a new token says.

        Raises:
            RequestError: It is another user's, or its bearer may not be here.
        """
        if claims.user != connection.user_id:
            raise RequestError(ErrorCode.UNAUTHORIZED, "token: it belongs to another user")
        self.check(connection, claims)
        connection.exp = self._deadline_s(claims.exp)
        tier = connection.tier
        self._service.places.change(connection, claims.tier)
        self._service.hub.configure(
            connection.handle,
            outbox_bytes=self._service.options.tiers[connection.tier].outbox_bytes,
            tier=RANKS[connection.tier],
        )
        connection.scope = claims.scope
        connection.jti = claims.jti
        connection.iat = claims.iat
        connection.warned = False
        connection.answer(ref, {"exp": claims.exp, "tier": connection.tier})
        now_ns = self._service.clock_ns()
        self._service.timers.check(connection, now_ns)
        if connection.tier != tier:  # else the interval stays as it has adapted
            self._begin_heartbeat(connection, now_ns)
