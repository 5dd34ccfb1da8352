"""The journal: what the domain tells whoever keeps events for clients that come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from fastim.im.session import Session

__all__ = ["Journal"]


class Journal(Protocol):
    """Gives each event its offset, by which a client says later up to where it has got everything.

    Messages are not kept here: the domain finds them again by their keys. Changes of a conversation neither:
    whoever missed some is told how it is now.
    """

    def message_offset(self, key: int) -> bytes:
        """The offset of a message that is about to be published."""

    def keep_for(self, user: str, event: str, body: Mapping[str, Any], exclude: Session | None) -> bytes:
        """Keep an event that is about to be sent to a user's connections but one; returns its offset."""

    def change(self) -> tuple[int, bytes]:
        """Count a change that is about to be published; returns its number and its offset."""

    def is_waiting(self, session: Session) -> bool:
        """Whether a session gets what is sent now in its turn, behind what it has missed before."""
