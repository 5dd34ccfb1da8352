"""Sessions: resuming after a lost connection, and how many logins a user may have."""

from __future__ import annotations

from pydantic import Field

from fastim.guard.logins import LoginPolicy
from fastim.server.sections.base import MAX_BYTES, MAX_COUNT, MAX_S, Section

__all__ = ["SessionSettings"]


class SessionSettings(Section):
    """Resuming after a lost connection, and how many logins a user may have."""

    life_s: float = Field(
        default=3600.0,
        ge=0,
        le=MAX_S,
        description="Time after a connection's end in which it can be resumed; seconds. 0: never.",
    )
    max_count: int = Field(
        default=100_000,
        ge=1,
        le=MAX_COUNT,
        description=(
            "Sessions without a connection that are kept, with their memberships; the longest unused ends "
            "first; count. Those with a connection do not count. Of one user at most 1,000."
        ),
    )
    max_bytes: int = Field(
        default=268_435_456,
        ge=0,
        le=MAX_BYTES,
        description=(
            "Memory that sessions without a connection may hold, about; the longest unused ends first; "
            "bytes. 0: no bound."
        ),
    )
    policy: LoginPolicy = Field(
        default=LoginPolicy.ANY,
        description=(
            "Logins that a user may have at a time: `any` number of devices; one for each `device_class` "
            "(the token's `class`; those without one share one); one in all: `user`. The latest login stays, "
            "the older is told and closed with 4004; the same device coming back replaces itself silently."
        ),
    )
