"""How a connection is found to be gone."""

from __future__ import annotations

from pydantic import Field, model_validator

from fastim.server.sections.base import Section

__all__ = ["HeartbeatSettings"]

MAX_INTERVAL_S = 86_400


class HeartbeatSettings(Section):
    """How a connection is found to be gone."""

    interval_s: float | None = Field(
        default=None,
        ge=0,
        le=MAX_INTERVAL_S,
        description="Silence after which a client is pinged at first, whatever its tier; seconds. 0: never "
        "pinged. Unset: what its tier says (`tier_standard.heartbeat_s` and the others).",
    )
    min_s: float = Field(
        default=10.0,
        ge=0.001,
        le=MAX_INTERVAL_S,
        description="The interval adapts down to this; seconds. A first interval below it counts instead.",
    )
    max_s: float = Field(
        default=60.0,
        ge=0.001,
        le=MAX_INTERVAL_S,
        description="The interval adapts up to this, and a client in the background (`presence` away) has "
        "it; seconds. A first interval above it counts instead. `heartbeat_ms` of `hello` is this plus the "
        "timeout.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=MAX_INTERVAL_S,
        description="A ping is missed when no byte came for so long after it; seconds.",
    )
    misses: int = Field(
        default=3,
        ge=1,
        le=255,
        description="So many missed pings in a row close the connection with 4009; count.",
    )
    fast_ms: int = Field(
        default=50,
        ge=0,
        le=60_000,
        description="A shorter round trip makes the interval a fifth longer; milliseconds. 0: none does.",
    )
    slow_ms: int = Field(
        default=200,
        ge=1,
        le=60_000,
        description="This round trip and longer ones make the interval a fifth shorter; milliseconds.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> HeartbeatSettings:
        if self.min_s > self.max_s:
            raise ValueError(f"heartbeat.min_s must not be above heartbeat.max_s ({self.max_s:g})")
        if self.fast_ms > self.slow_ms:
            raise ValueError(f"heartbeat.fast_ms must not be above heartbeat.slow_ms ({self.slow_ms})")
        return self
