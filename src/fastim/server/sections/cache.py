"""What was read from the store and is kept."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, MAX_S, Section

__all__ = ["CacheSettings"]


class CacheSettings(Section):
    """What was read from the store and is kept."""

    entries: int = Field(
        default=10_000,
        ge=0,
        le=MAX_COUNT,
        description="Conversations, users and pages of members that were read and are kept, and a tenth more "
        "of what is known not to exist; count. 0: none is kept.",
    )
    life_s: float = Field(
        default=60.0, gt=0, le=MAX_S, description="How long one is kept before it is read again; seconds."
    )
