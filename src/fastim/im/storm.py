"""Storm control: how fast messages may come, and in what order those wait that come faster.

A message needs a token of its user (messages, and bytes), of its conversation and of the server. Where one is
missing it waits, first in its user's line and then in its conversation's. Lines are strictly first in, first
out, and who comes while others of the same line wait stands behind them, so a sender's messages keep their
order and nothing is overtaken. Between the conversations that wait for the server's tokens the turn goes
round: deficit round robin (Shreedhar and Varghese, *Efficient Fair Queuing using Deficit Round Robin*, 1995),
in bytes, so that a conversation's share depends neither on how much it has queued nor on how large its
messages are.

Nothing that was let in is dropped: a message that would wait too long, or for which there is no room, is
refused, and its sender knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

from fastim._core.limits import TokenBucket, TokenBuckets
from fastim.errors import LimitExceeded, RequestError
from fastim.im.domain import NS_PER_MS, unavailable
from fastim.im.options import StormOptions
from fastim.store.base import Append

__all__ = ["MESSAGE_BYTES", "StormControl"]

MINUTE_NS: Final = 60_000_000_000
NS_PER_S: Final = 1_000_000_000
MESSAGE_BYTES: Final = 512  # what a waiting message is counted for beside its content
MIN_RETRY_NS: Final = 100 * NS_PER_MS  # where the queue is full: nobody knows when there is room
SERVERS_TURN: Final = -1  # the conversation may, the server has no token


class _Rate:
    """How many messages a user may send, from connections of one tier."""

    __slots__ = ("ns", "tokens")

    def __init__(self, per_minute: int) -> None:
        self.tokens = TokenBuckets(per_minute, per_minute, MINUTE_NS)
        self.ns = MINUTE_NS // per_minute if per_minute else 0  # for one


class _Waiting:
    """A message that waits; ``append`` is None once it does no more, and whoever lists it passes it over."""

    __slots__ = ("append", "bytes", "conversation", "deadline_ns", "line", "rate", "user")

    def __init__(
        self, append: Append, user: str, rate: _Rate | None, conversation: str, deadline_ns: int
    ) -> None:
        self.append: Append | None = append
        self.user = user
        self.rate = rate  # of its user
        self.conversation = conversation
        self.deadline_ns = deadline_ns
        self.bytes = len(append.content) + MESSAGE_BYTES
        self.line: _Line

    def take(self) -> Append:
        """Return the message, which waits no more."""
        append, self.append = self.append, None
        assert append is not None
        return append


class _Line:
    """The messages of a user, or of a conversation, that wait, the first in front.

    A line that has become empty is forgotten; whoever still lists it passes over it.
    """

    __slots__ = ("bytes", "count", "deficit", "due_ns", "home", "key", "messages")

    def __init__(self, key: str, home: dict[str, _Line], due_ns: int) -> None:
        self.key = key
        self.home = home  # the lines of all users, or of all conversations
        self.messages: deque[_Waiting] = deque()
        self.count = 0  # of those in it that still wait
        self.bytes = 0
        self.deficit = 0  # bytes that it may still send in its turn
        self.due_ns = due_ns  # when its first message has its own tokens
        home[key] = self

    def first(self) -> _Waiting:
        messages = self.messages
        while messages[0].append is None:
            messages.popleft()
        return messages[0]

    def enter(self, waiting: _Waiting) -> None:
        self.messages.append(waiting)
        self.count += 1
        self.bytes += waiting.bytes
        waiting.line = self

    def leave(self, waiting: _Waiting) -> None:
        self.count -= 1
        self.bytes -= waiting.bytes
        if not self.count:
            del self.home[self.key]


class StormControl:
    """Lets messages through at the rates of the options; see the module.

    **Thread**: the loop's. **Time**: injected; ``serve`` moves what is due.
    **Cost**: a message that need not wait is three operations on token buckets; one that waits is O(log n) in
    the lines that wait for their own tokens.

    Args:
        options: See there.
        submit: Called with each message that has waited, when its turn has come.
        refuse: Called with each message that has waited for nothing, and why.
        is_blocked: Whether ``submit`` is unwelcome for now: nothing that waits is moved.
        clock_ns: Monotonic time.
    """

    __slots__ = (
        "_burst_bytes",
        "_bytes",
        "_clock_ns",
        "_conversation_ns",
        "_conversation_tokens",
        "_conversations",
        "_deadlines",
        "_fattest",
        "_is_blocked",
        "_number",
        "_options",
        "_rate",
        "_rates",
        "_refuse",
        "_resting",
        "_ring",
        "_server_ns",
        "_server_tokens",
        "_submit",
        "_user_bytes",
        "_users",
        "_wait_ns",
        "counts",
        "waiting_count",
    )

    def __init__(
        self,
        options: StormOptions,
        submit: Callable[[Append], None],
        refuse: Callable[[Append, RequestError], None],
        is_blocked: Callable[[], bool],
        clock_ns: Callable[[], int],
    ) -> None:
        o = self._options = options
        self._submit = submit
        self._refuse = refuse
        self._is_blocked = is_blocked
        self._clock_ns = clock_ns
        self._burst_bytes = o.user_burst_bytes
        self._wait_ns = o.wait_ms * NS_PER_MS
        self._rate = _Rate(o.user_per_minute) if o.user_per_minute else None
        self._rates = {
            tier: _Rate(per_minute) if per_minute else None
            for tier, per_minute in o.tier_per_minute.items()
            if per_minute != o.user_per_minute
        }
        self._user_bytes = (
            TokenBuckets(o.user_bytes_per_s, o.user_burst_bytes) if o.user_bytes_per_s else None
        )
        self._conversation_tokens = (
            TokenBuckets(o.conversation_per_s, o.conversation_burst) if o.conversation_per_s else None
        )
        self._server_tokens = TokenBucket(o.server_per_s, o.server_burst) if o.server_per_s else None
        self._conversation_ns = NS_PER_S // o.conversation_per_s if o.conversation_per_s else 0
        self._server_ns = NS_PER_S // o.server_per_s if o.server_per_s else 0
        self._users: dict[str, _Line] = {}
        self._conversations: dict[str, _Line] = {}
        self._resting: list[tuple[int, int, _Line]] = []  # a heap: when the first has its own tokens
        self._ring: deque[_Line] = (
            deque()
        )  # conversations that wait for the server's tokens, the next in front
        self._deadlines: deque[_Waiting] = (
            deque()
        )  # in the order of their coming, which is that of their ends
        self._fattest: _Line | None = None  # the conversation with the most bytes, as far as we have seen
        self._number = 0  # breaks ties in the heap
        self._bytes = 0
        self.waiting_count = 0
        self.counts = dict.fromkeys(
            (
                "waited_total",
                "refused_user_total",
                "refused_conversation_total",
                "refused_server_total",
                "expired_total",
                "evicted_total",
            ),
            0,
        )

    def stats(self) -> dict[str, int]:
        """Counters and gauges for the metrics."""
        return {
            "waiting": self.waiting_count,
            "waiting_bytes": self._bytes,
            "waiting_users": len(self._users),
            "waiting_conversations": len(self._conversations),
            **self.counts,
        }

    # -- messages come

    def admits(self, append: Append, user: str, tier: str, conversation: str) -> bool:
        """Tell whether a message may be stored now. If not it waits, until ``submit`` or ``refuse``.

        Args:
            append: The message.
            user: Its sender, whose limits apply; empty: none do (a service, the system).
            tier: Of the connection it comes from.
            conversation: Its conversation's id.

        Raises:
            LimitExceeded: It would surely wait too long, or there is no room. It does not count.
        """
        now_ns = self._clock_ns()
        rate = self._rates.get(tier, self._rate) if self._rates else self._rate
        if self.waiting_count:
            self.serve(now_ns)
            overtakes = bool(self._ring) or user in self._users or conversation in self._conversations
        else:
            overtakes = False
        if not overtakes and user:
            # The hot path: nobody waits that this one could overtake. It does what ``_passes`` does, without
            # the calls (benchmarks/test_storm.py).
            octets, tokens, server = self._user_bytes, self._conversation_tokens, self._server_tokens
            if rate is None or not rate.tokens.take(user, 1, now_ns):
                size = len(append.content)
                if size > self._burst_bytes:
                    size = self._burst_bytes
                if octets is None or not octets.take(user, size, now_ns):
                    if tokens is None or not tokens.take(conversation, 1, now_ns):
                        if server is None or not server.take(1, now_ns):
                            return True
                        if tokens is not None:
                            tokens.refund(conversation, 1, now_ns)
                    self._refund_user(user, rate, size, now_ns)
                elif rate is not None:
                    rate.tokens.refund(user, 1, now_ns)
        waiting = _Waiting(append, user, rate, conversation, now_ns + self._wait_ns)
        if self._passes(waiting, now_ns):
            return True
        self._deadlines.append(waiting)
        self.counts["waited_total"] += 1
        return False

    def _passes(self, waiting: _Waiting, now_ns: int) -> bool:
        """Take a newcomer through its user's tokens; False if it waits."""
        user = waiting.user
        line = self._users.get(user)
        if line is None:
            content_bytes = waiting.bytes - MESSAGE_BYTES
            wait_ns = self._take_user(user, waiting.rate, content_bytes, now_ns) if user else 0
            if not wait_ns:
                return self._passes_conversation(waiting, now_ns)
        else:
            wait_ns = self._least_user_wait_ns(line, waiting, now_ns)
        too_much = line is not None and line.bytes + waiting.bytes > self._options.line_bytes
        if wait_ns > self._wait_ns or too_much:
            self.counts["refused_user_total"] += 1
            raise limit_exceeded("this user sends too much", wait_ns)
        self._make_room(waiting, line)
        if line is None:
            line = _Line(user, self._users, now_ns + wait_ns)
            self._rest(line)
        self._enter(line, waiting)
        return False

    def _passes_conversation(self, waiting: _Waiting, now_ns: int) -> bool:
        """Take a message that has its user's tokens through its conversation's and the server's.

        Raises:
            LimitExceeded: Its user has the tokens back.
        """
        conversation = waiting.conversation
        line = self._conversations.get(conversation)
        wait_ns = 0
        if line is None:
            if self._ring or self._is_blocked():
                wait_ns = SERVERS_TURN
            elif not (wait_ns := self._take_turn(conversation, now_ns)):
                return True
        try:
            self._check_conversation(waiting, line, wait_ns, now_ns)
        except LimitExceeded:
            if waiting.user:
                self._refund_user(waiting.user, waiting.rate, waiting.bytes - MESSAGE_BYTES, now_ns)
            raise
        if line is None:
            line = _Line(conversation, self._conversations, now_ns + max(0, wait_ns))
            line.deficit = self._options.quantum_bytes
            if wait_ns > 0:
                self._rest(line)
            else:
                self._ring.append(line)
        self._enter(line, waiting)
        if self._fattest is None or line.bytes > self._fattest.bytes:
            self._fattest = line
        return False

    def _check_conversation(self, waiting: _Waiting, line: _Line | None, wait_ns: int, now_ns: int) -> None:
        """Refuse what would surely wait too long, and what there is no room for."""
        if line is not None:
            wait_ns = self._least_wait_ns(line, now_ns)
        if now_ns + wait_ns > waiting.deadline_ns or waiting.deadline_ns <= now_ns:
            if wait_ns == SERVERS_TURN:
                self.counts["refused_server_total"] += 1
                raise limit_exceeded("too much is sent to this server", self._full_retry_ns())
            self.counts["refused_conversation_total"] += 1
            raise limit_exceeded("too much is sent to this conversation", max(wait_ns, MIN_RETRY_NS))
        if line is not None and line.bytes + waiting.bytes > self._options.line_bytes:
            self.counts["refused_conversation_total"] += 1
            raise limit_exceeded("too much waits in this conversation", max(wait_ns, MIN_RETRY_NS))
        self._make_room(waiting, line)

    def _least_user_wait_ns(self, line: _Line, waiting: _Waiting, now_ns: int) -> int:
        """How long one who joins a user's line waits at least."""
        wait_ns = max(0, line.due_ns - now_ns)
        rate = waiting.rate
        if rate is not None:  # as if all of the line came from connections of this tier
            missing = line.count - rate.tokens.available(line.key, now_ns)
            wait_ns += max(0, missing) * rate.ns
        if self._user_bytes is not None:
            ahead_bytes = line.bytes - line.count * MESSAGE_BYTES
            content_bytes = min(waiting.bytes - MESSAGE_BYTES, self._burst_bytes)
            missing = ahead_bytes + content_bytes - self._user_bytes.available(line.key, now_ns)
            wait_ns = max(wait_ns, missing * NS_PER_S // self._options.user_bytes_per_s)
        return wait_ns

    def _least_wait_ns(self, line: _Line, now_ns: int) -> int:
        """How long one who joins a conversation's line waits at least, as if there were no other."""
        own_ns = max(0, line.due_ns - now_ns)
        if self._conversation_tokens is not None:
            missing = line.count - self._conversation_tokens.available(line.key, now_ns)
            own_ns += max(0, missing) * self._conversation_ns
        return max(own_ns, line.count * self._server_ns)

    def _make_room(self, waiting: _Waiting, line: _Line | None) -> None:
        """Keep the bound on all that waits: the newest of the largest line gives way to others."""
        over_bytes = self._bytes + waiting.bytes - self._options.queue_bytes
        if over_bytes <= 0:
            return
        fattest = self._fattest
        own_bytes = waiting.bytes + (line.bytes if line is not None else 0)
        if fattest is None or fattest is line or fattest.bytes - over_bytes < own_bytes:
            self.counts["refused_server_total"] += 1
            raise limit_exceeded("too much waits", self._full_retry_ns())
        while self._bytes + waiting.bytes > self._options.queue_bytes:
            last = fattest.messages.pop()
            if last.append is not None:
                self.counts["evicted_total"] += 1
                self._refuse_waiting(last, limit_exceeded("too much waits", self._full_retry_ns()))

    def _full_retry_ns(self) -> int:
        return max(self.waiting_count * self._server_ns, MIN_RETRY_NS)

    # -- tokens

    def _take_user(self, user: str, rate: _Rate | None, content_bytes: int, now_ns: int) -> int:
        """Take a user's tokens and return 0, or none and return the nanoseconds to wait at least."""
        octets = self._user_bytes
        if rate is not None and (wait_ns := rate.tokens.take(user, 1, now_ns)):
            return wait_ns
        if octets is not None:
            if content_bytes > self._burst_bytes:
                content_bytes = self._burst_bytes
            if wait_ns := octets.take(user, content_bytes, now_ns):
                if rate is not None:
                    rate.tokens.refund(user, 1, now_ns)
                return wait_ns
        return 0

    def _refund_user(self, user: str, rate: _Rate | None, content_bytes: int, now_ns: int) -> None:
        if rate is not None:
            rate.tokens.refund(user, 1, now_ns)
        if self._user_bytes is not None:
            self._user_bytes.refund(user, min(content_bytes, self._burst_bytes), now_ns)

    def _take_turn(self, conversation: str, now_ns: int) -> int:
        """Take the conversation's and the server's token and return 0, or none and return the nanoseconds
        that the conversation has to wait, or SERVERS_TURN.
        """
        tokens = self._conversation_tokens
        if tokens is not None and (wait_ns := tokens.take(conversation, 1, now_ns)):
            return wait_ns
        if self._server_tokens is not None and self._server_tokens.take(1, now_ns):
            if tokens is not None:
                tokens.refund(conversation, 1, now_ns)
            return SERVERS_TURN
        return 0

    # -- lines

    def _rest(self, line: _Line) -> None:
        self._number += 1
        heappush(self._resting, (line.due_ns, self._number, line))

    def _enter(self, line: _Line, waiting: _Waiting) -> None:
        line.enter(waiting)
        self.waiting_count += 1
        self._bytes += waiting.bytes

    def _leave(self, waiting: _Waiting) -> None:
        waiting.line.leave(waiting)
        self.waiting_count -= 1
        self._bytes -= waiting.bytes

    def _release(self, waiting: _Waiting) -> None:
        self._submit(waiting.take())

    def _refuse_waiting(self, waiting: _Waiting, error: RequestError) -> None:
        self._leave(waiting)
        self._refuse(waiting.take(), error)

    # -- messages go

    def serve(self, now_ns: int) -> None:
        """Move on what has its tokens, then refuse what has waited too long.

        Called by the tick, and by whatever else comes along while messages wait: a bucket holds no more than
        its burst, so its rate is reached only if somebody looks at it often enough.
        """
        resting = self._resting
        while resting and resting[0][0] <= now_ns:
            line = heappop(resting)[2]
            if line.count:
                if line.home is self._users:
                    self._serve_user(line, now_ns)
                else:
                    self._ring.append(line)
        if self._ring:
            self._serve_ring(now_ns)
        deadlines = self._deadlines
        while deadlines and (deadlines[0].append is None or deadlines[0].deadline_ns <= now_ns):
            waiting = deadlines.popleft()
            if waiting.append is not None:
                self.counts["expired_total"] += 1
                self._refuse_waiting(waiting, self._expired(waiting.line, now_ns))

    def _expired(self, line: _Line, now_ns: int) -> RequestError:
        if self._is_blocked():
            return unavailable()
        retry_ns = MIN_RETRY_NS
        if line.home is self._conversations:
            retry_ns = max(retry_ns, self._least_wait_ns(line, now_ns))
        return limit_exceeded("waited too long for its turn", retry_ns)

    def _serve_user(self, line: _Line, now_ns: int) -> None:
        while line.count:
            waiting = line.first()
            content_bytes = waiting.bytes - MESSAGE_BYTES
            if wait_ns := self._take_user(waiting.user, waiting.rate, content_bytes, now_ns):
                line.due_ns = now_ns + wait_ns
                self._rest(line)
                return
            line.messages.popleft()
            self._leave(waiting)
            try:
                passes = self._passes_conversation(waiting, now_ns)
            except LimitExceeded as error:
                self._refuse(waiting.take(), error)
            else:
                if passes:
                    self._release(waiting)

    def _serve_ring(self, now_ns: int) -> None:
        """Deficit round robin: who is in front sends what it may, is given more and goes to the end."""
        ring, quantum = self._ring, self._options.quantum_bytes
        while ring and not self._is_blocked():
            line = ring[0]
            if not line.count:
                ring.popleft()
                continue
            waiting = line.first()
            if line.deficit < waiting.bytes:
                line.deficit += quantum
                ring.rotate(-1)
                continue
            wait_ns = self._take_turn(line.key, now_ns)
            if wait_ns == SERVERS_TURN:
                return
            if wait_ns:
                ring.popleft()
                line.deficit = quantum
                line.due_ns = now_ns + wait_ns
                self._rest(line)
                continue
            line.deficit -= waiting.bytes
            line.messages.popleft()
            self._leave(waiting)
            self._release(waiting)

    def drain(self) -> None:
        """Submit all that waits, without tokens: the server ends, and what it took it keeps."""
        for lines in (self._conversations, self._users):
            for line in list(lines.values()):
                for waiting in list(line.messages):
                    if waiting.append is not None:
                        self._leave(waiting)
                        self._release(waiting)
        self._deadlines.clear()
        self._resting.clear()
        self._ring.clear()


def limit_exceeded(reason: str, wait_ns: int) -> LimitExceeded:
    return LimitExceeded(reason, max(1, -(-wait_ns // NS_PER_MS)))
