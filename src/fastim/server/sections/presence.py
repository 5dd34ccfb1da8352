"""Who is there."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_S, Section

__all__ = ["PresenceSettings"]


class PresenceSettings(Section):
    """Who is there."""

    grace_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time from the last device's leaving to `offline`; seconds. 0: at once.",
    )
    restart_grace_s: float = Field(
        default=60.0,
        ge=0,
        le=MAX_S,
        description="Time after a restart in which who was there before still counts as there; seconds. 0: "
        "after a restart nobody is there.",
    )
    shared_only: bool = Field(
        default=True, description="Whether only users can be watched with whom one shares a conversation."
    )
