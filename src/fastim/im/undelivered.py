"""What is stored and did not reach a member in time: told by the window, not by the message."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from fastim.errors import StoreError
from fastim.im.domain import NS_PER_MS, Domain
from fastim.im.session import SessionState
from fastim.im.user import User
from fastim.store.base import MemberRecord

__all__ = ["MAX_USERS", "Undelivered"]

MAX_USERS: Final = 500  # members looked at together, and named in one event at most
WINDOW_NS: Final = 1_000 * NS_PER_MS  # messages that are stored within it are looked at together
MAX_PENDING: Final = 100_000  # conversations that wait to be looked at, over all windows


class _Span:
    """Messages of a conversation in a window, from ``first`` to ``last``; ``time`` is the last one's."""

    __slots__ = ("conversation_id", "first", "last", "time")

    def __init__(self, conversation_id: str, seq: int, time: int) -> None:
        self.conversation_id = conversation_id
        self.first = self.last = seq
        self.time = time


class _Window:
    """What was stored in a window, by conversation key."""

    __slots__ = ("due_ns", "end_ns", "spans")

    def __init__(self, end_ns: int, due_ns: int) -> None:
        self.end_ns = end_ns
        self.due_ns = due_ns
        self.spans: dict[int, _Span] = {}


class Undelivered:
    """Looks after a while at who has not got what was stored.

    A message counts as delivered to a member once one of the devices has acknowledged it, the member has read
    it, or a live connection that does not acknowledge has taken it. The work is a look at the members for
    each conversation and window, however many messages that had.

    Args:
        domain: The shared state.

    Attributes:
        on_event: Called with each event, a dict of plain values; see ``docs/parts/delivery.md``.
        event_count, dropped_count: Events told; conversations that were not looked at since too many waited.
    """

    __slots__ = ("_domain", "_pending", "_running", "_windows", "dropped_count", "event_count", "on_event")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._windows: deque[_Window] = deque()
        self._pending = 0
        self._running = False
        self.on_event: Callable[[Mapping[str, Any]], None] | None = None
        self.event_count = 0
        self.dropped_count = 0

    def stored(self, key: int, conversation_id: str, seq: int, time: int) -> None:
        """A message was stored and, where its conversation is loaded, published."""
        if self.on_event is None:
            return
        now_ns = self._domain.clock_ns()
        window = self._windows[-1] if self._windows else None
        if window is None or window.end_ns <= now_ns:
            window = _Window(
                now_ns + WINDOW_NS,
                now_ns + WINDOW_NS + self._domain.options.undelivered_after_ms * NS_PER_MS,
            )
            self._windows.append(window)
        span = window.spans.get(key)
        if span is not None:
            span.last, span.time = seq, time
        elif self._pending < MAX_PENDING:
            self._pending += 1
            window.spans[key] = _Span(conversation_id, seq, time)
        else:
            self.dropped_count += 1

    def stats(self) -> dict[str, int]:
        return {
            "undelivered_pending": self._pending,
            "undelivered_events_total": self.event_count,
            "undelivered_dropped_total": self.dropped_count,
        }

    def tick(self, now_ns: int) -> None:
        """Look at the windows that are due, one after the other."""
        if self._windows and not self._running and self._windows[0].due_ns <= now_ns:
            self._running = True
            self._domain.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._windows and self._windows[0].due_ns <= self._domain.clock_ns():
                window = self._windows.popleft()
                self._pending -= len(window.spans)
                for key, span in window.spans.items():
                    await self._look(key, span)
        finally:
            self._running = False

    async def _look(self, key: int, span: _Span) -> None:
        """Tell of the members of one conversation that lack something, a page of them at a time."""
        after = ""
        while True:
            try:
                records = await self._domain.store.member_records(key, MAX_USERS, after)
            except StoreError:
                self.dropped_count += 1  # the store tells operators; who lacks what is not known
                return
            lacking = [
                {"user": record.user, "have": have}
                for record in records
                if (have := self._have(record, span)) < span.last
            ]
            if lacking and self.on_event is not None:
                self.event_count += 1
                self.on_event(self._event(span, lacking))
            if len(records) < MAX_USERS:
                return
            after = records[-1].user

    def _event(self, span: _Span, lacking: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "event": "undelivered",
            "id": secrets.token_hex(8),
            "conversation": span.conversation_id,
            "first_seq": span.first,
            "last_seq": span.last,
            "stored": span.time,
            "time": self._domain.time_ms(),
            "users": lacking,
        }

    def _have(self, record: MemberRecord, span: _Span) -> int:
        """Up to which seq a member has got everything, as far as is known."""
        user = self._domain.users.get(record.user)
        membership = user.membership(span.conversation_id) if user is not None else None
        if user is None or membership is None:
            return max(record.delivered, record.read)
        if self._reached(user):
            return span.last
        return max(record.delivered, record.read, membership.delivered, membership.read)

    def _reached(self, user: User) -> bool:
        """Whether a live connection that does not acknowledge takes what it is sent.

        What waits for the next flush says nothing: a busy room always has some.
        """
        hub = self._domain.hub
        return any(
            session.state == SessionState.LIVE
            and not session.acks
            and session.replay is None
            and not hub.is_behind(session.handle)
            for session in user.sessions
        )
