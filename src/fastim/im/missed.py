"""What a session missed of all its conversations since a moment, in the order it was stored.

The moment is the key of a message: keys count all messages of the store in the order of their commits. This
is for clients that know one moment for all conversations, and want all that they missed since then or
nothing; ``resume`` is for those that say what they have seen of each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from fastim.im.conversation import UNKNOWN_KEY, Conversation, RingEntry
from fastim.im.domain import Domain
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import MessageRecord

__all__ = ["Missed", "MissedMessage"]

ROUNDS: Final = 4  # of reads; each time more has come than the rings hold, or a conversation was joined


class MissedMessage(NamedTuple):
    """A message that a session missed, as a ``new_message`` packet in its encoding."""

    key: int
    packet: bytes


class _Block(NamedTuple):
    """What was read of a conversation: all that was missed up to the seq ``end``."""

    end: int
    entries: list[RingEntry]


class _TooMuch(Exception):
    """More was missed than is sent."""


class _Gathering:
    """What is put together for one session.

    Attributes:
        since: The key of the last message that it has got.
        blocks: What the rings did not have, by conversation key.
        lacking: Conversations of which something has to be read, and up to which seq.
    """

    __slots__ = ("blocks", "bytes", "found", "lacking", "session", "since")

    def __init__(self, session: Session, since: int) -> None:
        self.session = session
        self.since = since
        self.blocks: dict[int, _Block] = {}
        self.begin()

    def begin(self) -> None:
        self.found: list[tuple[int, Conversation, RingEntry]] = []
        self.lacking: list[tuple[Membership, int]] = []
        self.bytes = 0


class Missed:
    """Puts together what sessions missed, from the rings of their conversations, and the store where need be.

    Args:
        domain: The shared state.
        packet: Encodes an entry for a connection, keeping the encoding with the entry.
    """

    __slots__ = ("_domain", "_packet")

    def __init__(self, domain: Domain, packet: Callable[[Conversation, RingEntry, int], bytes]) -> None:
        self._domain = domain
        self._packet = packet

    async def of(self, session: Session, since: int) -> list[MissedMessage] | None:
        """Return all that a session missed, ascending by key; see ``Messaging.missed``."""
        gathering = _Gathering(session, since)
        try:
            for _ in range(ROUNDS):
                user = session.user
                if user is None:
                    return []
                self._gather(gathering, user)
                if not gathering.lacking:
                    return self._packets(gathering)
                await self._read(gathering)
        except _TooMuch:
            pass
        return None

    # -- from memory

    def _gather(self, gathering: _Gathering, user: User) -> None:
        gathering.begin()
        for membership in user.memberships():
            conversation = membership.conversation
            if conversation.last_key > gathering.since and conversation.last_seq > membership.joined_seq:
                self._gather_of(gathering, membership)

    def _gather_of(self, gathering: _Gathering, membership: Membership) -> None:
        """Take what was missed of a conversation, from its end backwards."""
        conversation, since, joined = membership.conversation, gathering.since, membership.joined_seq
        ring = conversation.ring
        seq = conversation.last_seq
        if ring is not None and ring.end == seq + 1:
            for entry in reversed(ring.entries):
                if seq <= joined or not self._take(gathering, conversation, entry):
                    return
                seq -= 1
            if ring.floor <= since:
                return
        if seq <= joined:
            return
        block = gathering.blocks.get(conversation.key)
        if block is None or block.end < seq:
            gathering.lacking.append((membership, seq))
            return
        for entry in reversed(block.entries):
            if entry[0].seq <= seq:
                self._take(gathering, conversation, entry)

    def _take(self, gathering: _Gathering, conversation: Conversation, entry: RingEntry) -> bool:
        """Take an entry unless the session sent it itself; False if it is none that was missed.

        Raises:
            _TooMuch: There is no room for it.
        """
        message = entry[0]
        if message.key <= gathering.since:
            return False
        if message.origin is None or message.origin != gathering.session.session_id:
            options = self._domain.options
            gathering.found.append((message.key, conversation, entry))
            gathering.bytes += len(message.content)
            if len(gathering.found) > options.missed_messages or gathering.bytes > options.missed_bytes:
                raise _TooMuch
        return True

    def _packets(self, gathering: _Gathering) -> list[MissedMessage]:
        """Encode what was found.

        Raises:
            _TooMuch: It is more than is sent.
        """
        encoding = gathering.session.encoding
        gathering.found.sort(key=lambda found: found[0])
        packets = [
            MissedMessage(key, self._packet(conversation, entry, encoding))
            for key, conversation, entry in gathering.found
        ]
        if sum(len(missed.packet) for missed in packets) > self._domain.options.missed_bytes:
            raise _TooMuch
        return packets

    # -- from the store

    async def _read(self, gathering: _Gathering) -> None:
        """Read what the rings lack.

        Raises:
            _TooMuch: More was missed than is sent.
            StoreError: Not read.
        """
        store, limit = self._domain.store, self._domain.options.missed_messages
        lacking = gathering.lacking
        seqs = await store.seqs_at(
            [(membership.conversation.key, end, gathering.since) for membership, end in lacking], limit
        )
        wanted: list[tuple[int, int, int]] = []
        reading: list[tuple[Conversation, int]] = []
        for (membership, end), seq in zip(lacking, seqs, strict=True):
            conversation = membership.conversation
            if seq is None:
                # So many that it cannot be told where they begin; a member who joined later may have few.
                seq = end - limit - 1
                if seq > membership.joined_seq:
                    raise _TooMuch
            elif seq == end and conversation.last_seq == end:
                conversation.last_key = min(conversation.last_key, gathering.since)
            after = min(max(seq, membership.joined_seq), end)
            gathering.blocks[conversation.key] = _Block(end, [])
            if after < end:
                wanted.append((conversation.key, after, end))
                reading.append((conversation, seq))
        if not wanted:
            return
        blocks = await store.replay(wanted, limit + 1)
        for (conversation, seq), (key, after, end), records in zip(reading, wanted, blocks, strict=True):
            gathering.blocks[key] = _Block(end, [(record, None, None) for record in records])
            self._keep(conversation, records, gathering.since if seq == after else UNKNOWN_KEY)

    def _keep(self, conversation: Conversation, records: Sequence[MessageRecord], floor: int) -> None:
        """Let the ring have what was read, for others who come back.

        Args:
            floor: No message before these has a greater key.
        """
        self._domain.rings.seed(conversation, records)
        ring = conversation.ring
        if records and ring is not None and ring.first == records[0].seq:
            ring.floor = min(ring.floor, floor)
