"""The plain options of the recovery of connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["RecoveryOptions"]

NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """Plain options, filled from the settings.

    Attributes:
        life_ns: How long a connection that is gone can come back.
        max_count: Connections that are gone and may come back.
        max_bytes: What is kept of them; 0: no bound.
        log_bytes: What the events that somebody may have missed hold, in all.
        room_bytes: Likewise those of one room.
        replay_bytes: Most that is sent to one that comes back; and half of its outbox.
        skips_middleware: Who comes back is not shown to the application's middleware again.
    """

    life_ns: int = 120 * NS_PER_S
    max_count: int = 100_000
    max_bytes: int = 134_217_728
    log_bytes: int = 67_108_864
    room_bytes: int = 4_194_304
    replay_bytes: int = 262_144
    skips_middleware: bool = True
