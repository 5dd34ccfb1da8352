"""The replay of what sessions missed: metered, and read for many at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from fastim.errors import StoreError
from fastim.im.conversation import Conversation, Ring, RingEntry
from fastim.im.domain import NS_PER_MS, Domain
from fastim.im.retries import Retries
from fastim.im.session import Session
from fastim.im.sessions import Cursors
from fastim.im.user import Membership

__all__ = ["Replayer", "Start"]

NS_PER_S: Final = 1_000_000_000
READ_ROWS: Final = 2_048  # messages of one read of the store, over all conversations
READ_MESSAGES: Final = 128  # and for one of them
RUN_NS: Final = 8 * NS_PER_MS  # time for replays that wait, of one tick
RETRY_NS: Final = NS_PER_S  # until a failed read is tried again


class Start(NamedTuple):
    """Where the replay of a session starts: after what it has seen, else after what its device got."""

    seen: Mapping[str, int]  # by public conversation id
    cursors: Cursors
    kept: Mapping[int, int]  # by conversation key: what is known of the device besides

    def position(self, membership: Membership, *, from_joining: bool) -> int:
        conversation = membership.conversation
        position = self.seen.get(conversation.id)
        if position is None:
            known = (
                self.cursors.position(conversation.key, membership.joined_seq),
                self.kept.get(conversation.key),
            )
            position = max((seq for seq in known if seq is not None), default=conversation.last_seq)
        if from_joining:
            position = max(position, membership.joined_seq)
        return max(0, min(position, conversation.last_seq))


class _Entry:
    """A conversation whose replay to a session is not over.

    Attributes:
        position: Everything up to here was queued.
        left: Messages that may still be replayed; with none left a ``gap`` names the rest.
        oks: Answers to own messages sent during the replay, by seq, which take their place in the order.
    """

    __slots__ = ("conversation", "left", "oks", "position", "start")

    def __init__(self, conversation: Conversation, position: int, left: int) -> None:
        self.conversation = conversation
        self.position = self.start = position
        self.left = left
        self.oks: dict[int, bytes] | None = None


class _Replay:
    """The replay of a session: conversation after conversation, the last of ``entries`` first."""

    __slots__ = ("block", "entries", "reading", "session")

    def __init__(self, session: Session, entries: list[_Entry]) -> None:
        self.session = session
        self.entries = entries
        self.block: Ring | None = None  # read from the store for the conversation that is on
        self.reading = False

    def entry(self, conversation: Conversation) -> _Entry | None:
        return next((entry for entry in self.entries if entry.conversation is conversation), None)


class Replayer:
    """Replays what sessions missed, each before its live messages.

    A session is subscribed to a conversation in the moment its replay has caught up with the last reported
    message, so nothing is missed or doubled between the two. The connection's outbox meters what is queued.

    Args:
        domain: The shared state.
        retries: Told of what sessions that acknowledge were sent.
        packet: Encodes an entry for a connection, keeping the encoding with the entry.
    """

    __slots__ = (
        "_domain",
        "_loading",
        "_packet",
        "_ready",
        "_retries",
        "_retry_ns",
        "_unread",
        "replayed_count",
    )

    def __init__(
        self, domain: Domain, retries: Retries, packet: Callable[[Conversation, RingEntry, int], bytes]
    ) -> None:
        self._domain = domain
        self._retries = retries
        self._packet = packet
        self._unread: deque[_Replay] = deque()  # wait for the store
        self._ready: deque[_Replay] = deque()  # wait for their turn
        self._loading = False
        self._retry_ns = 0
        self.replayed_count = 0

    # -- a session's way

    def begin(self, session: Session, start: Start | None) -> None:
        """Subscribe a session to its conversations, replaying first where it starts earlier."""
        domain = self._domain
        user = session.user
        if user is None:
            return
        entries: list[_Entry] = []
        from_joining = domain.options.history_from_joining
        for membership in user.memberships():
            conversation = membership.conversation
            if start is not None:
                position = start.position(membership, from_joining=from_joining)
                if position < conversation.last_seq:
                    entries.append(_Entry(conversation, position, domain.options.replay_messages))
                    continue
            self._subscribe(session, conversation)
        if entries:
            entries.sort(key=lambda entry: entry.conversation.last_time)
            session.replay = _Replay(session, entries)
            self._advance(session.replay)

    def catch_up(self, session: Session, conversation: Conversation, position: int) -> None:
        """Bring a live session to a conversation that it was cut off from after ``position``."""
        entry = _Entry(conversation, position, self._domain.options.replay_messages)
        replay: _Replay | None = session.replay
        if replay is not None:
            replay.entries.insert(0, entry)
        else:
            session.replay = _Replay(session, [entry])
            self._advance(session.replay)

    def on_drained(self, session: Session) -> None:
        """The connection has taken what was queued; go on."""
        replay = session.replay
        if isinstance(replay, _Replay) and not replay.reading:
            self._advance(replay, own_sent=True)

    def hold_ok(self, session: Session, conversation: Conversation, seq: int, packet: bytes) -> bool:
        """Keep the ``ok`` of an own message until the replay has come to its place; False if none is on."""
        replay = session.replay
        entry = replay.entry(conversation) if isinstance(replay, _Replay) else None
        if entry is None:
            return False
        if entry.oks is None:
            entry.oks = {}
        entry.oks[seq] = packet
        return True

    def remove(self, session: Session, conversation: Conversation) -> None:
        """The session's user is no member any more; answers that were kept go out."""
        replay = session.replay
        entry = replay.entry(conversation) if isinstance(replay, _Replay) else None
        if entry is None:
            return
        if entry is replay.entries[-1]:
            replay.block = None
        replay.entries.remove(entry)
        for _, packet in sorted((entry.oks or {}).items()):
            session.hub.send(session.handle, packet)
        if not replay.entries and not replay.reading:
            session.replay = None

    def leave(self, session: Session) -> None:
        """The session is gone."""
        session.replay = None

    # -- the work

    def _subscribe(self, session: Session, conversation: Conversation) -> None:
        self._domain.hub.subscribe(conversation.topic, session.handle)
        if session.acks:
            conversation.more().ack_sessions.add(session)

    def _advance(self, replay: _Replay, own_sent: bool = False) -> None:
        """Queue what there is room for, until the session is live everywhere or has to wait."""
        session = replay.session
        if session.replay is not replay:
            return
        hub, handle = session.hub, session.handle
        room = self._domain.room_bytes(session, own_sent)
        while replay.entries:
            entry = replay.entries[-1]
            conversation = entry.conversation
            while entry.position < conversation.last_seq and entry.left > 0:
                if room <= 0:
                    hub.want_drained(handle)
                    return
                source = self._source(replay, entry)
                if source is None:
                    replay.reading = True
                    self._unread.append(replay)
                    self._load()
                    return
                room -= self._queue(session, entry, source, room)
            self._finish(session, entry)
            replay.entries.pop()
            replay.block = None
        session.replay = None

    @staticmethod
    def _source(replay: _Replay, entry: _Entry) -> Ring | None:
        """Where the next message is: the conversation's ring, or what was read for this replay."""
        seq = entry.position + 1
        for source in (entry.conversation.ring, replay.block):
            if source is not None and source.first <= seq < source.end:
                return source
        return None

    def _queue(self, session: Session, entry: _Entry, source: Ring, room: int) -> int:
        """Queue the next messages of a source until the room is used up; returns the bytes queued."""
        conversation, encoding = entry.conversation, session.encoding
        hub, handle = session.hub, session.handle
        up_to = min(conversation.last_seq, entry.position + entry.left)
        queued = 0
        is_block = source is not conversation.ring
        for item in source.between(entry.position, up_to):
            seq = entry.position + 1
            packet = entry.oks.pop(seq, None) if entry.oks else None
            if packet is None:
                packet = item[2] if encoding else item[1]
            if packet is None:
                packet = self._packet(conversation, item, encoding)
                if is_block:
                    item = (item[0], item[1], packet) if encoding else (item[0], packet, item[2])
                    source.entries[seq - source.first] = item
            hub.send(handle, packet)
            self.replayed_count += 1
            entry.position = seq
            entry.left -= 1
            queued += len(packet)
            if queued >= room:
                break
        return queued

    def _finish(self, session: Session, entry: _Entry) -> None:
        """The replay of a conversation is over: name what is left out, and go live."""
        conversation = entry.conversation
        replayed = entry.position > entry.start
        # Answers to own messages among what is left out keep their place: between two gaps.
        for seq, packet in sorted((entry.oks or {}).items()):
            self._send_gap(session, entry, seq - 1)
            session.hub.send(session.handle, packet)
            entry.position = max(entry.position, seq)
        self._send_gap(session, entry, conversation.last_seq)
        self._subscribe(session, conversation)
        if session.acks and replayed:
            self._retries.replayed(session, conversation, entry.start)

    @staticmethod
    def _send_gap(session: Session, entry: _Entry, last: int) -> None:
        if entry.position < last:
            body = {"conversation": entry.conversation.id, "have": entry.position, "last": last}
            session.send_event("gap", body)

    # -- reads

    def tick(self, now_ns: int) -> None:
        """Go on with replays that wait for their turn, and with reads that failed."""
        if self._ready:
            end_ns = now_ns + RUN_NS
            while self._ready and self._domain.clock_ns() < end_ns:
                self._advance(self._ready.popleft())
        if self._unread and not self._loading and now_ns >= self._retry_ns:
            self._load()

    def _load(self) -> None:
        if not self._loading and self._domain.clock_ns() >= self._retry_ns:
            self._loading = True
            self._domain.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._unread:
                await self._read(self._next_batch())
        except StoreError:
            pass  # the store tells operators; the replays wait, nothing of theirs is skipped
        finally:
            self._loading = False
            if self._unread:
                self._retry_ns = self._domain.clock_ns() + RETRY_NS

    def _next_batch(self) -> dict[Conversation, list[_Replay]]:
        """The replays to read for, by conversation, at most about READ_ROWS messages."""
        batch: dict[Conversation, list[_Replay]] = {}
        rows = 0
        while self._unread and rows < READ_ROWS:
            replay = self._unread.popleft()
            if replay.session.replay is not replay:
                continue
            if not replay.entries:
                replay.session.replay = None
                continue
            entry = replay.entries[-1]
            if entry.conversation not in batch:
                rows += min(READ_MESSAGES, entry.conversation.last_seq - entry.position)
            batch.setdefault(entry.conversation, []).append(replay)
        return batch

    async def _read(self, batch: dict[Conversation, list[_Replay]]) -> None:
        wanted: list[tuple[int, int, int]] = []
        owners: list[list[_Replay]] = []
        for conversation, replays in batch.items():
            replays.sort(key=lambda replay: replay.entries[-1].position)
            end = -1
            for replay in replays:
                position = replay.entries[-1].position
                if position >= end:
                    # The range of the first one serves all that start inside it.
                    end = min(position + READ_MESSAGES, conversation.last_seq)
                    wanted.append((conversation.key, position, end))
                    owners.append([])
                owners[-1].append(replay)
        try:
            blocks = await self._domain.store.replay(wanted, READ_MESSAGES) if wanted else []
        except BaseException:
            for replays in owners:
                self._unread.extend(replays)
            raise
        for (key, after, _), records, replays in zip(wanted, blocks, owners, strict=True):
            block = Ring(after + 1)
            block.entries.extend((record, None, None) for record in records)
            for replay in replays:
                replay.reading = False
                self._ready.append(replay)
                # While we read, the user may have been removed from the conversation we read for.
                if replay.entries and replay.entries[-1].conversation.key == key:
                    replay.block = block
                    if not records:
                        replay.entries[-1].left = 0  # not there any more: named by a gap
        self.tick(self._domain.clock_ns())

    def stats(self) -> dict[str, int]:
        return {
            "replays_waiting": len(self._unread) + len(self._ready),
            "replayed_messages_total": self.replayed_count,
        }
