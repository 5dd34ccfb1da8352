"""Logins of one user that exclude each other: the latest stays, the others give way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fastim.errors import CloseCode, TurnedAway
from fastim.guard.logins import LoginPolicy
from fastim.server.connection import Connection, Phase

if TYPE_CHECKING:
    from fastim.guard.tokens import Claims
    from fastim.im.session import Session
    from fastim.im.sessions import DetachedSession
    from fastim.server.service import Service
    from fastim.wire.bodies import Hello

__all__ = ["Logins"]

REASON: Final = "replaced by another login"


class Logins:
    """Carries the login policy out.

    A login gives way only to one that came after it and is in: of any number that come at once exactly one
    stays. A session that has given way, its connection or its right to come back, stays known for its life:
    a client that brings it back by itself must not throw out the one that replaced it. The namespaces of one
    client of Socket.IO are one login.

    Args:
        service: Whose connections they are.
        policy: How many logins a user may have.
    """

    def __init__(self, service: Service, policy: LoginPolicy) -> None:
        self._service = service
        self._policy = policy
        self._replaced = 0
        self._reconnected = 0

    def check(self, hello: Hello, claims: Claims) -> None:
        """Turn away who brings back a session that another login has replaced, while that one is here.

        Raises:
            TurnedAway: 4004.
        """
        messaging = self._service.messaging
        if self._policy is LoginPolicy.ANY or hello.resume is None or messaging is None:
            return
        session_id = hello.resume.session
        if not messaging.sessions.is_displaced(session_id, claims.user):
            return
        device = claims.device or hello.device or messaging.sessions.device_of(session_id, claims.user)
        device_class = claims.device_class or ""
        others: list[Session | DetachedSession] = [
            *messaging.sessions_of(claims.user),
            *(detached for _, detached in messaging.detached_of(claims.user)),
        ]
        for other in others:
            if other.device != device and self._policy.excludes(device_class, other.device_class):
                raise TurnedAway(CloseCode.REPLACED, REASON)

    def leaving(self, connection: Connection, claims: Claims) -> list[str]:
        """Return the tiers of the connections that give way once this login is in: their places are its."""
        messaging = self._service.messaging
        if self._policy is LoginPolicy.ANY or messaging is None:
            return []
        tiers = []
        for other in messaging.sessions_of(claims.user):
            if other is connection:
                break
            if not connection.is_beside(other) and self._policy.excludes(
                claims.device_class or "", other.device_class
            ):
                tiers.append(other.tier)
        return tiers

    def admitted(self, connection: Connection) -> None:
        """Let the logins give way that came before this one and exclude it."""
        messaging = self._service.messaging
        user = connection.user
        if self._policy is LoginPolicy.ANY or messaging is None or user is None:
            return
        if not self._service.hub.alive(connection.handle) or connection not in user.sessions:
            return  # gone again, or replaced: it must not take others along
        for session_id, detached in messaging.detached_of(user.id):
            if detached.device != connection.device and self._policy.excludes(
                connection.device_class, detached.device_class
            ):
                self._replaced += 1
                messaging.sessions.displace(session_id)
        for other in messaging.sessions_of(user.id):
            if other is connection:
                return  # who comes after this one came later
            if not connection.is_beside(other) and self._policy.excludes(
                connection.device_class, other.device_class
            ):
                assert isinstance(other, Connection)
                self._give_way(other, connection.device)

    def _give_way(self, connection: Connection, device: str) -> None:
        messaging = self._service.messaging
        if messaging is None or connection.phase == Phase.CLOSED:
            return
        messaging.sessions.displace(connection.session_id)
        now_ns = self._service.clock_ns()
        if connection.device == device:
            self._reconnected += 1
            self._service.hub.close(connection.handle, CloseCode.REPLACED, REASON, now_ns)
        else:
            self._replaced += 1
            connection.send_off(CloseCode.REPLACED, REASON, now_ns)

    def stats(self) -> dict[str, int]:
        """Counters for the metrics."""
        return {"replaced_total": self._replaced, "reconnected_total": self._reconnected}
