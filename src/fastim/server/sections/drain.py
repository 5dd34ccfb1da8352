"""How the server ends."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, MAX_S, Section

__all__ = ["DrainSettings"]


class DrainSettings(Section):
    """How the server ends."""

    within_s: float | None = Field(
        default=None,
        ge=0,
        le=MAX_S,
        description="Window over which SIGTERM closes connections, evenly; seconds. 0: all at once. Unset: "
        "100 connections a second, but 20 s at most.",
    )
    to: str = Field(
        default="",
        max_length=1024,
        pattern=r"^((ws|http)s?://[!-~]+)?$",
        description="Address of the server that takes the clients over, which are given tickets for it. "
        "Empty: they come back to where they were.",
    )
    deadline_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time behind the window for answers and closing handshakes; seconds. 0: none.",
    )
    quick_deadline_s: float = Field(
        default=1.0,
        ge=0,
        le=MAX_S,
        description="The same after SIGINT, which has no window; seconds. 0: none.",
    )
    retry_after_ms: int = Field(
        default=1000,
        ge=0,
        le=MAX_COUNT,
        description="When clients are told to come back, from their turn to be closed on; milliseconds. "
        "0: at once.",
    )
