"""A server's wish that the client goes on elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastim.client.options import websocket_url

__all__ = ["Move"]


@dataclass(frozen=True, slots=True)
class Move:
    """What ``migrate`` said.

    Attributes:
        url: Where; None: the address that one has.
        token: Taken there in the place of the token, once, and only with ``resume``.
        at_s: When to come, by the loop's clock.
    """

    url: str | None
    token: str
    at_s: float

    @classmethod
    def parse(cls, body: dict[str, Any], now_s: float) -> Move:
        """Read the event's body.

        Raises:
            ValueError: The address cannot be used.
            KeyError: There is no token.
        """
        url = body.get("url")
        pause_s = body.get("retry_after_ms", 0) / 1000
        return cls(websocket_url(url) if url else None, body["token"], now_s + pause_s)
