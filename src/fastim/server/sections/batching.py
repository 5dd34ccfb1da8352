"""How what is sent comes together: windows, batches, and who goes first where not all can go at once."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, Section

__all__ = ["BatchingSettings"]


class BatchingSettings(Section):
    """How what is sent comes together under load; while the loop has time to spare nothing waits."""

    window_ms: int = Field(
        default=5,
        ge=0,
        le=1_000,
        description="The longest that what is sent waits for more, when the loop is behind; milliseconds. "
        "A loop that is loaded and keeps up waits 1 to 2. Up to 50 merges more and delays more. "
        "0: nothing ever waits.",
    )
    max_packets: int = Field(
        default=100,
        ge=0,
        le=1_000,
        description="Packets of one batch, for clients whose hello asked for batches; count. A connection "
        "with so many waiting is written at once. 0: up to 1,000.",
    )
    degraded_factor: int = Field(
        default=4,
        ge=1,
        le=100,
        description="How many times as long as the others the tier `degraded` waits; no unit.",
    )
    flush_connections: int = Field(
        default=2_000,
        ge=0,
        le=MAX_COUNT,
        description="Connections written before what came in meanwhile is read; count. The tiers share "
        "them by their `flush_weight`. 0: all that wait.",
    )
    low_percent: int = Field(
        default=10,
        ge=0,
        le=50,
        description="What typing and presence get of the bytes sent to a client that is behind, as long as "
        "there are any; percent. 0: they come after all messages.",
    )
