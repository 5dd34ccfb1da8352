"""What arrives, into the order the application sees: once, in order, without holes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from fastim.client.backoff import Backoff
from fastim.client.errors import ClientError
from fastim.client.events import Event, EventQueue
from fastim.client.tracker import Tracker, Verdict
from fastim.errors import ErrorCode, RequestError

__all__ = ["Acks", "Inbox"]

log = logging.getLogger("fastim.client")

HISTORY_PAGE = 500  # messages; the most that a page may hold
FETCHES_AT_ONCE = 4  # conversations whose history is fetched at a time


class Acks:
    """Acknowledgements that are due, the latest of each conversation."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self.wanted = asyncio.Event()

    def add(self, conversation: str, seq: int) -> None:
        self._due[conversation] = max(seq, self._due.get(conversation, 0))
        self.wanted.set()

    def drain(self) -> Iterator[tuple[str, int]]:
        """Yield and take what is due."""
        self.wanted.clear()
        due, self._due = self._due, {}
        yield from due.items()


class Inbox:
    """The way of messages and events into the queue.

    Args:
        queue: Where the application takes them from.
        history: Fetches a page, as ``Connection.history``.
        fill_gaps: Fetch what a ``gap`` names; False: hand the ``gap`` on and go on behind it.
        auto_ack: Acknowledge what the application has taken.
    """

    def __init__(
        self,
        queue: EventQueue,
        history: Callable[..., Awaitable[dict[str, Any]]],
        *,
        fill_gaps: bool,
        auto_ack: bool = True,
    ) -> None:
        self._queue = queue
        self._history = history
        self._fill_gaps = fill_gaps
        self._auto_ack = auto_ack
        self._tracker = Tracker()
        self._fills: dict[str, asyncio.Task[None]] = {}
        self._fetching = asyncio.Semaphore(FETCHES_AT_ONCE)
        self.acks = Acks()
        self.dropped = 0

    def seen(self) -> dict[str, int]:
        return self._tracker.seen()

    def restart(self) -> None:
        """A new connection: the server sends what comes after ``seen``, nothing needs fetching."""
        for task in self._fills.values():
            task.cancel()
        self._fills.clear()
        self._tracker.restart()

    async def stop(self) -> None:
        tasks = list(self._fills.values())
        self.restart()
        if tasks:
            await asyncio.wait(tasks)

    # -- from the connection

    def message(self, body: dict[str, Any]) -> None:
        """Take a ``new_message``."""
        conversation = body["conversation"]
        verdict = self._tracker.arrived(conversation, body["seq"], room=not self._queue.full)
        if verdict is Verdict.DELIVER:
            self._queue.offer(Event("new_message", body))
        elif verdict is Verdict.FILL:
            self._fill(conversation)

    def own(self, conversation: str, seq: int) -> None:
        """Take note of a message of this connection's own: the application knows it from ``send``."""
        self._tracker.sent(conversation, seq)
        self._acknowledge(conversation, self._tracker.acknowledgeable(conversation))

    def event(self, event: Event) -> None:
        """Take any other event; dropped, and counted, if there is no room."""
        if event.name == "gap" and self._gap(event.body):
            return
        if event.name == "conversation" and event.body.get("change") in ("removed", "deleted"):
            self._tracker.forget(event.body["conversation"]["conversation"])
        if not self._queue.offer(event):
            self.dropped += 1

    def _gap(self, body: dict[str, Any]) -> bool:
        """Return True if the gap will be filled; False if the application is to see it."""
        if not self._fill_gaps:
            self._tracker.skip(body["conversation"], body["last"])
            return False
        if self._tracker.gap(body["conversation"], body["have"], body["last"]):
            self._fill(body["conversation"])
        return True

    # -- to the application

    def taken(self, body: dict[str, Any]) -> None:
        """The application has taken a message: it has arrived."""
        conversation = body["conversation"]
        self._acknowledge(conversation, self._tracker.taken(conversation, body["seq"]))

    def _acknowledge(self, conversation: str, seq: int) -> None:
        if self._auto_ack and seq:
            self.acks.add(conversation, seq)

    # -- from history

    def _fill(self, conversation: str) -> None:
        task = asyncio.create_task(self._fill_from_history(conversation))
        self._fills[conversation] = task
        task.add_done_callback(lambda done: self._fill_done(conversation, done))

    def _fill_done(self, conversation: str, task: asyncio.Task[None]) -> None:
        if self._fills.get(conversation) is task:
            del self._fills[conversation]

    async def _fill_from_history(self, conversation: str) -> None:
        """Deliver from history until it has caught up with what arrives live."""
        pauses = Backoff()
        while (cursor := self._tracker.get(conversation)) is not None:
            await self._queue.wait_for_room()
            wanted = cursor.target
            try:
                async with self._fetching:
                    page = await self._history(conversation, after=cursor.last, limit=HISTORY_PAGE)
            except RequestError as error:
                if error.code in (ErrorCode.FORBIDDEN, ErrorCode.BAD_REQUEST):
                    self._tracker.forget(conversation)
                    return
                log.warning("history of a conversation could not be had: %s", error)
                await asyncio.sleep(pauses.next_s(getattr(error, "retry_after_ms", 0)))
                continue
            except TimeoutError:
                continue
            except ClientError:
                return
            await self._deliver(conversation, page["messages"])
            if not page["messages"]:
                # Not visible to this user. What came live since the question is another matter: ask again.
                self._tracker.skip(conversation, wanted)
            if self._tracker.fill_finished(conversation):
                return

    async def _deliver(self, conversation: str, messages: list[dict[str, Any]]) -> None:
        for body in messages:
            await self._queue.wait_for_room()
            if self._tracker.filled(conversation, body["seq"]):
                self._queue.offer(Event("new_message", body))
