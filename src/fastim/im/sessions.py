"""Sessions: who is connected, and who may come back with everything as it was."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fastim._core import sessions as core
from fastim.im.session import Session

if TYPE_CHECKING:
    from fastim.im.domain import Domain
    from fastim.im.user import User
    from fastim.store.base import MembershipRecord
    from fastim.wire.native import Encoded

__all__ = [
    "Cursors",
    "DetachedSession",
    "EndReason",
    "EndedSession",
    "MovedSession",
    "Sessions",
    "note_ack",
    "stored_cursors",
]

MAX_DETACHED_A_USER: Final = 1_000  # each hello of the user may look through them
ENDINGS_A_TICK: Final = 500  # sessions whose life is over, told of in one tick
# What a detached session holds, at most (tests/unit/im/test_im_sessions.py measures it), and keeps loaded.
DETACHED_BYTES: Final = 500  # the record, its id, its device's name, the row of the table, an empty dict
CURSOR_BYTES: Final = 130  # a conversation that the device acknowledged
MEMBERSHIP_BYTES: Final = 400  # a conversation of its user, and of nobody else who is loaded


class EndReason(StrEnum):
    """Why a session cannot come back any more."""

    EXPIRED = "expired"  # its life was over
    EVICTED = "evicted"  # too many others were detached after it
    REPLACED = "replaced"  # another login took its place
    REMOVED = "removed"  # by an operator, a ban or a revocation


_REASONS: Final = {
    core.EndReason.EVICTED: EndReason.EVICTED,
    core.EndReason.EXPIRED: EndReason.EXPIRED,
}


class EndedSession(NamedTuple):
    """What is told of a session that has ended."""

    session: str
    user: str
    device: str
    reason: EndReason


class Cursors:
    """What a device has acknowledged, by conversation key, as far as this process knows.

    Attributes:
        complete: All that the store has of the device is here: of a conversation that is missing, the device
            has acknowledged nothing.
    """

    __slots__ = ("acked", "complete")

    def __init__(self, acked: dict[int, int] | None = None, *, complete: bool = False) -> None:
        self.acked = acked
        self.complete = complete

    def acknowledge(self, key: int, seq: int) -> None:
        """Everything up to ``seq`` has arrived."""
        if self.acked is None:
            self.acked = {key: seq}
        elif self.acked.get(key, 0) < seq:
            self.acked[key] = seq

    def position(self, key: int, joined_seq: int) -> int | None:
        """Up to where the device has got a conversation; None if only the store knows."""
        seq = self.acked.get(key) if self.acked is not None else None
        if seq is not None:
            return max(seq, joined_seq)
        return joined_seq if self.complete else None


NOTHING_ACKED: Final = Cursors(complete=True)
"""Shared by the sessions of devices that never acknowledged anything; it is replaced, never changed."""


def note_ack(session: Session, key: int, seq: int) -> None:
    """The session's device has got everything of a conversation up to ``seq``."""
    cursors: Cursors | None = session.cursors
    if cursors is None or cursors is NOTHING_ACKED:
        session.cursors = Cursors({key: seq}, complete=cursors is not None)
    else:
        cursors.acknowledge(key, seq)


def stored_cursors(
    records: Sequence[MembershipRecord], positions: Mapping[int, int], known: Cursors | None
) -> Cursors:
    """What a device has got, from what the store has of it and what this process knew before."""
    acked = {
        record.conversation.key: seq
        for record in records
        if (seq := positions.get(record.conversation.key, 0)) > record.member.joined_seq
    }
    for key, seq in (known.acked or {}).items() if known is not None else ():
        acked[key] = max(seq, acked.get(key, 0))
    return Cursors(acked, complete=True) if acked else NOTHING_ACKED


class MovedSession(NamedTuple):
    """What a server hands over of a session that moves to another one."""

    session: str
    status: int
    metadata: Encoded | None


class DetachedSession:
    """A session whose connection is gone, as long as it can come back.

    Attributes:
        user: Stays loaded, with the memberships.
        status, metadata, cursors: As the connection left them.
    """

    __slots__ = ("cursors", "device", "device_class", "metadata", "status", "user")

    def __init__(self, session: Session, user: User) -> None:
        self.user = user
        self.device = session.device
        self.device_class = session.device_class
        self.status = session.status
        self.metadata = session.metadata
        self.cursors = session.cursors


class _Displaced(NamedTuple):
    """Left of a session that another login has displaced: whoever brings it back is told so."""

    user_id: str
    device: str


class Sessions:
    """All sessions of this process, live and detached, by id.

    A detached session keeps its user loaded: the memberships stay, and what they miss gathers in the rings of
    their conversations, so that coming back needs no read of the store.

    A session id gives nothing that the token does not: it counts for the same user and device only.

    Args:
        domain: The shared state.
        life_ns: How long a detached session can come back; 0: not at all.
        max_detached: How many may be detached; the longest unused go first. Of one user at most 1,000.
        max_bytes: Likewise for the memory they hold; 0: no bound.
    """

    __slots__ = ("_domain", "_life_ns", "_max_bytes", "_table", "ended", "on_end", "on_gone", "resumed")

    def __init__(self, domain: Domain, life_ns: int, max_detached: int, max_bytes: int) -> None:
        self._domain = domain
        self._life_ns = life_ns
        self._max_bytes = max_bytes
        self._table = core.SessionTable(max_detached, life_ns)
        self.ended: dict[str, int] = dict.fromkeys(EndReason, 0)
        self.resumed = 0
        self.on_end: Callable[[EndedSession], None] | None = None
        """Told of each session that has ended, once."""
        self.on_gone: Callable[[str], None] | None = None
        """Likewise, by its id; forgets what is kept for it elsewhere."""

    # -- live ones

    @staticmethod
    def new_id() -> str:
        """64 random bits, as 11 characters: the shortest text costs each connection the least memory."""
        return secrets.token_urlsafe(8)

    def enter(self, session: Session) -> None:
        """A session is live: new, or in the place of the one of the same id that it took over."""
        self._table.put(session.session_id, session, self._domain.clock_ns())

    def find(self, session_id: str, user_id: str, device: str | None) -> Session | DetachedSession | None:
        """The session of this id, if it is the user's and the device's; None: of any device."""
        found = self._table.get(session_id, self._domain.clock_ns())
        data = found[0] if found is not None else None
        if isinstance(data, Session | DetachedSession):
            owner = data.user
            if owner is not None and owner.id == user_id and device in (None, data.device):
                return data
        return None

    def live(self, session_id: str) -> Session | None:
        """The session of this id, if it has a connection."""
        found = self._table.get(session_id, self._domain.clock_ns()) if session_id else None
        return found[0] if found is not None and isinstance(found[0], Session) else None

    def device_of(self, session_id: str, user_id: str) -> str | None:
        """The device of a session of this user, one that was displaced included; None if there is none."""
        found = self._table.get(session_id, self._domain.clock_ns())
        if found is None:
            return None
        owner_id, device = self._owner(found[0])
        return device if owner_id == user_id else None

    def is_displaced(self, session_id: str, user_id: str) -> bool:
        """Whether another login has displaced the session of this id and user."""
        found = self._table.get(session_id, self._domain.clock_ns())
        return found is not None and isinstance(found[0], _Displaced) and found[0].user_id == user_id

    def detach(self, session: Session, user: User) -> None:
        """The connection is gone; what it took over, or what has ended, stays as it is."""
        now_ns = self._domain.clock_ns()
        found = self._table.get(session.session_id, now_ns) if session.session_id else None
        if found is None or found[0] is not session:
            return
        if not self._life_ns:
            self._table.remove(session.session_id, now_ns)
            self._tell(session.session_id, user.id, session.device, EndReason.EXPIRED)
            return
        record = DetachedSession(session, user)
        self._put_away(session.session_id, record, found[1], size_of(record))
        user.go_away(session.session_id)
        if len(user.detached) > MAX_DETACHED_A_USER:
            self.end(next(iter(user.detached)), EndReason.EVICTED)
        while self._max_bytes and self._table.data_bytes > self._max_bytes and self._table.evict():
            pass

    def _put_away(self, session_id: str, data: Any, lease: int, data_bytes: int) -> None:
        """Detach a live session, with other data than the connection."""
        now_ns = self._domain.clock_ns()
        self._table.replace(session_id, data, lease, now_ns, data_bytes)
        self._table.detach(session_id, lease, now_ns)

    # -- ends

    def tick(self, now_ns: int) -> None:
        """End the sessions whose life is over, and tell of those that have ended."""
        if not self._table.next_expiry_ns():
            return
        for session_id, data, reason in self._table.expire(now_ns, ENDINGS_A_TICK):
            if isinstance(data, DetachedSession):
                self._release(session_id, data, _REASONS[reason])

    def end(self, session_id: str, reason: EndReason) -> bool:
        """A session cannot come back: it ends now, though its connection may still be there.

        Returns:
            Whether there was one.
        """
        now_ns = self._domain.clock_ns()
        found = self._table.get(session_id, now_ns) if session_id else None
        if found is None:
            return False
        self._table.remove(session_id, now_ns)
        self._gone(session_id, found[0], reason)
        return True

    def displace(self, session_id: str) -> None:
        """Another login takes the session's place; for its life, who brings it back can be told so."""
        now_ns = self._domain.clock_ns()
        found = self._table.get(session_id, now_ns)
        if found is None:
            return
        data, version = found
        user_id, device = self._owner(data)
        if not self._life_ns:
            self._table.remove(session_id, now_ns)
        elif isinstance(data, Session):
            self._put_away(session_id, _Displaced(user_id, device), version, 0)
        else:
            self._table.replace(session_id, _Displaced(user_id, device), version, now_ns)
        self._gone(session_id, data, EndReason.REPLACED)

    def _gone(self, session_id: str, data: Any, reason: EndReason) -> None:
        if isinstance(data, DetachedSession):
            self._release(session_id, data, reason)
        elif isinstance(data, Session):
            self._tell(session_id, *self._owner(data), reason)

    def _release(self, session_id: str, detached: DetachedSession, reason: EndReason) -> None:
        user = detached.user
        user.come_back(session_id)
        self._domain.unload(user)
        self._tell(session_id, user.id, detached.device, reason)

    @staticmethod
    def _owner(data: Any) -> tuple[str, str]:
        if isinstance(data, _Displaced):
            return data
        return (data.user.id if data.user is not None else ""), data.device

    def _tell(self, session_id: str, user_id: str, device: str, reason: EndReason) -> None:
        self.ended[reason] += 1
        if self.on_gone is not None:
            self.on_gone(session_id)
        if self.on_end is not None:
            self.on_end(EndedSession(session_id, user_id, device, reason))

    # -- what there is

    def detached_of(self, user: User) -> Iterator[tuple[str, DetachedSession]]:
        """The detached sessions of a user, the one that left first before the others."""
        now_ns = self._domain.clock_ns()
        for session_id in tuple(user.detached):
            found = self._table.get(session_id, now_ns)
            if found is not None and isinstance(found[0], DetachedSession):
                yield session_id, found[0]

    def stats(self) -> dict[str, int]:
        """Counters for the metrics."""
        return {
            "live": self._table.live_count,
            "detached": self._table.detached_count,
            "detached_bytes": self._table.data_bytes,
            "table_bytes": self._table.__sizeof__(),
            "resumed_total": self.resumed,
            **{f"{reason.value}_total": count for reason, count in self.ended.items()},  # type: ignore[attr-defined]
        }


def size_of(detached: DetachedSession) -> int:
    """Estimate what a detached session holds, in bytes, its user included; rings are bounded elsewhere."""
    cursors: Cursors | None = detached.cursors
    acked = cursors.acked if cursors is not None else None
    metadata = len(detached.metadata.data) if detached.metadata is not None else 0
    memberships = MEMBERSHIP_BYTES * detached.user.membership_count
    return DETACHED_BYTES + CURSOR_BYTES * len(acked or ()) + memberships + metadata
