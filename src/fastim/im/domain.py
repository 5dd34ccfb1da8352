"""What the parts of the domain share: the loaded users and conversations, the hub, the store, the clocks."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

from fastim._core.hub import Encoding, Hub, Lane
from fastim.errors import ErrorCode, RequestError, StoreError
from fastim.im.conversation import UNKNOWN_KEY, Conversation, Rings
from fastim.im.journal import Journal
from fastim.im.options import ImOptions
from fastim.im.session import Session, SessionState, Status
from fastim.im.user import Membership, User
from fastim.store.base import ConversationRecord, MembershipRecord, Store
from fastim.store.cache import Cache
from fastim.wire.native import encode_packet

__all__ = ["NS_PER_MS", "Domain", "forbidden", "state_key", "unavailable"]

NS_PER_MS: Final = 1_000_000


def state_key(*subject: object) -> int:
    """What a state is of, as the hub wants it: of two that wait for a connection the newer one is enough.

    Only an event about one subject may have one; of several, a newer event need not name them all.
    """
    return hash(subject) & 0x7FFF_FFFF_FFFF_FFFF or 1


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

    A conversation is loaded while a loaded user is a member of it, a user while connected, for the grace
    time, and while a session may come back. Loaded state is the truth for sequence numbers: it moves with
    each reported commit, in commit order.

    Attributes:
        last_key: The key of the last reported message.
        journal: See there; None: no client comes back to it.
    """

    __slots__ = (
        "_changed",
        "_changes",
        "cache",
        "clock_ns",
        "conversations",
        "hub",
        "journal",
        "last_key",
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
        self.last_key = 0
        self.journal: Journal | None = None
        self.users: dict[str, User] = {}
        self.conversations: dict[int, Conversation] = {}
        self.rings = Rings(options.ring_bytes, options.ring_total_bytes)
        self.cache = Cache(options.cache_entries, options.cache_life_ms * NS_PER_MS, clock_ns)
        # A read that is under way may be older than a commit reported meanwhile. What was reported of
        # conversations and users that were not loaded is kept until no read is under way any more.
        self.loads_in_flight = 0
        self.missed: dict[int, tuple[int, int]] = {}  # conversation key → last seq, its time
        self._changed: dict[str, int] = {}  # user id → the count of changes at the latest of the user's
        self._changes = 0

    # -- the store's queue

    def store_is_behind(self) -> bool:
        """Whether so much waits in the store that who writes is not read."""
        store, options = self.store, self.options
        return store.queued_count >= options.pause_writes or store.queued_bytes >= options.pause_bytes

    def store_is_full(self) -> bool:
        """Whether nothing more may wait in the store."""
        store, options = self.store, self.options
        return store.queued_count >= options.max_writes or store.queued_bytes >= options.max_write_bytes

    def store_has_caught_up(self) -> bool:
        """Whether so little waits in the store that who was held back is read again."""
        store, options = self.store, self.options
        return (
            store.queued_count <= options.pause_writes // 2 and store.queued_bytes <= options.pause_bytes // 2
        )

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
            self.cache.invalidate(("user", user_id))

    def changed_since(self, user_id: str, started: int) -> bool:
        """Whether a read that began at this count may show the user's memberships before a change."""
        return self._changed.get(user_id, 0) > started

    # -- loaded conversations

    def hold(self, record: ConversationRecord) -> Conversation:
        """Return the loaded conversation of a record, for one more loaded member."""
        conversation = self.conversations.get(record.key)
        if conversation is None:
            # What is committed and not reported may be in what was read; its key is not known.
            last_key = UNKNOWN_KEY if self.store.queued_count else self.last_key
            conversation = Conversation(record, self.hub.create_topic(), last_key)
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
            self.cache.invalidate(("conversation", conversation.id))
            self.cache.invalidate(("members", conversation.key))
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

    def unload(self, user: User) -> None:
        """Unload a user whom nothing keeps: no session, live or detached, and no grace time."""
        if user.sessions or user.detached or user.status != Status.OFFLINE:
            return
        if self.users.get(user.id) is user:
            del self.users[user.id]
            for membership in user.memberships():
                self.cache.invalidate(("members", membership.conversation.key))  # the marks were here
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
        return min(self.options.page_bytes, self.outbox_bytes(session) * 3 // 8)

    def chunk_bytes(self, session: Session) -> int:
        """How much is queued ahead for a session before we wait until it has drained.

        No more than lets the hub take one frame more, however large.
        """
        return min(self.options.replay_chunk_bytes, self.outbox_bytes(session) // 4)

    def room_bytes(self, session: Session, own_sent: bool) -> int:
        """How much may be queued now for a session by what waits for room.

        Args:
            own_sent: What it queued before has been sent; what is in the outbox is then others', and holds it
                up only once half of the outbox is full.
        """
        queued = session.hub.queued_bytes(session.handle)
        chunk = self.chunk_bytes(session)
        if own_sent and queued <= self.outbox_bytes(session) // 2:
            return chunk
        return chunk - queued

    def outbox_bytes(self, session: Session) -> int:
        """How much may wait for a session before it is closed as too slow."""
        return self.options.outbox_bytes[session.tier]

    def publish(
        self,
        conversation: Conversation,
        event: str,
        body: Any,
        lane: int = Lane.NORMAL,
        exclude: int = 0,
        key: int = 0,
        offset: bytes = b"",
    ) -> None:
        """Send an event to all live sessions of a conversation; encoded once per encoding that is there.

        In the low lane a newer one with the same ``key`` replaces one that waits; see ``state_key``. For
        ``offset`` see ``Journal``.
        """
        json_count, msgpack_count = self.hub.topic_members(conversation.topic)
        if json_count or msgpack_count:
            self.hub.publish(
                conversation.topic,
                encode_packet(event, body, Encoding.JSON) if json_count else None,
                encode_packet(event, body, Encoding.MSGPACK) if msgpack_count else None,
                exclude,
                lane,
                key,
                offset=offset,
            )

    def tell(self, user: User, event: str, body: Mapping[str, Any], exclude: Session | None) -> None:
        """Send an event to a loaded user's sessions but one, and to those that come back in time."""
        journal, offset = self.journal, b""
        sessions = [session for session in user.sessions if session is not exclude]
        if journal is not None:
            offset = journal.keep_for(user.id, event, body, exclude)
            sessions = [session for session in sessions if not journal.is_waiting(session)]
        encodings = {session.encoding for session in sessions}
        self.hub.send_many(
            [session.handle for session in sessions],
            encode_packet(event, body, Encoding.JSON) if Encoding.JSON in encodings else None,
            encode_packet(event, body, Encoding.MSGPACK) if Encoding.MSGPACK in encodings else None,
            offset=offset,
        )
