"""Messages to connections that acknowledge: sent again while they are not, a few times."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from fastim._core.histogram import Histogram
from fastim.im.conversation import Conversation, RingEntry, sender_of
from fastim.im.domain import NS_PER_MS, Domain
from fastim.im.session import Session

__all__ = ["Retries"]

PUBLISHED_KEPT: Final = 256  # latest messages of a conversation whose time of commit is known


class _Wait:
    """What a connection has not acknowledged of a conversation.

    Attributes:
        acked: Everything up to here has arrived.
        target: What the clock runs for; ``newest`` may have gone further since, and is next.
        attempts: How often it was sent again.
    """

    __slots__ = ("acked", "attempts", "due_ns", "newest", "target")

    def __init__(self, acked: int, newest: int, due_ns: int) -> None:
        self.acked = acked
        self.target = newest
        self.newest = newest
        self.due_ns = due_ns
        self.attempts = 0


class Retries:
    """Waits for acknowledgements, of the sessions that give them and only while something is outstanding.

    Only what the ring still holds is sent again; the rest is the resume's.

    Args:
        domain: The shared state.
        packet: Encodes an entry for a connection.

    Attributes:
        latency: From the commit of a message to its acknowledgement by a live connection, nanoseconds.
        sent_again_count, given_up_count: Messages sent again; times that something was left to the resume.
    """

    __slots__ = (
        "_domain",
        "_fresh",
        "_packet",
        "_scan_ns",
        "_waits",
        "given_up_count",
        "latency",
        "sent_again_count",
    )

    def __init__(self, domain: Domain, packet: Callable[[Conversation, RingEntry, int], bytes]) -> None:
        self._domain = domain
        self._packet = packet
        self._waits: dict[Session, dict[Conversation, _Wait]] = {}
        self._fresh: dict[Conversation, int] = {}  # published since the last tick: the seq before
        self._scan_ns = 0
        self.latency = Histogram("From a message's commit to its acknowledgement by a device, seconds.")
        self.sent_again_count = 0
        self.given_up_count = 0

    def __len__(self) -> int:
        return len(self._waits)

    def published(self, conversation: Conversation, seq: int) -> None:
        """A message went to sessions that acknowledge; called before ``last_seq`` moves."""
        self._fresh.setdefault(conversation, seq - 1)
        rare = conversation.more()
        if rare.published is None:
            rare.published = deque(maxlen=PUBLISHED_KEPT)
        rare.published.append((seq, self._domain.clock_ns()))

    def replayed(self, session: Session, conversation: Conversation, after: int) -> None:
        """Messages after ``after`` were replayed to a session that acknowledges."""
        self._expect(session, conversation, after, self._domain.clock_ns())

    def acknowledge(self, session: Session, conversation: Conversation, seq: int) -> None:
        """Everything up to ``seq`` has arrived."""
        waits = self._waits.get(session)
        wait = waits.get(conversation) if waits is not None else None
        if wait is None:
            # Either nothing is outstanding, or it was published since the last tick and has no clock yet:
            # begin that now, or the tick would take what is acknowledged here for outstanding.
            rare = conversation.rare
            if conversation not in self._fresh or rare is None or session not in rare.ack_sessions:
                return
            self._expect(session, conversation, self._fresh[conversation], self._domain.clock_ns())
            wait = self._waits[session][conversation]
        if seq <= wait.acked:
            return
        self._measure(conversation, wait.acked, seq)
        wait.acked = seq
        if seq >= wait.target and wait.newest > seq:
            self._restart(wait, self._domain.clock_ns())

    def _measure(self, conversation: Conversation, after: int, seq: int) -> None:
        """Take note of how long the messages up to ``seq`` took to be acknowledged."""
        published = conversation.more().published
        if not published:
            return
        now_ns = self._domain.clock_ns()
        for published_seq, at_ns in reversed(published):
            if published_seq <= after:
                break
            if published_seq <= seq:
                self.latency.observe(now_ns - at_ns)

    def leave(self, session: Session) -> None:
        """The session is gone."""
        self._waits.pop(session, None)

    def remove(self, session: Session, conversation: Conversation) -> None:
        """The session's user is no member any more."""
        waits = self._waits.get(session)
        if waits is not None:
            waits.pop(conversation, None)

    def tick(self, now_ns: int) -> None:
        """Start clocks for what was published, and send again what is due."""
        if self._fresh:
            fresh, self._fresh = self._fresh, {}
            for conversation, after in fresh.items():
                rare = conversation.rare
                for session in rare.ack_sessions if rare is not None else ():
                    self._expect(session, conversation, after, now_ns)
        if self._waits and now_ns >= self._scan_ns:
            self._scan_ns = now_ns + self._domain.options.ack_timeout_ms * NS_PER_MS // 20
            for session in list(self._waits):
                self._scan(session, now_ns)

    def _expect(self, session: Session, conversation: Conversation, after: int, now_ns: int) -> None:
        waits = self._waits.setdefault(session, {})
        wait = waits.get(conversation)
        if wait is None:
            due_ns = now_ns + self._domain.options.ack_timeout_ms * NS_PER_MS
            waits[conversation] = _Wait(after, conversation.last_seq, due_ns)
        elif wait.acked >= wait.target:
            wait.newest = conversation.last_seq
            self._restart(wait, now_ns)
        else:
            wait.newest = conversation.last_seq

    def _restart(self, wait: _Wait, now_ns: int) -> None:
        wait.target = wait.newest
        wait.attempts = 0
        wait.due_ns = now_ns + self._domain.options.ack_timeout_ms * NS_PER_MS

    def _scan(self, session: Session, now_ns: int) -> None:
        waits = self._waits[session]
        timeout_ns = self._domain.options.ack_timeout_ms * NS_PER_MS
        room = -1  # for all that is due now; asked for once, or the first sent again would hold up the rest
        for conversation, wait in list(waits.items()):
            if wait.acked >= wait.newest:
                del waits[conversation]
            elif now_ns < wait.due_ns:
                continue
            elif wait.attempts >= self._domain.options.ack_retries:
                wait.acked = max(wait.acked, wait.target)  # given up: the resume's
                self.given_up_count += 1
                self._restart(wait, now_ns)
            else:
                if room < 0:
                    # While older bytes wait, more of them help nobody; that is no attempt.
                    if self._domain.hub.unsent_bytes(session.handle):
                        wait.due_ns = now_ns + timeout_ns
                        continue
                    room = self._domain.chunk_bytes(session)
                if room > 0:  # else it stays due
                    wait.due_ns = now_ns + timeout_ns
                    wait.attempts += 1
                    room = max(0, room - self._send_again(session, conversation, wait))
        if not waits:
            self._waits.pop(session, None)

    def _send_again(self, session: Session, conversation: Conversation, wait: _Wait) -> int:
        """Queue what the conversation still waits for; returns the bytes queued."""
        ring = conversation.ring
        queued = 0
        if ring is None:
            return queued
        most = self._domain.outbox_bytes(session) * 3 // 4
        me, device, handle = session.user_id, session.device, session.handle
        for entry in ring.between(wait.acked, wait.target):
            message = entry[0]
            if sender_of(message) == me and message.device == device:
                continue  # it got its ok, which does not come twice
            packet = self._packet(conversation, entry, session.encoding)
            if queued and queued + len(packet) > most:
                break  # a client that lacks so much has the rest to come, or the resume
            session.hub.send(handle, packet)
            self.sent_again_count += 1
            queued += len(packet)
        return queued
