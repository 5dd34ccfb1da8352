"""Delivery, receipts and history."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from fastim.server.sections.base import MAX_BYTES, MAX_COUNT, MAX_S, Section

__all__ = ["HistoryVisibility", "MessagingSettings"]


class HistoryVisibility(StrEnum):
    ALL = "all"
    JOINED = "joined"


class MessagingSettings(Section):
    """Delivery, receipts and history."""

    enabled: bool = Field(
        default=True,
        description="Whether the built-in events (`message`, `typing`, `history` …) are served. Off: an "
        "application's own alone are.",
    )
    window_ms: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Typing, presence and receipts are gathered for this long; milliseconds.",
    )
    state_bytes: int = Field(
        default=32_768,
        ge=4096,
        le=MAX_COUNT,
        description="Size of one `state_batch` of presence; the rest comes in the next window; bytes.",
    )
    ack_timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=MAX_S,
        description="Time to an `ack` before a message is sent again to whom asked for acks; seconds.",
    )
    ack_retries: int = Field(
        default=3, ge=0, le=MAX_COUNT, description="How often it is sent again; count. 0: never."
    )
    undelivered_after_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_S,
        description="Time after which the application's `on_undelivered` is told of a message that a member "
        "has not got; seconds. 0: never.",
    )
    resume_messages: int = Field(
        default=500,
        ge=0,
        le=MAX_COUNT,
        description="Missed messages of a conversation that a resume sends before it says `gap`; count. "
        "0: always `gap`.",
    )
    history_bytes: int = Field(
        default=262_144, ge=4096, le=MAX_COUNT, description="Size of one answer to `history`; bytes."
    )
    ring_bytes: int = Field(
        default=262_144,
        ge=0,
        le=MAX_COUNT,
        description="Latest messages kept in memory for each conversation in use; bytes. 0: none.",
    )
    rings_total_bytes: int = Field(
        default=67_108_864,
        ge=0,
        le=MAX_BYTES,
        description="The same, all conversations together; bytes. 0: none.",
    )
    delivered_members: int = Field(
        default=32,
        ge=0,
        le=MAX_COUNT,
        description="Largest conversation that gets `delivered` receipts; members. 0: none does.",
    )
    read_members: int = Field(
        default=500,
        ge=0,
        le=MAX_COUNT,
        description="Largest conversation that gets `read` receipts; members. 0: none does.",
    )
    typing_timeout_s: float = Field(
        default=5.0, gt=0, le=MAX_S, description="Time after which a typing state ends by itself; seconds."
    )
    members_see: HistoryVisibility = Field(
        default=HistoryVisibility.ALL,
        description="What a new member may read: `all` or what came since it `joined`.",
    )
    members_may_leave: bool = Field(
        default=True, description="Whether members may take themselves out of a group."
    )
