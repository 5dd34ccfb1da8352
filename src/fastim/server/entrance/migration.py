"""Migration: a connection is told to go on at another server, and one that comes with a ticket is let in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fastim._core.hub import Lane
from fastim.guard.tickets import LIFE_MS, Ticket, Tickets
from fastim.guard.tokens import TokenError
from fastim.im.session import SessionState
from fastim.im.sessions import MovedSession
from fastim.wire.native import Encoded

if TYPE_CHECKING:
    from fastim.server.connection import Connection
    from fastim.server.service import Service
    from fastim.store.base import Store
    from fastim.wire.bodies import Hello

__all__ = ["Migration"]

MS_PER_S: Final = 1_000


class Migration:
    """Gives tickets out and takes them.

    Args:
        service: Whose connections go and come.
        tickets: Signs and checks them.
        store: Remembers which were used: it is what all servers that may see a ticket have in common.
    """

    def __init__(self, service: Service, tickets: Tickets, store: Store) -> None:
        self._service = service
        self._tickets = tickets
        self._store = store
        self._offered = 0
        self._taken = 0
        self._refused = 0

    def _now_ms(self) -> int:
        return int(self._service.time_s() * MS_PER_S)

    # -- out

    def offer(self, connection: Connection, url: str | None = None, retry_after_ms: int = 0) -> bool:
        """Tell a connection to go on elsewhere; closing it, after a while, is the caller's.

        Args:
            connection: One that has said hello.
            url: Where; None: at the address it knows.
            retry_after_ms: How long it waits before it comes there. It is to come while the ticket is good,
                60 s from now.

        Returns:
            False if it is gone or has not said hello.
        """
        body = self.body(connection, url, retry_after_ms)
        return body is not None and connection.send_event("migrate", body, Lane.NORMAL)

    def body(
        self, connection: Connection, url: str | None = None, retry_after_ms: int = 0
    ) -> dict[str, Any] | None:
        """Make the body of ``migrate``, with a new ticket; None for who has not said hello."""
        if connection.state not in (SessionState.ATTACHED, SessionState.LIVE) or not connection.session_id:
            return None
        ticket = self._ticket_for(connection)
        text = self._tickets.sign(ticket)
        if text is None:
            return None
        self._offered += 1
        body = {"token": text, "expires_at": ticket.expires, "retry_after_ms": retry_after_ms}
        return body | ({"url": url} if url is not None else {})

    def _ticket_for(self, connection: Connection) -> Ticket:
        metadata: Encoded | None = connection.metadata
        return Ticket(
            id=Tickets.new_id(),
            expires=self._now_ms() + LIFE_MS,
            session=connection.session_id,
            user=connection.user_id,
            device=connection.device,
            device_class=str(connection.device_class),
            tier=str(connection.tier),
            scope=sorted(connection.scope),
            exp=connection.exp,
            jti=connection.jti,
            iat=connection.iat,
            status=int(connection.status),
            metadata=None if metadata is None else metadata.data,
            encoding=0 if metadata is None else int(metadata.encoding),
        )

    # -- in

    def open(self, hello: Hello) -> Ticket | None:
        """Return the ticket that a hello brings in the place of a token; None where it brings a token.

        Raises:
            TokenError: It is not good, or not for this session and device.
        """
        if not hello.token or not Tickets.is_ticket(hello.token):
            return None
        try:
            ticket = self._tickets.open(hello.token, self._now_ms())
            if hello.resume is None or hello.resume.session != ticket.session:
                raise TokenError(
                    "the ticket is for the session that it was given to, which resume has to name"
                )
            if hello.device not in (None, ticket.device):
                raise TokenError("the ticket is for another device")
            if self._service.time_s() >= ticket.exp + self._service.options.leeway_s:
                raise TokenError("the token that the ticket stands for has expired", expired=True)
        except TokenError:
            self._refused += 1
            raise
        return ticket

    async def use(self, ticket: Ticket) -> MovedSession:
        """Use a ticket up, and return what it hands over.

        Raises:
            TokenError: It was used before, here or at another server.
            StoreError: Not known to be used.
        """
        if not await self._store.use_ticket(ticket.id, ticket.expires, self._now_ms()):
            self._refused += 1
            raise TokenError("the ticket was used before")
        self._taken += 1
        metadata = None if ticket.metadata is None else Encoded(ticket.metadata, ticket.encoding)
        return MovedSession(ticket.session, ticket.status, metadata)

    def stats(self) -> dict[str, int]:
        """Counters for the metrics."""
        return {
            "offered_total": self._offered,
            "taken_total": self._taken,
            "refused_total": self._refused,
        }
