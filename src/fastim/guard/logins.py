"""The login policy: how many logins a user may have at a time."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["LoginPolicy"]


class LoginPolicy(StrEnum):
    """How many logins a user may have; the latest stays."""

    ANY = "any"
    DEVICE_CLASS = "device_class"  # one for each class of device
    USER = "user"  # one in all

    def excludes(self, device_class: str, other_class: str) -> bool:
        """Whether logins of these two classes cannot both stay; "" is a class too."""
        if self is LoginPolicy.ANY:
            return False
        return self is LoginPolicy.USER or device_class == other_class
