"""The domain's options, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastim.im.session import Session

__all__ = ["OUTBOX_BYTES", "ImOptions", "StormOptions"]

OUTBOX_BYTES: Final = {"critical": 1_024_000, "standard": 512_000, "degraded": 102_400}


@dataclass(frozen=True, slots=True)
class StormOptions:
    """How fast messages may come, and how much may wait; a rate of 0 is no limit.

    Attributes:
        user_per_minute: Messages of a user, all devices together, on average and at a time.
        tier_per_minute: The same from connections of a tier, where it is another.
        user_bytes_per_s, user_burst_bytes: Bytes of their content, on average and at a time; one that is
            larger than the burst counts as the burst.
        conversation_per_s, conversation_burst: Messages to a conversation, on average and at a time.
        server_per_s, server_burst: Messages in all, likewise.
        wait_ms: How long a message may wait for its turn; 0: none waits.
        queue_bytes: Of all that waits; each message counts for its content and 512 bytes.
        line_bytes: The same of one conversation, and of one user.
        quantum_bytes: What a conversation sends in its turn, where several wait for the server's tokens.
    """

    user_per_minute: int = 0
    tier_per_minute: Mapping[str, int] = field(default_factory=dict)
    user_bytes_per_s: int = 0
    user_burst_bytes: int = 1_048_576
    conversation_per_s: int = 0
    conversation_burst: int = 200
    server_per_s: int = 0
    server_burst: int = 500
    wait_ms: int = 2_000
    queue_bytes: int = 16_777_216
    line_bytes: int = 1_048_576
    quantum_bytes: int = 2_048

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        of_all = self.user_per_minute or self.user_bytes_per_s or self.conversation_per_s or self.server_per_s
        return bool(of_all) or any(self.tier_per_minute.values())


@dataclass(frozen=True, slots=True)
class ImOptions:
    """Plain options of the domain; the service fills them from its settings.

    Attributes:
        dev_login: Anyone may choose the id of a conversation that is created.
        presence_shared_only: Presence is given only of users one shares a conversation with.
        history_from_joining: New members see messages from their joining on only.
        allow_leave: Members may remove themselves.
        max_members: Members of a conversation; 0: no bound.
        offline_grace_ms: How long the last device is gone before its user is offline.
        restart_grace_ms: How long who was there before a restart counts as there after it; 0: not.
        typing_timeout_ms: When a typing state ends by itself.
        window_ms: Receipts and states of a window go out together.
        state_bytes: Most that one event of presence holds; what does not fit comes with the next window.
        session_life_s: How long a session can be resumed after its connection ended; 0: not at all.
        max_sessions: Detached sessions kept for a resume; the longest unused go first.
        max_session_bytes: Likewise for the memory they hold; 0: no bound.
        ring_bytes: Latest encoded messages kept for a conversation.
        ring_total_bytes: The same over all conversations; the longest unused go first.
        cache_entries: Conversations, users and pages of members that were read and are kept; 0: none.
        cache_life_ms: For so long at most.
        replay_messages: Messages replayed for a conversation before a ``gap``.
        replay_chunk_bytes: Replay queues about this much, at most a quarter of the outbox, and waits until
            the connection has drained.
        missed_messages, missed_bytes: Most that is sent to a session that wants all it missed or nothing.
        outbox_bytes: Bound of a connection's outbox by tier, as the hub was told; a page of history takes at
            most three eighths of it, so that no answer closes a connection as too slow.
        page_bytes: Most that an answer with messages holds.
        delivered_members, read_members: Largest conversations whose members are told of delivered and of read
            marks; 0: none.
        ack_timeout_ms, ack_retries: When, and how often, an unacknowledged message is sent again.
        undelivered_after_ms: A message that a member has not got for so long is told of; 0: never.
        pause_writes, pause_bytes: With more writes, or bytes of them, waiting in the store, sessions that
            send are not read.
        max_writes, max_write_bytes: With more waiting, messages are answered ``unavailable``.
        storm: Limits of messages.
        limit_members: Called with a session and how many members it puts into a conversation; milliseconds
            until they are welcome, 0: now. None: no limit.
    """

    dev_login: bool = False
    presence_shared_only: bool = True
    history_from_joining: bool = False
    allow_leave: bool = True
    max_members: int = 10_000
    offline_grace_ms: int = 10_000
    restart_grace_ms: int = 60_000
    typing_timeout_ms: int = 5_000
    window_ms: int = 100
    state_bytes: int = 32_768
    session_life_s: float = 3_600
    max_sessions: int = 100_000
    max_session_bytes: int = 268_435_456
    ring_bytes: int = 262_144
    ring_total_bytes: int = 67_108_864
    cache_entries: int = 10_000
    cache_life_ms: int = 60_000
    replay_messages: int = 500
    replay_chunk_bytes: int = 131_072
    missed_messages: int = 500
    missed_bytes: int = 262_144
    outbox_bytes: Mapping[str, int] = field(default_factory=lambda: dict(OUTBOX_BYTES))
    page_bytes: int = 262_144
    delivered_members: int = 32
    read_members: int = 500
    ack_timeout_ms: int = 2_000
    ack_retries: int = 3
    undelivered_after_ms: int = 30_000
    pause_writes: int = 16_384
    max_writes: int = 65_536
    pause_bytes: int = 16_777_216
    max_write_bytes: int = 67_108_864
    storm: StormOptions = field(default_factory=StormOptions)
    limit_members: Callable[[Session, int], int] | None = None
