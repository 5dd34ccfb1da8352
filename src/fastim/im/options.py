"""The domain's options, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastim.im.session import Session

__all__ = ["OUTBOX_BYTES", "ImOptions"]

OUTBOX_BYTES: Final = {"critical": 4_194_304, "standard": 1_048_576, "degraded": 262_144}


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
        typing_timeout_ms: When a typing state ends by itself.
        window_ms: Receipts and states of a window go out together.
        session_life_s: How long a session can be resumed after its connection ended.
        max_sessions: Ended sessions remembered for a resume; the oldest go first.
        ring_bytes: Latest encoded messages kept for a conversation.
        ring_total_bytes: The same over all conversations; the longest unused go first.
        replay_messages: Messages replayed for a conversation before a ``gap``.
        replay_chunk_bytes: Replay queues about this much, at most an eighth of the outbox, and waits until
            the connection has drained.
        outbox_bytes: Bound of a connection's outbox by tier, as the hub was told; a page of history takes at
            most three eighths of it, so that no answer closes a connection as too slow.
        page_bytes: Most that an answer with messages holds.
        delivered_members, read_members: Largest conversations whose members are told of delivered and of read
            marks; 0: none.
        ack_timeout_ms, ack_retries: When, and how often, an unacknowledged message is sent again.
        pause_writes: With more writes waiting in the store, sessions that send are not read.
        max_writes: With more writes waiting, messages are answered ``unavailable``.
        limit_message: Called for each message; milliseconds until it is welcome, 0: now. None: no limit.
        limit_members: Likewise for so many members that a session puts into a conversation.
    """

    dev_login: bool = False
    presence_shared_only: bool = True
    history_from_joining: bool = False
    allow_leave: bool = True
    max_members: int = 10_000
    offline_grace_ms: int = 10_000
    typing_timeout_ms: int = 6_000
    window_ms: int = 100
    session_life_s: int = 3_600
    max_sessions: int = 200_000
    ring_bytes: int = 262_144
    ring_total_bytes: int = 67_108_864
    replay_messages: int = 500
    replay_chunk_bytes: int = 131_072
    outbox_bytes: Mapping[str, int] = field(default_factory=lambda: dict(OUTBOX_BYTES))
    page_bytes: int = 262_144
    delivered_members: int = 32
    read_members: int = 500
    ack_timeout_ms: int = 2_000
    ack_retries: int = 3
    pause_writes: int = 16_384
    max_writes: int = 65_536
    limit_message: Callable[[Session], int] | None = None
    limit_members: Callable[[Session, int], int] | None = None
