"""Bans on the running server: in force at once, kept in the store, felt by live connections."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode, ErrorCode, StoreError, TurnedAway
from fastim.guard.blocklist import ADDRESS, OPERATOR, USER, Ban, BlockList, normal_subject, site_of
from fastim.server.connection import Connection, Phase
from fastim.store.base import BanRecord

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["Bans"]

log = logging.getLogger("fastim.bans")

AUTOMATIC: Final = "automatic"
SWEEP_NS: Final = 60_000_000_000
REASON: Final = "banned"  # what is told where a ban has no reason


class Bans:
    """Puts bans in force and takes them back.

    Args:
        service: Whose connections they end.
        blocklist: The bans in force.
        store: Keeps them.
        time_ms: Milliseconds since the epoch.
    """

    def __init__(
        self, service: Service, blocklist: BlockList, store: Store, time_ms: Callable[[], int]
    ) -> None:
        self.blocklist = blocklist
        self._service = service
        self._store = store
        self._time_ms = time_ms
        self._unsaved: list[Ban] = []
        self._forgotten: list[Ban] = []
        self._saving = False
        self._swept_ns = service.clock_ns()
        self._automatic_count = 0
        self._closed_count = 0

    async def load(self) -> None:
        """Put the bans of the store in force."""
        now_ms, now_ns = self._time_ms(), self._service.clock_ns()
        for record in await self._store.bans(now_ms):
            self.blocklist.put(Ban(*record), now_ms, now_ns)
        if len(self.blocklist):
            log.info("%d bans are in force", len(self.blocklist))

    # -- by hand

    async def ban(self, kind: str, subject: str, for_s: float, reason: str) -> tuple[Ban, int]:
        """Ban somebody; in force when this begins, durable when it returns.

        Args:
            kind: ``ADDRESS`` or ``USER``.
            subject: An address, a CIDR range or a user's id.
            for_s: How long, in seconds; 0: for ever.
            reason: What those concerned are told; may be empty.

        Returns:
            The ban, and how many live connections it closed.

        Raises:
            ValueError: The subject is none of its kind.
            StoreError: It is in force, but not kept.
        """
        record = self._record(kind, normal_subject(kind, subject), for_s, reason, OPERATOR)
        forgotten = self._put(record)
        closed = self._close(record)
        await self._store.put_bans([BanRecord(*record)], record.created)
        await self._forget(forgotten)
        log.info("banned %s %s: %s", kind, record.subject, reason or "no reason given")
        return record, closed

    async def unban(self, kind: str, subject: str) -> bool:
        """Take a ban back; False if there is none of that very subject.

        Raises:
            ValueError: The subject is none of its kind.
            StoreError: It is taken back until the next start, but still kept.
        """
        subject = normal_subject(kind, subject)
        self._unsaved = [
            record for record in self._unsaved if (record.kind, record.subject) != (kind, subject)
        ]
        found = self.blocklist.remove(kind, subject)
        stored = await self._store.remove_ban(kind, subject)
        if found:
            log.info("took the ban of %s %s back", kind, subject)
        return found or stored

    def records(self) -> list[Ban]:
        """Return the bans in force, the oldest first."""
        self.blocklist.sweep(self._service.clock_ns())
        return sorted(self.blocklist, key=lambda record: (record.created, record.kind, record.subject))

    # -- by themselves

    def ban_automatically(self, kind: str, subject: str, for_s: float, reason: str) -> None:
        """Ban somebody for what was counted; an IPv6 address with its /64. Kept in the background.

        A ban by hand of the same subject stays as it is.
        """
        if kind == ADDRESS:
            subject = site_of(subject)
        known = self.blocklist.find(kind, subject, self._service.clock_ns())
        if known is not None and known.source == OPERATOR:
            return
        record = self._record(kind, subject, for_s, str(reason), AUTOMATIC)
        self._automatic_count += 1
        log.warning("banned %s %s for %g s: %s", kind, record.subject, for_s, reason)
        forgotten = self._put(record)
        # Not at once: whoever brought it about is being answered.
        self._service.loop.call_soon(self._close, record)
        self._unsaved.append(record)
        self._forgotten += forgotten
        if not self._saving:
            self._saving = True
            self._service.spawn(self._save())

    async def _save(self) -> None:
        """Keep what was banned meanwhile, all in one commit, until there is nothing new."""
        try:
            while self._unsaved or self._forgotten:
                records, self._unsaved = self._unsaved, []
                forgotten, self._forgotten = self._forgotten, []
                await self._store.put_bans([BanRecord(*record) for record in records], self._time_ms())
                await self._forget(forgotten)
        except StoreError as error:
            log.warning("automatic bans are in force, but not kept: %s", error)
        finally:
            self._saving = False

    async def _forget(self, records: list[Ban]) -> None:
        for record in records:
            await self._store.remove_ban(record.kind, record.subject)

    def _record(self, kind: str, subject: str, for_s: float, reason: str, source: str) -> Ban:
        now_ms = self._time_ms()
        return Ban(kind, subject, now_ms + int(for_s * 1000) if for_s else 0, reason, source, now_ms)

    def _put(self, record: Ban) -> list[Ban]:
        """Put a ban in force; returns those that had to go for it."""
        now_ns = self._service.clock_ns()
        if now_ns - self._swept_ns > SWEEP_NS:
            self._swept_ns = now_ns
            self.blocklist.sweep(now_ns)
        return self.blocklist.put(record, self._time_ms(), now_ns)

    # -- live connections

    def _close(self, record: Ban) -> int:
        """End the live connections of somebody who is banned; returns how many."""
        closed = self._close_address(record) if record.kind == ADDRESS else self._close_user(record)
        self._closed_count += closed
        self._service.poll_soon()
        return closed

    def _close_address(self, record: Ban) -> int:
        """End the connections from a range.

        What is counted against an address is counted before it is known who is there. So a ban that comes of
        it leaves those alone who have shown who they are: others behind the same address brought it about.
        """
        service = self._service
        closed = 0
        for subject in service.hub.within(record.subject):
            connection = subject if isinstance(subject, Connection) else None
            handle = subject if isinstance(subject, int) else subject.handle  # type: ignore[attr-defined]
            if self.blocklist.is_allowed(service.hub.peer(handle)):
                continue
            if connection is None:
                if record.source == OPERATOR or service.hub.is_pending(handle):
                    closed += service.hub.abort(handle)
            elif record.source == OPERATOR or connection.phase in (Phase.OPENING, Phase.ENTERING):
                closed += self._send_off(connection, record)
        self._close_transports(record)
        if record.source == OPERATOR and service.http is not None:
            closed += service.http.end_where(lambda peer: self.blocklist.is_blocked(peer, service.clock_ns()))
        return closed

    def _close_transports(self, record: Ban) -> None:
        """Close what carried only those who were sent off: over it a client could enter again."""
        service = self._service
        for subject in service.hub.within(record.subject):
            if not isinstance(subject, int) or self.blocklist.is_allowed(service.hub.peer(subject)):
                continue
            if record.source == OPERATOR or service.hub.is_pending(subject):
                service.hub.close(subject, CloseCode.BANNED, record.reason or REASON, service.clock_ns())

    def _close_user(self, record: Ban) -> int:
        messaging = self._service.messaging
        if messaging is None:
            return 0
        count = 0
        for session in messaging.sessions_of(record.subject):
            assert isinstance(session, Connection)
            count += self._send_off(session, record)
        messaging.end_sessions(record.subject)
        return count

    def _send_off(self, connection: Connection, record: Ban) -> bool:
        return connection.send_off(CloseCode.BANNED, record.reason or REASON, self._service.clock_ns())

    # -- who says hello

    def check(self, connection: Connection, claims: Claims) -> None:
        """Turn the bearer of a token away whose user is banned.

        Raises:
            TurnedAway: 4003.
        """
        assert self._service.front is not None
        record = self._service.front.admission.user_ban(claims.user, self._service.clock_ns())
        if record is not None:
            raise TurnedAway(CloseCode.BANNED, record.reason or REASON, ErrorCode.FORBIDDEN)

    def stats(self) -> dict[str, int]:
        """Return the counters, and how many are in force."""
        self.blocklist.sweep(self._service.clock_ns())
        kinds = [record.kind for record in self.blocklist]
        return {
            "addresses": kinds.count(ADDRESS),
            "users": kinds.count(USER),
            "automatic_total": self._automatic_count,
            "closed_connections_total": self._closed_count,
        }
