"""Calls of an application's handlers for what happens on no connection: in order, one after the other."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from fastim.server.application.handlers import Handler

__all__ = ["Hook"]

log = logging.getLogger("fastim.app")

MAX_WAITING: Final = 1_000  # events; handlers that are slower for long lose the newest


class Hook:
    """The handlers of one kind of event.

    A handler that is slow, or raises, holds up nobody but itself and the events behind.

    Args:
        name: Of the decorator, for the log.
        handlers: Plain and async ones.
        spawn: Runs a coroutine in a task.
    """

    def __init__(
        self,
        name: str,
        handlers: Sequence[Handler],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._name = name
        self._handlers = handlers
        self._spawn = spawn
        self._waiting: deque[Mapping[str, Any]] = deque()
        self._running = False
        self.dropped_count = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Have the handlers called with an event."""
        if len(self._waiting) >= MAX_WAITING:
            if not self.dropped_count:
                log.warning("handlers of %s are too slow; events are dropped", self._name)
            self.dropped_count += 1
            return
        self._waiting.append(event)
        if not self._running:
            self._running = True
            self._spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                event = self._waiting.popleft()
                for handler in self._handlers:
                    try:
                        result = handler.call(event)
                        if handler.is_async:
                            await result
                    except Exception:
                        log.exception("a handler of %s failed", self._name)
        finally:
            self._running = False
