"""Relief: what the server does under pressure, and what of it is told."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fastim._core.hub import Lane
from fastim.errors import CloseCode, ErrorCode, TurnedAway
from fastim.guard.pressure import Change, Pressure, PressurePolicy, Reading, Step
from fastim.guard.tiers import Rank
from fastim.server.connection import Connection
from fastim.server.process.memory import resident_bytes

if TYPE_CHECKING:
    import asyncio

    from fastim.server.service import Service

__all__ = ["Relief", "ReliefOptions"]

log = logging.getLogger("fastim.pressure")

LOOK_S: Final = 0.25
LOOKS_A_SECOND: Final = 4
NS_PER_S: Final = 1_000_000_000
OVERLOADED: Final = "overloaded: come back later"
MEANINGS: Final = {
    Step.NONE: "all as usual",
    Step.DEGRADED_LEAVES: "the degraded tier is told to come back later",
    Step.LOW_SHED: "typing and presence are not sent",
    Step.NEWCOMERS_REFUSED: "new connections are refused",
}


@dataclass(frozen=True, slots=True)
class ReliefOptions:
    """Plain options, filled from the settings.

    Attributes:
        leave_s: Over how long the degraded tier leaves; 0: at once.
        retry_after_ms: When who leaves may come back: after this time up to twice of it.
    """

    leave_s: float = 10.0
    retry_after_ms: int = 30_000


class Relief:
    """Looks at the server four times a second, and spares it as far as its pressure asks for.

    Args:
        service: What is spared.
        policy: When.
        options: How.
        memory: Tells how many bytes the process holds.
    """

    def __init__(
        self,
        service: Service,
        policy: PressurePolicy,
        options: ReliefOptions,
        memory: Callable[[], int] = resident_bytes,
    ) -> None:
        self._service = service
        self._pressure = Pressure(policy)
        self._options = options
        self._memory = memory
        self._reading = Reading()
        self._slice_count = 0  # how many leave at each look, from the moment they were told to
        self._due_ns = 0
        self._handle: asyncio.TimerHandle | None = None
        self._changed_count = 0
        self._left_count = 0
        self._refused_count = 0

    # -- looking

    def start(self) -> None:
        """Begin to look."""
        self._due_ns = self._service.clock_ns() + int(LOOK_S * NS_PER_S)
        self._handle = self._service.loop.call_later(LOOK_S, self._on_time)

    def stop(self) -> None:
        """Look no more."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_time(self) -> None:
        now_ns = self._service.clock_ns()
        lag_ns = max(0, now_ns - self._due_ns)
        self._due_ns = now_ns + int(LOOK_S * NS_PER_S)
        self._handle = self._service.loop.call_later(LOOK_S, self._on_time)
        self.look(lag_ns, now_ns)

    def look(self, lag_ns: int, now_ns: int) -> None:
        """Take a reading, and do what follows from it.

        Args:
            lag_ns: How late the loop is.
            now_ns: By the service's clock.
        """
        self._reading = Reading(lag_ns, self._memory(), self._service.hub.stats()["outbox_bytes"])
        change = self._pressure.observe(self._reading, now_ns)
        if change is not None:
            self._changed(change)
        if self.step >= Step.DEGRADED_LEAVES and not self._service.draining:
            self._send_off(now_ns)

    def _changed(self, change: Change) -> None:
        self._changed_count += 1
        self._service.hub.shed_low(change.step >= Step.LOW_SHED)
        if change.before < Step.DEGRADED_LEAVES <= change.step:
            looks = max(1, math.ceil(self._options.leave_s * LOOKS_A_SECOND))
            self._slice_count = math.ceil(self._service.hub.admitted[Rank.DEGRADED] / looks)
        load, reading = change.load, self._reading
        log.warning(
            "pressure: step %d, %s; was %d, because of %s (lag %d ms, %.0f %% of its limit; memory %d MiB, "
            "%.0f %%; outboxes %d MiB, %.0f %%)",
            change.step,
            MEANINGS[change.step],
            change.before,
            load.cause if change.step > change.before else "calm",
            reading.lag_ns // 1_000_000,
            load.lag * 100,
            reading.memory_bytes >> 20,
            load.memory * 100,
            reading.outbox_bytes >> 20,
            load.outbox * 100,
        )

    # -- sparing

    @property
    def step(self) -> Step:
        """What is on."""
        return self._pressure.step

    @property
    def reason(self) -> str:
        """Why the server takes no clients; empty while it does."""
        if self.step < Step.NEWCOMERS_REFUSED:
            return ""
        load = self._pressure.load
        return f"pressure: new connections are refused; {load.cause} at {max(load):.0%} of its limit"

    def retry_ms(self) -> int:
        """Return after how long somebody who is sent away may come back."""
        least_ms = self._options.retry_after_ms
        return random.randint(least_ms, 2 * least_ms)

    def refuses_newcomers(self) -> bool:
        """Tell whether nobody is let in now; counts if so."""
        if self.step < Step.NEWCOMERS_REFUSED:
            return False
        self._refused_count += 1
        return True

    def check(self, rank: Rank) -> None:
        """Ask whether a connection that would get this tier may come now.

        Raises:
            TurnedAway: Those of the degraded tier are told to come back later, the new ones too.
        """
        if self.step >= Step.DEGRADED_LEAVES and rank == Rank.DEGRADED:
            self._refused_count += 1
            raise TurnedAway(
                CloseCode.DRAINING, OVERLOADED, ErrorCode.UNAVAILABLE, retry_after_ms=self.retry_ms()
            )

    def _send_off(self, now_ns: int) -> None:
        """Tell the next part of the degraded tier to leave, the longest idle first."""
        hub = self._service.hub
        for _ in range(self._slice_count):
            handle = hub.idlest(Rank.DEGRADED)
            connection = hub.owner(handle) if handle else None
            if not isinstance(connection, Connection):
                return
            self._left_count += 1
            body = {
                "reconnect": True,
                "shutdown_at": int(self._service.time_s() * 1000),
                "retry_after_ms": self.retry_ms(),
                "reason": "overloaded",
            }
            connection.send_event("server_shutdown", body, Lane.HIGH)
            hub.close(handle, CloseCode.DRAINING, OVERLOADED, now_ns)

    # -- telling

    def stats(self) -> dict[str, int]:
        """Return the gauges and counters for the metrics; percents are of the limits, 0 without one."""
        load, reading = self._pressure.load, self._reading
        return {
            "step": int(self.step),
            "lag_us": reading.lag_ns // 1_000,
            "lag_percent": round(load.lag * 100),
            "memory_bytes": reading.memory_bytes,
            "memory_percent": round(load.memory * 100),
            "outbox_bytes": reading.outbox_bytes,
            "outbox_percent": round(load.outbox * 100),
            "changes_total": self._changed_count,
            "sent_off_total": self._left_count,
            "refused_total": self._refused_count,
        }
