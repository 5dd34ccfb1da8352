"""A loaded conversation: who is loaded of it, where it stands, and its latest messages."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from fastim.store.base import Append, ConversationRecord, MessageRecord

if TYPE_CHECKING:
    from fastim.im.session import Session
    from fastim.im.watchers import Feed

__all__ = ["UNKNOWN_KEY", "Change", "Conversation", "More", "Ring", "RingEntry", "Rings", "sender_of"]

UNKNOWN_KEY = (1 << 63) - 1
"""No message has a greater key."""

# What an entry costs beside its encoded packets and its content (measured with sys.getsizeof, rounded up).
ENTRY_BYTES = 480

RingEntry = tuple[Append | MessageRecord, bytes | None, bytes | None]
"""A message and its ``new_message`` packet in JSON and in msgpack, each None until somebody needed it."""


class Change(NamedTuple):
    """The last change of a conversation's title or members.

    Attributes:
        number: Its count; see ``Journal``.
        key: That of the last message before it.
        session: Who made it; empty: an operator.
    """

    number: int
    key: int
    session: str


class More:
    """What few conversations need; made at the first use."""

    __slots__ = ("ack_sessions", "change", "feed", "published", "version")

    def __init__(self) -> None:
        self.ack_sessions: set[Session] = set()  # live ones that acknowledge
        self.published: deque[tuple[int, int]] | None = None  # seq and time of commit, for acknowledgements
        self.feed: Feed | None = None  # of those who watch the presence of all members
        self.change: Change | None = None  # the last one, where clients come back to hear of it
        self.version = 0  # counts the changes of members, for readers of the roster


class Conversation:
    """A conversation with at least one loaded member.

    Attributes:
        last_seq: The last reported message's; sessions that are subscribed have got everything up to it.
        last_key: No message up to ``last_seq`` has a greater key; ``UNKNOWN_KEY``: any may.
        topic: The hub's, of all live sessions of the members.
        loaded_members: How many loaded users are members.
    """

    __slots__ = (
        "_more",
        "id",
        "key",
        "kind",
        "last_key",
        "last_seq",
        "last_time",
        "loaded_members",
        "member_count",
        "owner",
        "peers",
        "ring",
        "title",
        "topic",
    )

    def __init__(self, record: ConversationRecord, topic: int, last_key: int = UNKNOWN_KEY) -> None:
        self.key = record.key
        self.id = record.id
        self.kind = record.kind
        self.title = record.title
        self.owner = record.owner
        self.member_count = record.member_count
        self.last_seq = record.last_seq
        self.last_key = last_key
        self.last_time = record.last_time
        self.peers = record.peers
        self.topic = topic
        self.loaded_members = 0
        self.ring: Ring | None = None
        self._more: More | None = None

    @property
    def rare(self) -> More | None:
        """What few conversations need, None where it was never needed."""
        return self._more

    def more(self) -> More:
        """The same, made if need be."""
        if self._more is None:
            self._more = More()
        return self._more

    def record(self) -> ConversationRecord:
        """What the store would say of it."""
        return ConversationRecord(
            self.key,
            self.id,
            self.kind,
            self.title,
            self.owner,
            self.member_count,
            self.last_seq,
            self.last_time,
            self.peers,
        )

    def update(self, record: ConversationRecord) -> None:
        """Take over what a change may have touched; sequence numbers move with commits alone."""
        self.title = record.title
        self.owner = record.owner
        self.member_count = record.member_count
        if self._more is not None:
            self._more.version += 1


class Ring:
    """The latest messages of a conversation, without holes, oldest first.

    Attributes:
        first: The oldest one's seq; one past the last where it is empty.
        floor: No message before them has a greater key.
        bytes: What they are counted for.
    """

    __slots__ = ("bytes", "entries", "first", "floor")

    def __init__(self, first: int, floor: int = UNKNOWN_KEY) -> None:
        self.first = first
        self.floor = floor
        self.entries: deque[RingEntry] = deque()
        self.bytes = 0

    @property
    def end(self) -> int:
        """One past the last seq."""
        return self.first + len(self.entries)

    def between(self, after: int, up_to: int) -> list[RingEntry]:
        """The entries with after < seq <= up_to, as far as they are here."""
        start = max(0, after + 1 - self.first)
        return list(islice(self.entries, start, max(start, up_to + 1 - self.first)))


def sender_of(message: Append | MessageRecord) -> str:
    """The sender's user id; empty for the system."""
    return message.sender_id if isinstance(message, Append) else message.sender


def cost(entry: RingEntry) -> int:
    message, json, msgpack = entry
    return ENTRY_BYTES + len(message.content) + len(json or b"") + len(msgpack or b"")


class Rings:
    """The rings of all conversations, bounded each and in all; the longest unused one goes first.

    Args:
        ring_bytes: Bound of one; 0: none is kept.
        total_bytes: Bound of all.
    """

    __slots__ = ("_conversations", "bytes", "ring_bytes", "total_bytes")

    def __init__(self, ring_bytes: int, total_bytes: int) -> None:
        self.ring_bytes = ring_bytes
        self.total_bytes = total_bytes
        self.bytes = 0
        self._conversations: OrderedDict[Conversation, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._conversations)

    def append(self, conversation: Conversation, entry: RingEntry, seq: int) -> None:
        """Add the newest message; a ring that does not end just before it starts anew."""
        ring = conversation.ring
        if ring is None or ring.first + len(ring.entries) != seq:
            if not self.ring_bytes:
                return
            self.drop(conversation)
            ring = conversation.ring = Ring(seq, min(conversation.last_key, entry[0].key - 1))
            self._conversations[conversation] = None
        else:
            self._conversations.move_to_end(conversation)
        message, json, msgpack = entry  # ``cost``, inline: this runs for every message
        size = ENTRY_BYTES + len(message.content)
        if json is not None:
            size += len(json)
        if msgpack is not None:
            size += len(msgpack)
        ring.entries.append(entry)
        ring.bytes += size
        self.bytes += size
        if ring.bytes > self.ring_bytes:
            self._shorten(ring)
        while self.bytes > self.total_bytes and self._conversations:
            self.drop(next(iter(self._conversations)))

    def seed(self, conversation: Conversation, records: Sequence[MessageRecord]) -> None:
        """Take the latest messages of a conversation, ascending, just read: as far back as there is room."""
        if not records or records[-1].seq != conversation.last_seq:
            return  # newer ones have come meanwhile
        ring = conversation.ring
        if ring is None or ring.end != conversation.last_seq + 1:
            for record in records:
                self.append(conversation, (record, None, None), record.seq)
            return
        for record in reversed(records):
            if record.seq != ring.first - 1:
                continue
            entry: RingEntry = (record, None, None)
            size = cost(entry)
            if ring.bytes + size > self.ring_bytes or self.bytes + size > self.total_bytes:
                return
            ring.entries.appendleft(entry)
            ring.first -= 1
            ring.floor = min(ring.floor, record.key - 1)
            ring.bytes += size
            self.bytes += size

    def _shorten(self, ring: Ring) -> None:
        while ring.bytes > self.ring_bytes and len(ring.entries) > 1:
            oldest = ring.entries.popleft()
            size = cost(oldest)
            ring.floor = oldest[0].key
            ring.first += 1
            ring.bytes -= size
            self.bytes -= size

    def replace(self, conversation: Conversation, seq: int, entry: RingEntry) -> None:
        """Keep an encoding that was made for an entry, if the entry is still here."""
        ring = conversation.ring
        if ring is None or not ring.first <= seq < ring.end:
            return
        index = seq - ring.first
        size = cost(entry) - cost(ring.entries[index])
        ring.entries[index] = entry
        ring.bytes += size
        self.bytes += size

    def drop(self, conversation: Conversation) -> None:
        """Forget a conversation's ring."""
        ring, conversation.ring = conversation.ring, None
        if ring is not None:
            self.bytes -= ring.bytes
            self._conversations.pop(conversation, None)
