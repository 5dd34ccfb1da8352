"""When the server has too much to do, and how it spares itself."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_BYTES, MAX_S, Section

__all__ = ["PressureSettings"]


class PressureSettings(Section):
    """When the server has too much to do, and how it spares itself: the degraded tier leaves, then typing and
    presence are not sent, then nobody is let in; and back in reverse."""

    lag_ms: int = Field(
        default=500,
        ge=0,
        le=3_600_000,
        description="Lateness of the event loop; milliseconds. 0: not looked at.",
    )
    memory_share: float = Field(
        default=0.85,
        ge=0,
        le=1,
        description="Memory that the process holds, as a share of what its control group or the machine has; "
        "no unit. 0: not looked at.",
    )
    outbox_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        le=MAX_BYTES,
        description="Memory of what waits for all clients together; bytes. 0: not looked at.",
    )
    rise_s: float = Field(
        default=2.0,
        ge=0,
        le=MAX_S,
        description="Time that one of them has to be reached without a break before the next step; seconds. "
        "0: a step at each look, four a second.",
    )
    fall_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time that all of them have to be below `leave_share` of theirs before a step back; "
        "seconds. 0: a step at each look.",
    )
    leave_share: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of each that has to be kept before a step back; no unit. "
        "Between it and 1 nothing changes.",
    )
    leave_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time over which the connections of the degraded tier are told to leave, in even parts; "
        "seconds. 0: all at once.",
    )
    retry_after_s: float = Field(
        default=30.0,
        gt=0,
        le=MAX_S,
        description="When those who were told to leave, or not let in, may come back: after this time up to "
        "twice of it, each its own; seconds.",
    )
