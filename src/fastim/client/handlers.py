"""Answers to what the server asks."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fastim.client.codec import Codec
from fastim.errors import ErrorCode, RequestError

__all__ = ["Handler", "Handlers"]

log = logging.getLogger("fastim.client")

Handler = Callable[[Any], Any]
AT_ONCE = 64  # requests in work; the server is told "unavailable" beyond


class Handlers:
    """The application's handlers, and the tasks they run in.

    Args:
        write: Writes an encoded packet; returns False if there is no connection.
        codec: The connection's encoding.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[bool]], codec: Codec) -> None:
        self._write = write
        self._codec = codec
        self._handlers: dict[str | int, Handler] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, event: str | int) -> Callable[[Handler], Handler]:
        def decorate(handler: Handler) -> Handler:
            self._handlers[event] = handler
            return handler

        return decorate

    def request(self, event: str | int, body: Any, ref: int) -> None:
        """Start the answer to a request."""
        self.spawn(self._answer(event, body, ref, busy=len(self._tasks) >= AT_ONCE))

    async def _answer(self, event: str | int, body: Any, ref: int, *, busy: bool) -> None:
        try:
            if busy:
                raise RequestError(ErrorCode.UNAVAILABLE, f"{AT_ONCE} requests are in work")
            packet = self._codec.encode("ok", await self._run(event, body), ref)
        except RequestError as error:
            packet = self._codec.encode("error", {"code": str(error.code), "message": error.message}, ref)
        except Exception:
            log.exception("the handler of %s failed", event)
            packet = self._codec.encode("error", {"code": "internal", "message": "the handler failed"}, ref)
        await self._write(packet)

    async def _run(self, event: str | int, body: Any) -> Any:
        handler = self._handlers.get(event)
        if handler is None:
            raise RequestError(ErrorCode.UNKNOWN_EVENT, f"no handler for {event}")
        answer = handler(body)
        return await answer if inspect.isawaitable(answer) else answer

    def spawn(self, job: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
