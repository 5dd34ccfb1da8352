"""What the parts of the domain share: the loaded users and conversations, the hub, the store, the clocks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

from fastim._core.hub import Encoding, Hub, Lane
from fastim.errors import ErrorCode, RequestError, StoreError
from fastim.im.conversation import Conversation, Rings
from fastim.im.options import OUTBOX_BYTES, ImOptions
from fastim.im.session import Session, SessionState
from fastim.im.user import Membership, User
from fastim.store.base import ConversationRecord, MembershipRecord, Store
from fastim.wire.native import encode_packet

__all__ = ["NS_PER_MS", "Domain", "forbidden", "unavailable"]

NS_PER_MS: Final = 1_000_000


def forbidden() -> RequestError:
    """The one answer for a conversation that is not the asker's, whether or not it exists."""
    return RequestError(ErrorCode.FORBIDDEN, "conversation: none of yours")


def unavailable(error: StoreError | None = None) -> RequestError:
    """What the sender is told while the store does not answer; the reason is for operators, not for users."""
    if error is not None and not error.temporary:
        return RequestError(ErrorCode.UNAVAILABLE, "the store takes no writes; not known to be stored")
    return RequestError(
        ErrorCode.UNAVAILABLE, "the store does not answer now; not known to be stored, send again"
    )


class Domain:
    """Loaded users and conversations, and the means the parts work with.

    A conversation is loaded while a loaded user is a member of it, a user while connected and for the grace
    time. Loaded state is the truth for sequence numbers: it moves with each reported commit, in commit order.
    """

    __slots__ = (
        "_changed",
        "_changes",
        "clock_ns",
        "conversations",
        "hub",
        "loads_in_flight",
        "missed",
        "options",
        "rings",
        "spawn",
        "store",
        "time_ms",
        "users",
    )

    def __init__(
        self,
        hub: Hub,
        store: Store,
        options: ImOptions,
        *,
        clock_ns: Callable[[], int],
        time_ms: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self.hub = hub
        self.store = store
        self.options = options
        self.clock_ns = clock_ns
        self.time_ms = time_ms
        self.spawn = spawn
        self.users: dict[str, User] = {}
        self.conversations: dict[int, Conversation] = {}
        self.rings = Rings(options.ring_bytes, options.ring_total_bytes)
        # A read that is under way may be older than a commit reported meanwhile. What was reported of
        # conversations and users that were not loaded is kept until no read is under way any more.
        self.loads_in_flight = 0
        self.missed: dict[int, tuple[int, int]] = {}  # conversation key → last seq, its time
        self._changed: dict[str, int] = {}  # user id → the count of changes at the latest of the user's
        self._changes = 0

    # -- reads that race with commits

    def load_begins(self) -> int:
        """A read, or a change of members, begins; returns the count of changes so far."""
        self.loads_in_flight += 1
        return self._changes

    def load_ends(self) -> None:
        self.loads_in_flight -= 1
        if not self.loads_in_flight:
            self.missed.clear()
            self._changed.clear()

    def changed(self, users: Iterable[str]) -> None:
        """Memberships of these users changed; called while the change is counted as a load."""
        self._changes += 1
        for user_id in users:
            self._changed[user_id] = self._changes

    def changed_since(self, user_id: str, started: int) -> bool:
        """Whether a read that began at this count may show the user's memberships before a change."""
        return self._changed.get(user_id, 0) > started

    # -- loaded conversations

    def hold(self, record: ConversationRecord) -> Conversation:
        """Return the loaded conversation of a record, for one more loaded member."""
        conversation = self.conversations.get(record.key)
        if conversation is None:
            conversation = Conversation(record, self.hub.create_topic())
            missed = self.missed.get(record.key)
            if missed is not None and missed[0] > conversation.last_seq:
                conversation.last_seq, conversation.last_time = missed
            self.conversations[record.key] = conversation
        conversation.loaded_members += 1
        return conversation

    def release(self, conversation: Conversation) -> None:
        """One loaded member fewer; the last unloads the conversation."""
        conversation.loaded_members -= 1
        if conversation.loaded_members <= 0:
            if self.loads_in_flight:
                self.missed[conversation.key] = (conversation.last_seq, conversation.last_time)
            del self.conversations[conversation.key]
            self.rings.drop(conversation)
            self.hub.drop_topic(conversation.topic)

    # -- loaded users

    def load_user(self, user_id: str, key: int, records: Sequence[MembershipRecord]) -> User:
        """Return the loaded user, made from what was read if need be."""
        user = self.users.get(user_id)
        if user is None:
            user = User(user_id, key)
            for record in records:
                self.add_membership(user, record)
            self.users[user_id] = user
        return user

    def add_membership(self, user: User, record: MembershipRecord) -> Membership:
        """Make a loaded user a member, and subscribe the live sessions."""
        known = user.membership(record.conversation.id)
        if known is not None:
            return known
        conversation = self.hold(record.conversation)
        member = record.member
        membership = Membership(
            conversation, member.read, member.delivered, member.joined_seq, member.role == "owner"
        )
        user.join(membership)
        for session in user.sessions:
            if session.state == SessionState.LIVE:
                self.hub.subscribe(conversation.topic, session.handle)
                if session.acks:
                    conversation.more().ack_sessions.add(session)
        return membership

    def drop_user(self, user: User) -> None:
        """Unload a user without sessions."""
        del self.users[user.id]
        for membership in user.memberships():
            self.release(membership.conversation)

    def member_of(self, session: Session, conversation_id: str) -> Membership:
        """The session's membership.

        Raises:
            RequestError: ``forbidden``, for strangers and for conversations that do not exist.
        """
        user = session.user
        membership = user.membership(conversation_id) if user is not None else None
        if membership is None:
            raise forbidden()
        return membership

    # -- sending

    def page_bytes(self, session: Session) -> int:
        """How large one answer to a session may be; 256 KiB where its outbox is not small."""
        return min(self.options.page_bytes, self._outbox_bytes(session) * 3 // 8)

    def chunk_bytes(self, session: Session) -> int:
        """How much is queued ahead for a session before we wait until it has drained."""
        return min(self.options.replay_chunk_bytes, self._outbox_bytes(session) // 8)

    def _outbox_bytes(self, session: Session) -> int:
        return self.options.outbox_bytes.get(session.tier) or OUTBOX_BYTES["standard"]

    def publish(
        self, conversation: Conversation, event: str, body: Any, lane: int = Lane.NORMAL, exclude: int = 0
    ) -> None:
        """Send an event to all live sessions of a conversation; encoded once per encoding that is there."""
        json_count, msgpack_count = self.hub.topic_members(conversation.topic)
        if json_count or msgpack_count:
            self.hub.publish(
                conversation.topic,
                encode_packet(event, body, Encoding.JSON) if json_count else None,
                encode_packet(event, body, Encoding.MSGPACK) if msgpack_count else None,
                exclude,
                lane,
            )
