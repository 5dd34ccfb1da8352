"""What every store guarantees, and the plain values that go in and out.

Writes go through one writer that commits a batch at a time. A write is *submitted* and comes back, in
commit order and with its result filled in, together with others of its batch; a large batch is reported in
parts, so that the loop gets its turn in between. Nothing is reported as stored before the commit is durable
(``synchronous=FULL``: after the sync).

Users and conversations are known by integer keys inside; their public ids are strings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from fastim._core.histogram import Histogram
from fastim.errors import FastimError

__all__ = [
    "Append",
    "BanRecord",
    "ContentEncoding",
    "ConversationRecord",
    "Health",
    "InboxRow",
    "Mark",
    "MemberRecord",
    "MembershipRecord",
    "MessageRecord",
    "RevocationRecord",
    "Start",
    "Store",
    "Write",
]


class ContentEncoding(IntEnum):
    """How ``content`` is encoded: as its sender's encoding was; readers transcode on demand."""

    JSON = 0
    MSGPACK = 1


class Write:
    """A submitted write. ``error`` is None once it is durable; else why it was refused, alone."""

    __slots__ = ("context", "error")
    content: bytes = b""  # a message's; nothing in other writes
    context: object
    error: FastimError | None


class Append(Write):
    """A message to be stored.

    The writer fills ``key``, ``id``, ``seq`` and ``time``. If ``client_id`` is known for this sender and
    conversation (at least 24 h back, writes still on their way included): with the same ``kind`` and
    ``content`` (in either encoding) the first one's id, seq and time with ``duplicate`` True and nothing
    stored; with others ``error`` is a RequestError ``conflict``. The sender's read mark moves to ``seq`` in
    the same commit.

    Attributes:
        conversation: The conversation's key.
        sender: The sender's user key; 0 for the system.
        sender_id, device: As they stand in ``new_message``.
        client_id: None for no idempotency; at most 64 bytes.
        content: Encoded bytes, stored as they are.
        reply_to: A seq of the same conversation, or None. Not past the last seq: ``bad_request``.
        time: Milliseconds since the epoch, assigned by the submitter.
        context: The submitter's, untouched.
        origin: The sender's session, where its connection can be recovered; else None.
        key: Of all messages of the store in the order of their commits; 0 of a duplicate.
    """

    __slots__ = (
        "client_id",
        "content",
        "conversation",
        "device",
        "duplicate",
        "encoding",
        "id",
        "key",
        "kind",
        "origin",
        "reply_to",
        "sender",
        "sender_id",
        "seq",
        "time",
    )

    def __init__(
        self,
        conversation: int,
        sender: int,
        sender_id: str,
        device: str,
        kind: str,
        content: bytes,
        encoding: int,
        time: int,
        client_id: str | None = None,
        reply_to: int | None = None,
        context: object = None,
        origin: str | None = None,
    ) -> None:
        self.conversation = conversation
        self.sender = sender
        self.sender_id = sender_id
        self.device = device
        self.kind = kind
        self.content = content
        self.encoding = encoding
        self.time = time
        self.client_id = client_id
        self.reply_to = reply_to
        self.context = context
        self.origin = origin
        self.error = None
        self.key: int = 0
        self.id: str = ""
        self.seq: int = 0
        self.duplicate: bool = False


class Mark(Write):
    """Cursors of a user in a conversation; they only move forwards, and never past the last seq.

    Attributes:
        read: The user has read up to here; 0: unchanged.
        delivered: ``device`` has got everything up to here; 0: unchanged.
    """

    __slots__ = ("conversation", "delivered", "device", "read", "user")

    def __init__(
        self,
        conversation: int,
        user: int,
        device: str = "",
        read: int = 0,
        delivered: int = 0,
        context: object = None,
    ) -> None:
        self.conversation = conversation
        self.user = user
        self.device = device
        self.read = read
        self.delivered = delivered
        self.context = context
        self.error = None


class MessageRecord(NamedTuple):
    """A stored message; ``content`` as it was stored, in ``encoding``."""

    id: str
    seq: int
    sender: str  # user id; "" for the system
    device: str
    kind: str
    content: bytes
    encoding: int
    time: int  # ms since the epoch
    client_id: str | None
    reply_to: int | None
    key: int  # of all messages of the store in the order of their commits
    origin: str | None  # see ``Append``


class MemberRecord(NamedTuple):
    user: str
    key: int
    role: str  # "owner" | "member"
    delivered: int
    read: int
    joined: int  # ms since the epoch
    joined_seq: int  # the last seq when the member joined


class MembershipRecord(NamedTuple):
    """One conversation of one user, as loaded when the user comes in."""

    conversation: ConversationRecord
    member: MemberRecord
    device_delivered: int  # what the asked-for device last acknowledged; joined_seq if nothing


class InboxRow(NamedTuple):
    """A line of ``conversations``: newest activity first."""

    conversation: ConversationRecord
    read: int
    last: MessageRecord | None


@dataclass(frozen=True, slots=True)
class ConversationRecord:
    key: int
    id: str
    kind: str  # "direct" | "group"
    title: str
    owner: str  # user id; "" when made by the system
    member_count: int
    last_seq: int
    last_time: int  # ms since the epoch of the last message, or of the creation
    peers: tuple[str, str] | None  # of a direct conversation: its two users, sorted


class BanRecord(NamedTuple):
    """Somebody who is shut out."""

    kind: str  # "address" | "user"
    subject: str  # a network as CIDR, or a user's id
    until: int  # ms since the epoch; 0: for ever
    reason: str
    source: str  # who banned: "operator", or what counted up to it
    created: int  # ms since the epoch


class RevocationRecord(NamedTuple):
    """Tokens that are refused before their time."""

    kind: str  # "token" | "user" | "device"
    subject: str  # a token's id, or a user's
    device: str  # of a user's device; else ""
    before: int  # ms since the epoch: tokens issued earlier; 0 for a single token
    until: int  # ms since the epoch: by then the tokens have expired
    reason: str
    created: int  # ms since the epoch


class Start(NamedTuple):
    """What is known of the processes that have served a store, as the last of them begins.

    Attributes:
        starts: Their epochs, and their numbers in the order in which they began.
        used: The number of the last one in which an application had its part in a namespace.
    """

    starts: Mapping[str, int]
    used: Mapping[str, int]


class Health(NamedTuple):
    """Whether writes work. ``reason`` is a line for operators; ``fatal`` means no recovery without a
    restart; ``since`` is when they ceased to, milliseconds since the epoch, 0 while they work.
    """

    ok: bool
    reason: str = ""
    fatal: bool = False
    since: int = 0


class Store(ABC):
    """Durable conversations, members, messages and cursors.

    **Thread**: every method is called on the event loop's thread; callbacks come on it. **Order**: writes of
    one store commit in the order of submission; ``seq`` counts a conversation's messages 1, 2, 3 … without
    holes, given when they commit. **Isolation**: a write that cannot be stored fails alone. **Failure**:
    while the file is locked or the disk full, writes come back with a temporary StoreError and ``health`` is
    not ok until a later write succeeds; a corrupt file or a failed sync ends all writes with a lasting
    StoreError.
    """

    histograms: Mapping[str, Histogram]
    """For the metrics: ``commit``, how long a batch took to commit; ``batch``, how many writes it held."""

    @abstractmethod
    async def open(self, on_commit: Callable[[Sequence[Write]], None]) -> None:
        """Open, migrate and start the writer; ``on_commit`` gets what is finished, on the loop's thread.

        Raises:
            StoreError: unusable, or the schema is newer than this version knows.
        """

    @abstractmethod
    async def close(self) -> None:
        """Commit what was submitted, report it, checkpoint, and close."""

    @abstractmethod
    def submit(self, write: Append | Mark) -> None:
        """Queue a write; never blocks, never raises. It comes back through ``on_commit``.

        Back-pressure is the caller's: ``queued_count`` and ``queued_bytes`` say how much waits.
        """

    queued_count: int
    """Writes submitted and not yet reported."""

    queued_bytes: int
    """What they hold in memory, about."""

    last_key: int
    """The greatest key of a message when the store was opened; 0: there was none."""

    last_change: int
    """The count of changes of conversations and of their members, up to the last that was reported."""

    @property
    @abstractmethod
    def health(self) -> Health: ...

    @abstractmethod
    def stats(self) -> dict[str, int]:
        """Counters for the metrics: ``reads_total``, the queries made, and of which kind they were."""

    @abstractmethod
    async def flush(self) -> None:
        """Return when all that was submitted before has been reported."""

    # -- users and conversations

    @abstractmethod
    async def create_conversation(
        self,
        kind: str,
        creator: str,
        members: Sequence[str],
        title: str,
        time: int,
        id: str | None = None,
        client_id: str | None = None,
    ) -> tuple[ConversationRecord, bool]:
        """Create a conversation and its members (user ids; made known if new).

        Args:
            creator: user id, becomes owner and member; "" for the system, which is no member.
            id: wanted public id; None: one is made up.
            client_id: the creator's idempotency key.

        Returns:
            The record and whether it is new. A direct one of the same two users, a ``client_id`` used before
            by the creator, or an ``id`` that exists return the existing one with False.
        """

    @abstractmethod
    async def update_conversation(
        self, key: int, time: int, title: str | None, add: Sequence[str], remove: Sequence[str]
    ) -> tuple[ConversationRecord, list[MemberRecord], list[str]]:
        """Change title and members in one commit; returns the record, who was really added and removed.

        A new member's cursors start at the last seq.
        """

    @abstractmethod
    async def conversation(self, id: str) -> ConversationRecord | None:
        """Look up by public id."""

    @abstractmethod
    async def load_users(
        self, users: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], tuple[int, list[MembershipRecord]]]:
        """Load users by (user id, device): their key and conversations, all in a constant number of queries.

        A user who is not known yet is made known.
        """

    @abstractmethod
    async def member_records(self, key: int, limit: int, after: str = "") -> list[MemberRecord]:
        """Members of a conversation by user id, ascending, after ``after``."""

    @abstractmethod
    async def inbox(self, user: int, limit: int, after: str | None) -> tuple[list[InboxRow], bool]:
        """Conversations of a user, newest activity first, those after the conversation with id ``after``;
        and if more follow.
        """

    # -- messages

    @abstractmethod
    async def history(
        self, key: int, *, after: int | None = None, before: int | None = None, limit: int, max_bytes: int = 0
    ) -> tuple[list[MessageRecord], bool]:
        """Read messages: ascending after a seq, or descending before one; neither: the newest, descending.

        ``max_bytes`` bounds the sum of the contents (0: no bound; at least one message is returned). The flag
        says whether more follow in that direction.
        """

    @abstractmethod
    async def replay(self, wanted: Iterable[tuple[int, int, int]], limit: int) -> list[list[MessageRecord]]:
        """Read for many conversations at once, for each (key, after, up_to) in turn: the messages with
        after < seq <= up_to, ascending, at most ``limit`` each; one query for some hundreds of them."""

    @abstractmethod
    async def seqs_at(self, wanted: Iterable[tuple[int, int, int]], limit: int) -> list[int | None]:
        """Tell where conversations stood at a moment, for each (key, last seq, message key) in turn: the seq
        of its last message up to ``last seq`` whose key is at most ``message key``; None where more than
        ``limit`` came after it. One query for some hundreds of them.
        """

    # -- bans

    @abstractmethod
    async def bans(self, now: int) -> Sequence[BanRecord]:
        """Read the bans that have not ended at ``now`` (ms since the epoch), the oldest first."""

    @abstractmethod
    async def keep_present(self, users: Mapping[str, int], time: int) -> None:
        """Keep who is there at the server's end (user id → status), in the place of what was kept."""

    @abstractmethod
    async def take_present(self) -> tuple[dict[str, int], int]:
        """Return what was kept and when (ms since the epoch), and forget it: an end counts once."""

    @abstractmethod
    async def put_bans(self, records: Sequence[BanRecord], now: int) -> None:
        """Keep bans, in the place of those of the same kind and subject; all in one commit. What has ended at
        ``now`` is forgotten.
        """

    @abstractmethod
    async def remove_ban(self, kind: str, subject: str) -> bool:
        """Forget a ban; False if there is none."""

    # -- clients that come back after a restart

    @abstractmethod
    async def begin_epoch(self, epoch: str, used: Sequence[str], time: int, forget_before: int) -> Start:
        """Note that a process begins, or goes on where the one before ended.

        Args:
            epoch: Its name.
            used: Namespaces in which an application has its part.
            time: Milliseconds since the epoch.
            forget_before: Processes that began before it are forgotten.
        """

    @abstractmethod
    async def use_namespace(self, namespace: str, epoch: str) -> None:
        """Note that an application has its part in a namespace, from this process on."""

    @abstractmethod
    async def leave_behind(self, data: bytes) -> None:
        """Keep what the next process takes, in the place of what was kept."""

    @abstractmethod
    async def take_left_behind(self) -> bytes | None:
        """Return what was kept, and forget it: it counts once."""

    @abstractmethod
    async def changed_since(self, user: int, change: int) -> bool:
        """Whether any of a user's conversations, or which they are, has changed since a ``last_change``."""

    # -- tokens and tickets

    @abstractmethod
    async def revocations(self, now: int) -> Sequence[RevocationRecord]:
        """Read the revocations that have not ended at ``now`` (ms since the epoch), the oldest first."""

    @abstractmethod
    async def put_revocation(self, record: RevocationRecord, now: int) -> None:
        """Keep a revocation, in the place of one of the same kind, subject and device. What has ended at
        ``now`` is forgotten.
        """

    @abstractmethod
    async def remove_revocation(self, kind: str, subject: str, device: str) -> bool:
        """Forget a revocation; False if there is none."""

    @abstractmethod
    async def use_ticket(self, id: str, until: int, now: int) -> bool:
        """Note that a ticket is used; True for the first who does, of all servers of the store, until
        ``until`` (ms since the epoch). What has ended at ``now`` is forgotten.
        """
