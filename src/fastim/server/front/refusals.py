"""The log of requests that are refused: what who moves a client here stumbles over first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastim.server.front.handshake import Refusal

__all__ = ["RefusalLog"]

log = logging.getLogger("fastim.front")

ORIGINS_EVERY_NS: Final = 60_000_000_000  # anybody can cause these lines
MAX_SHOWN: Final = 200


class RefusalLog:
    """Tells the log of refusals: of each at debug, of an origin's, which is a setting's matter, at info."""

    def __init__(self) -> None:
        self._origins_ns: int | None = None  # when the last line about an origin was written

    def refused(self, refusal: Refusal, address: str) -> None:
        """A request was refused."""
        if log.isEnabledFor(logging.DEBUG):
            log.debug("refused a request of %s: %d %s", address, refusal.status, refusal.detail)

    def origin_refused(self, origin: bytes, now_ns: int) -> None:
        """A page of another origin was refused; told at most once a minute."""
        if self._origins_ns is not None and now_ns - self._origins_ns < ORIGINS_EVERY_NS:
            return
        self._origins_ns = now_ns
        shown = origin[:MAX_SHOWN].decode("latin-1")
        log.info("refused a page of the origin %r, which server.allowed_origins does not name", shown)
