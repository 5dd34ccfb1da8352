"""Notices: the ``system`` event, a text of the operator's to everybody, to a user or to a conversation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from fastim.server.connection import Phase

if TYPE_CHECKING:
    from fastim.im.session import Session
    from fastim.server.service import Service

__all__ = ["LEVELS", "MAX_TEXT_BYTES", "Notice", "Notices"]

log = logging.getLogger("fastim.notices")

LEVELS: Final = ("info", "warning")
MAX_TEXT_BYTES: Final = 4_096


class Notice(NamedTuple):
    """A text, and whom it is for: a user, the members of a conversation, or, with neither, everybody."""

    text: str
    level: str = "info"
    user: str | None = None
    conversation: str | None = None

    def check(self) -> None:
        """Refuse what clients could not be told.

        Raises:
            ValueError: The text is empty, too long or none; the level is unknown; it is for both a user and a
                conversation.
        """
        try:
            size = len(self.text.encode())
        except UnicodeEncodeError:
            raise ValueError("text: it holds a lone surrogate") from None
        if not 0 < size <= MAX_TEXT_BYTES:
            raise ValueError(f"text: it has {size} bytes; 1 to {MAX_TEXT_BYTES} are allowed")
        if self.level not in LEVELS:
            raise ValueError(f"level: one of {', '.join(LEVELS)}, not {self.level!r}")
        if self.user is not None and self.conversation is not None:
            raise ValueError("conversation: not together with user")


class Notices:
    """Sends notices to those who are connected; they are not stored.

    **Thread**: the loop's.

    Args:
        service: Whose connections they go to.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def send(self, notice: Notice) -> int:
        """Send a checked notice; returns how many connections it went to.

        Raises:
            RequestError: ``forbidden``: there is no such conversation.
            StoreError: The conversation could not be looked up.
        """
        messaging = self._service.messaging
        assert messaging is not None
        sessions: Iterable[Session]
        if notice.user is not None:
            sessions = messaging.sessions_of(notice.user)
        elif notice.conversation is not None:
            sessions = await messaging.sessions_in(notice.conversation)
        else:
            sessions = [c for c in self._service.connections if c.phase in (Phase.STARTING, Phase.READY)]
        body = {"text": notice.text, "level": notice.level, "time": int(self._service.time_s() * 1000)}
        return self._service.runtime.send_to(sessions, "system", body)

    def send_soon(self, notice: Notice) -> None:
        """Send a checked notice for somebody who does not wait for it."""
        self._service.spawn(self._send_logged(notice))

    async def _send_logged(self, notice: Notice) -> None:
        try:
            await self.send(notice)
        except Exception as error:
            log.warning("a notice could not be sent: %s", error)
