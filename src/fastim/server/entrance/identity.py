"""Who a client is, as an application says that knows its users by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from fastim.guard.tokens import Claims, DeviceClass, Tier, name_fault, scope_fault

__all__ = ["NEVER", "Identity"]

NEVER: Final = (1 << 53) - 1  # seconds since the epoch: of who does not expire


@dataclass(frozen=True, slots=True)
class Identity:
    """A user, and what else a token would say.

    Attributes:
        user: The user's id: 1 to 128 bytes of UTF-8 without control characters.
        device: The device's name, by the same rules; None: the client chooses.
        device_class: ``desktop``, ``mobile`` or ``web``; None: not known.
        tier: ``critical``, ``standard`` or ``degraded``.
        scope: Names of what the client may do besides.
        expires: When the connection ends unless it is refreshed, seconds since the epoch; None: never.

    Raises:
        ValueError: One of them breaks these rules.
    """

    user: str
    device: str | None = None
    device_class: str | None = None
    tier: str = Tier.STANDARD
    scope: Iterable[str] = ()
    expires: float | None = None

    def __post_init__(self) -> None:
        for fault in (
            name_fault("user", self.user),
            self.device is not None and name_fault("device", self.device),
            scope_fault(list(self.scope)),
            self.expires is not None and not 0 < self.expires <= NEVER and "expires is out of range",
        ):
            if fault:
                raise ValueError(fault)
        Tier(self.tier)
        if self.device_class is not None:
            DeviceClass(self.device_class)

    def claims(self) -> Claims:
        """Return it as a verified token says it."""
        return Claims(
            self.user,
            self.device,
            None if self.device_class is None else DeviceClass(self.device_class),
            Tier(self.tier),
            frozenset(self.scope),
            NEVER if self.expires is None else int(self.expires),
            None,
        )
