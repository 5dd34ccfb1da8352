"""What a connection may ask for, by the tier that its token names."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, MAX_S, Section

__all__ = ["CriticalTierSettings", "DegradedTierSettings", "StandardTierSettings", "TierSettings"]

Connections = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_COUNT,
        description="Connections of the tier; count. Those that come when it is full get the next lower one. "
        "0: no limit but `limits.max_connections`.",
    ),
]
Heartbeat = Annotated[
    float,
    Field(
        ge=0,
        le=MAX_S,
        description="Silence after which a client is pinged at first, before the rhythm adapts; seconds. "
        "0: never pinged.",
    ),
]
QueuedMessages = Annotated[
    int,
    Field(
        ge=1,
        le=100_000,
        description="Messages of `message_bytes` that may wait for a client that reads slowly; count. Past "
        "them it is closed with 4008 and resumes. One message fits whatever its size, if less than a quarter "
        "waits.",
    ),
]
MessageBytes = Annotated[
    int,
    Field(
        ge=64,
        le=16_384,
        description="What one of `queued_messages` stands for; bytes. The product is the bound: of smaller "
        "ones there may be more.",
    ),
]
FlushWeight = Annotated[
    int,
    Field(
        ge=1,
        le=100,
        description="Weight against the other tiers when writes wait for each other under load; no unit.",
    ),
]
PacketsPerSecond = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_COUNT,
        description="Packets of one connection of the tier, in place of `limits.packets_per_second`; count. "
        "0: what holds for all.",
    ),
]
MessagesPerMinute = Annotated[
    int,
    Field(
        ge=0,
        le=100_000_000,
        description="Messages of one user in any 60 s from connections of the tier, in place of "
        "`limits.messages_per_minute`; count. 0: what holds for all.",
    ),
]


class TierSettings(Section):
    """What the three tiers have in common; the defaults are the sections'."""

    connections: Connections
    heartbeat_s: Heartbeat
    queued_messages: QueuedMessages
    message_bytes: MessageBytes = 1024
    flush_weight: FlushWeight
    packets_per_second: PacketsPerSecond = 0
    messages_per_minute: MessagesPerMinute = 0


class CriticalTierSettings(TierSettings):
    """Connections whose token says `critical`: never those that give way, and served first."""

    connections: Connections = 10_000
    heartbeat_s: Heartbeat = 30.0
    queued_messages: QueuedMessages = 1_000
    flush_weight: FlushWeight = 4


class StandardTierSettings(TierSettings):
    """Connections whose token says `standard`, or nothing."""

    connections: Connections = 100_000
    heartbeat_s: Heartbeat = 30.0
    queued_messages: QueuedMessages = 500
    flush_weight: FlushWeight = 2


class DegradedTierSettings(TierSettings):
    """Connections whose token says `degraded`, or for whom the others were full: the first to give way."""

    connections: Connections = 50_000
    heartbeat_s: Heartbeat = 60.0
    queued_messages: QueuedMessages = 100
    flush_weight: FlushWeight = 1
