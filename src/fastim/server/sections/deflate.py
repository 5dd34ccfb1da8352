"""permessage-deflate."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, Section

__all__ = ["DeflateSettings"]


class DeflateSettings(Section):
    """permessage-deflate (RFC 7692), without context takeover."""

    enabled: bool = Field(default=True, description="Whether compression is negotiated.")
    window_bits: int = Field(
        default=12,
        ge=9,
        le=15,
        description="Size of the window as a power of two; bits. One for all connections.",
    )
    min_bytes: int = Field(
        default=256,
        ge=0,
        le=MAX_COUNT,
        description="Smaller messages are sent uncompressed; bytes. 0: all are compressed.",
    )
    level: int = Field(
        default=1, ge=1, le=9, description="Effort of zlib, without unit: 1 is the fastest, 9 the smallest."
    )
