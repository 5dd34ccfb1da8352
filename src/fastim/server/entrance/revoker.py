"""Revocations on the running server: checked with each token, and carried out on live connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode, TurnedAway
from fastim.guard.revocations import Revocation, RevocationKind, Revocations, covers
from fastim.im.sessions import EndReason
from fastim.server.connection import Connection
from fastim.store.base import RevocationRecord

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["REVOKED", "Revoker"]

REVOKED: Final = "the token was revoked"
KICKED: Final = "removed by an operator"


class Revoker:
    """Takes rights back: of tokens, users and devices.

    What is decided counts at once, before the store has it: an operator who is told that the store did not
    answer has to say it again, or a restart would forget it.

    Args:
        service: Whose connections are ended.
        store: Keeps the revocations.
    """

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store
        self.revocations = Revocations()
        self._closed = 0
        self._refused = 0

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._service.time_s() * 1000)

    async def start(self) -> None:
        """Read what is in force; the store is open."""
        for record in await self._store.revocations(self.now_ms()):
            self.revocations.add(Revocation(*record))

    # -- tokens that are shown

    def check(self, connection: Connection, claims: Claims) -> None:
        """Refuse a revoked token.

        Raises:
            TurnedAway: 4001.
        """
        if not len(self.revocations):
            return
        self.revocations.prune(self.now_ms())
        device = connection.device or claims.device
        if self.revocations.find(claims.user, device, claims.jti, claims.iat) is not None:
            self._refused += 1
            raise TurnedAway(CloseCode.UNAUTHORIZED, REVOKED)

    # -- decisions of operators

    async def revoke(self, record: Revocation) -> int:
        """Refuse tokens from now on, and end the connections that came in by them.

        Returns:
            How many connections.

        Raises:
            StoreError: In force, but not known to be kept.
        """
        now_ms = self.now_ms()
        self.revocations.prune(now_ms)
        record = self.revocations.add(record)
        closed = self._close(self._covered(record), CloseCode.UNAUTHORIZED, REVOKED)
        if record.kind != RevocationKind.TOKEN and record.before >= now_ms:
            # Whoever is away came in by a token that is refused now; of live ones some may have newer tokens.
            assert self._service.messaging is not None
            self._service.messaging.end_sessions(record.subject, record.device or None, live=False)
        await self._store.put_revocation(RevocationRecord(*record), now_ms)
        return closed

    async def lift(self, kind: str, subject: str, device: str) -> bool:
        """Take a revocation back; False if there is none.

        Raises:
            StoreError: Not known to be done.
        """
        known = self.revocations.lift(kind, subject, device)
        return await self._store.remove_revocation(kind, subject, device) or known

    def kick(self, user: str, device: str | None = None, session_id: str | None = None) -> int:
        """End sessions of a user, so that none of them comes back; their tokens stay good.

        Args:
            user: Whose.
            device: Only those of this device; None: of all.
            session_id: Only this one; None: all.

        Returns:
            How many connections were closed.
        """
        messaging = self._service.messaging
        if messaging is None:
            return 0
        wanted = [
            session
            for session in messaging.sessions_of(user)
            if device in (None, session.device) and session_id in (None, session.session_id)
        ]
        closed = self._close(wanted, CloseCode.REMOVED, KICKED)
        messaging.end_sessions(user, device, session_id)
        return closed

    def _covered(self, record: Revocation) -> list[Connection]:
        """The connections that came in by a token that is refused now."""
        service = self._service
        if record.kind == RevocationKind.TOKEN:
            return [connection for connection in service.connections if connection.jti == record.subject]
        assert service.messaging is not None
        return [
            session
            for session in service.messaging.sessions_of(record.subject)
            if isinstance(session, Connection)
            and record.device in ("", session.device)
            and covers(record, session.iat)
        ]

    def _close(self, sessions: Iterable[object], code: CloseCode, reason: str) -> int:
        service = self._service
        assert service.messaging is not None
        count = 0
        for session in sessions:
            assert isinstance(session, Connection)
            service.messaging.sessions.end(session.session_id, EndReason.REMOVED)
            session.send_off(code, reason, service.clock_ns())
            count += 1
        self._closed += count
        return count

    def stats(self) -> dict[str, int]:
        """Counters for the metrics."""
        self.revocations.prune(self.now_ms())
        return {
            "in_force": len(self.revocations),
            "closed_total": self._closed,
            "refused_total": self._refused,
        }
