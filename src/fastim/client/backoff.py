"""When to come back: exponential backoff with full jitter."""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["Backoff"]


class Backoff:
    """The pauses between attempts to connect.

    Full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015): each pause is drawn evenly from zero
    to a ceiling that doubles, so clients that were dropped together do not come back together.

    Args:
        base_s: Ceiling of the first pause in seconds.
        cap_s: Ceiling of all pauses in seconds.
        draw: Draws a number between its two arguments; the tests' own instead of chance.
    """

    def __init__(
        self, base_s: float = 0.5, cap_s: float = 30.0, draw: Callable[[float, float], float] = random.uniform
    ) -> None:
        if not 0 <= base_s <= cap_s:
            raise ValueError("0 <= base_s <= cap_s must hold")
        self.base_s = base_s
        self.cap_s = cap_s
        self._draw = draw
        self._failures = 0

    def reset(self) -> None:
        """Begin again with the first pause: the connection has held."""
        self._failures = 0

    def next_s(self, retry_after_ms: int = 0) -> float:
        """Return the next pause in seconds.

        Args:
            retry_after_ms: What the server asked for; the jitter comes on top. 0: nothing.
        """
        # 2**64 times any base is past every cap; the bound keeps the power from growing for ever.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return max(retry_after_ms, 0) / 1000 + self._draw(0.0, ceiling_s)
