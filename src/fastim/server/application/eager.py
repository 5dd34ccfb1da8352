"""Coroutines that are run at once as far as they go; only one that waits costs a task."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

__all__ = ["step"]


class _Rest:
    """What is left of a coroutine whose first step has yielded: awaiting this runs it to its end."""

    __slots__ = ("_coroutine", "_yielded")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], yielded: Any) -> None:
        self._coroutine = coroutine
        self._yielded = yielded

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, yielded = self._coroutine, self._yielded
        self._yielded = None
        advance: Callable[[Any], Any]
        while True:
            try:
                sent = yield yielded
            except GeneratorExit:
                coroutine.close()
                raise
            except BaseException as error:
                advance, argument = coroutine.throw, error
            else:
                advance, argument = coroutine.send, sent
            # An exception's traceback leads to this frame: what led back would be a circle.
            yielded = None
            try:
                yielded = advance(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                del argument


async def _finish(coroutine: Coroutine[Any, Any, Any], yielded: Any) -> Any:
    return await _Rest(coroutine, yielded)


def step(coroutine: Coroutine[Any, Any, None], spawn: Callable[[Coroutine[Any, Any, None]], object]) -> bool:
    """Run a coroutine of ours until it first waits; the rest in a task.

    For coroutines that do not ask which task they run in: there is none in the first step.

    Args:
        coroutine: Handles its own exceptions.
        spawn: Makes the task.

    Returns:
        True if it came to its end at once.
    """
    try:
        yielded = coroutine.send(None)
    except StopIteration:
        return True
    spawn(_finish(coroutine, yielded))
    return False
