"""A user who is loaded: with connections, in the grace time after the last, or with sessions detached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastim.im.session import Session, Status

if TYPE_CHECKING:
    from fastim.im.conversation import Conversation
    from fastim.wire.native import Encoded

__all__ = ["Membership", "User"]

# Up to here a tuple searched from its head beats a dict, and costs a quarter of its memory.
FEW_MEMBERSHIPS = 6
FEW_SESSIONS = 8  # likewise


class Membership:
    """A loaded user's part in a loaded conversation.

    Attributes:
        read, delivered: The user's cursors, as far as they are known to be stored.
        joined_seq: The last seq when the user joined.
        owner: The user owns the conversation.
    """

    __slots__ = ("conversation", "delivered", "joined_seq", "owner", "read")

    def __init__(
        self, conversation: Conversation, read: int, delivered: int, joined_seq: int, owner: bool
    ) -> None:
        self.conversation = conversation
        self.read = read
        self.delivered = delivered
        self.joined_seq = joined_seq
        self.owner = owner


class User:
    """A loaded user: the memberships and the live sessions.

    Attributes:
        id, key: Public and integer id.
        sessions: Live sessions in the order they came; a tuple of few or a dict of many.
        detached: Ids of the sessions that may come back, likewise.
        status, metadata: What subscribers were last told (``Status``; an encoded value or None).
    """

    __slots__ = ("_memberships", "detached", "id", "key", "metadata", "sessions", "status")

    def __init__(self, id: str, key: int) -> None:
        self.id = id
        self.key = key
        self.sessions: tuple[Session, ...] | dict[Session, None] = ()
        self.detached: tuple[str, ...] | dict[str, None] = ()
        self.status: int = Status.OFFLINE
        self.metadata: Encoded | None = None
        self._memberships: tuple[Membership, ...] | dict[str, Membership] = ()

    def enter(self, session: Session) -> None:
        """Add a session, if it is not there."""
        sessions = self.sessions
        if session in sessions:
            return
        if isinstance(sessions, dict):
            sessions[session] = None
        elif len(sessions) < FEW_SESSIONS:
            self.sessions = (*sessions, session)
        else:
            self.sessions = dict.fromkeys((*sessions, session))

    def exit(self, session: Session) -> None:
        """Take a session away."""
        sessions = self.sessions
        if isinstance(sessions, dict):
            sessions.pop(session, None)
        else:
            self.sessions = tuple([other for other in sessions if other is not session])

    def go_away(self, session_id: str) -> None:
        """A session is detached."""
        detached = self.detached
        if isinstance(detached, dict):
            detached[session_id] = None
        elif len(detached) < FEW_SESSIONS:
            self.detached = (*detached, session_id)
        else:
            self.detached = dict.fromkeys((*detached, session_id))

    def come_back(self, session_id: str) -> None:
        """A session is detached no more: it is live again, or has ended."""
        detached = self.detached
        if isinstance(detached, dict):
            detached.pop(session_id, None)
        else:
            self.detached = tuple([other for other in detached if other != session_id])

    def membership(self, conversation_id: str) -> Membership | None:
        """The membership in the conversation of this public id; None for a stranger."""
        memberships = self._memberships
        if type(memberships) is dict:
            return memberships.get(conversation_id)
        for membership in memberships:
            if membership.conversation.id == conversation_id:  # type: ignore[union-attr]
                return membership  # type: ignore[return-value]
        return None

    def memberships(self) -> tuple[Membership, ...]:
        """All memberships; O(n) for users with many."""
        memberships = self._memberships
        return tuple(memberships.values()) if isinstance(memberships, dict) else memberships

    @property
    def membership_count(self) -> int:
        """How many conversations the user is in."""
        return len(self._memberships)

    def join(self, membership: Membership) -> None:
        """Add a membership; one of the same conversation must not exist."""
        memberships = self._memberships
        if isinstance(memberships, dict):
            memberships[membership.conversation.id] = membership
        elif len(memberships) < FEW_MEMBERSHIPS:
            self._memberships = (*memberships, membership)
        else:
            self._memberships = {m.conversation.id: m for m in (*memberships, membership)}

    def leave(self, membership: Membership) -> None:
        """Take a membership away."""
        memberships = self._memberships
        if isinstance(memberships, dict):
            memberships.pop(membership.conversation.id, None)
        else:
            self._memberships = tuple(m for m in memberships if m is not membership)

    def shares_with(self, other: User) -> bool:
        """Whether both are members of one conversation; O(the smaller number of conversations)."""
        if self is other:
            return True
        fewer, more = (self, other) if len(self._memberships) <= len(other._memberships) else (other, self)
        return any(more.membership(m.conversation.id) is not None for m in fewer.memberships())
