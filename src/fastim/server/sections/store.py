"""How messages are kept."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from fastim.server.sections.base import MAX_BYTES, MAX_COUNT, MAX_S, Section

__all__ = ["StoreSettings", "Synchronous"]


class Synchronous(StrEnum):
    FULL = "full"
    NORMAL = "normal"


class StoreSettings(Section):
    """How messages are kept."""

    synchronous: Synchronous = Field(
        default=Synchronous.FULL,
        description="`full`: an acknowledged message survives a power loss. `normal`: it survives a crash of "
        "the server, but the last ones may be lost with the power.",
    )
    max_batch: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Writes of one commit; count. 1: each write is committed by itself.",
    )
    max_queued: int = Field(
        default=50_000,
        ge=1,
        le=MAX_COUNT,
        description="Writes that may wait for the disk; count. From a quarter of it on, who writes is not "
        "read; more are answered `unavailable` until it catches up.",
    )
    max_queued_bytes: int = Field(
        default=67_108_864,
        ge=65_536,
        le=MAX_BYTES,
        description="The same in bytes; each write counts 512 beside its content.",
    )
    busy_timeout_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="How long a locked file is waited for; seconds. 0: not at all.",
    )
    wal_max_bytes: int = Field(
        default=67_108_864,
        ge=1_048_576,
        le=MAX_BYTES,
        description="Size at which the write-ahead log is moved into the file; bytes.",
    )
    client_id_life_s: int = Field(
        default=86_400,
        ge=86_400,
        le=MAX_S,
        description="How long a `client_id` is remembered, so that a repeated message is stored once; "
        "seconds.",
    )
