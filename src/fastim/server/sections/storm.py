"""How fast messages may come, and how much may wait for its turn."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_BYTES, MAX_COUNT, Section

__all__ = ["StormSettings"]

MAX_RATE = 10_000_000


class StormSettings(Section):
    """How fast messages may come, and how much may wait for its turn.

    What comes faster than its user, its conversation or the server may send waits for its turn, and is
    answered `rate_limited` where it would wait too long. A user's messages: `limits.messages_per_minute`.
    """

    server_per_second: int = Field(
        default=0,
        ge=0,
        le=MAX_RATE,
        description="Messages of everybody, averaged; count. 0: no limit. 10000 is a good start, 50000 and "
        "more where the machine was measured.",
    )
    server_burst: int = Field(
        default=500,
        ge=1,
        le=MAX_RATE,
        description="Of those, at a time; count. A fortieth of the rate at least.",
    )
    conversation_per_second: int | None = Field(
        default=None,
        ge=0,
        le=MAX_RATE,
        description="Messages to one conversation, averaged; count. 0: no limit. Unset: 50, which is 500,000 "
        "deliveries a second where 10,000 members are connected, a third of a core; no limit where "
        "limits.messages_per_minute is 0.",
    )
    conversation_burst: int = Field(default=200, ge=1, le=MAX_RATE, description="Of those, at a time; count.")
    user_bytes_per_second: int | None = Field(
        default=None,
        ge=0,
        le=MAX_COUNT,
        description="Content of one user's messages, all devices together, averaged; bytes. 0: no limit. "
        "Unset: 65536, no limit where limits.messages_per_minute is 0.",
    )
    user_burst_bytes: int = Field(
        default=1_048_576,
        ge=1_024,
        le=MAX_COUNT,
        description="Of that, at a time; bytes. A message that is larger counts as so many.",
    )
    max_wait_ms: int = Field(
        default=2_000,
        ge=0,
        le=60_000,
        description="How long a message may wait for its turn; milliseconds. 0: none waits.",
    )
    queue_bytes: int = Field(
        default=16_777_216,
        ge=0,
        le=MAX_BYTES,
        description="Of all messages that wait; bytes, each message counts 512 beside its content. "
        "0: none waits.",
    )
    conversation_queue_bytes: int = Field(
        default=1_048_576,
        ge=0,
        le=MAX_BYTES,
        description="Of one conversation's messages, or of one user's, that wait; bytes. 0: one at a time.",
    )
