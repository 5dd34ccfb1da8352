"""Pressure: how far a server that has too much to do goes in sparing itself, and when it comes back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = ["Change", "Load", "Pressure", "PressurePolicy", "Reading", "Step"]

NS_PER_S: Final = 1_000_000_000


class Step(IntEnum):
    """What is done; each step does what those before it do."""

    NONE = 0
    DEGRADED_LEAVES = 1  # connections of the degraded tier are told to come back later
    LOW_SHED = 2  # typing and presence are not sent
    NEWCOMERS_REFUSED = 3  # nobody is let in


@dataclass(frozen=True, slots=True)
class PressurePolicy:
    """When there is too much.

    Attributes:
        lag_ns: So late the event loop may be; 0: not looked at.
        memory_bytes: So much the process may hold; 0: not looked at.
        outbox_bytes: So much may wait for all clients together; 0: not looked at.
        rise_ns: A limit has to be passed for so long before the next step.
        fall_ns: All have to be kept, with room to spare, for so long before a step back.
        leave_share: Room to spare: this share of each limit.
    """

    lag_ns: int = 0
    memory_bytes: int = 0
    outbox_bytes: int = 0
    rise_ns: int = 2 * NS_PER_S
    fall_ns: int = 10 * NS_PER_S
    leave_share: float = 0.8


class Reading(NamedTuple):
    """What was measured."""

    lag_ns: int = 0
    memory_bytes: int = 0
    outbox_bytes: int = 0


class Load(NamedTuple):
    """What was measured as a share of its limit; 0.0 where there is no limit."""

    lag: float = 0.0
    memory: float = 0.0
    outbox: float = 0.0

    @property
    def cause(self) -> str:
        """The name of the greatest."""
        return max(self._fields, key=lambda name: float(getattr(self, name)))


class Change(NamedTuple):
    """A step was taken, up or back."""

    before: Step
    step: Step
    load: Load


class Pressure:
    """The steps as a state machine: one step at a time, each held for a while, back in reverse.

    It goes up while any measure is at its limit or over, and back once all are below ``leave_share`` of
    theirs; in between it stays where it is, so that what a step brings does not end that step at once.

    Args:
        policy: See ``PressurePolicy``.

    Attributes:
        step: The one that is on.
        load: As last observed.
    """

    __slots__ = ("_calm_since_ns", "_policy", "_strained_since_ns", "load", "step")

    def __init__(self, policy: PressurePolicy) -> None:
        self._policy = policy
        self._strained_since_ns: int | None = None
        self._calm_since_ns: int | None = None
        self.step = Step.NONE
        self.load = Load()

    def observe(self, reading: Reading, now_ns: int) -> Change | None:
        """Take a reading; returns the change it makes, if any.

        Args:
            reading: What was measured now.
            now_ns: The time, of a clock that does not go back.
        """
        policy = self._policy
        self.load = Load(
            share(reading.lag_ns, policy.lag_ns),
            share(reading.memory_bytes, policy.memory_bytes),
            share(reading.outbox_bytes, policy.outbox_bytes),
        )
        greatest = max(self.load)
        if greatest >= 1.0:
            return self._strained(now_ns)
        self._strained_since_ns = None
        if greatest < policy.leave_share:
            return self._calm(now_ns)
        self._calm_since_ns = None
        return None

    def _strained(self, now_ns: int) -> Change | None:
        self._calm_since_ns = None
        if self._strained_since_ns is None:
            self._strained_since_ns = now_ns
        if self.step == max(Step) or now_ns - self._strained_since_ns < self._policy.rise_ns:
            return None
        self._strained_since_ns = now_ns
        return self._move(Step(self.step + 1))

    def _calm(self, now_ns: int) -> Change | None:
        if self._calm_since_ns is None:
            self._calm_since_ns = now_ns
        if self.step == Step.NONE or now_ns - self._calm_since_ns < self._policy.fall_ns:
            return None
        self._calm_since_ns = now_ns
        return self._move(Step(self.step - 1))

    def _move(self, step: Step) -> Change:
        before, self.step = self.step, step
        return Change(before, step, self.load)


def share(value: int, limit: int) -> float:
    """Return a measure as a share of its limit; without a limit it never matters."""
    return value / limit if limit > 0 else 0.0
