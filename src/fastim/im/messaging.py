"""The facade of the messaging domain: what the service calls, and nothing of sockets or settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from fastim._core.hub import Hub
from fastim.im.session import Session
from fastim.store.base import Store, Write

__all__ = ["DEFERRED", "Builtin", "ImOptions", "Messaging"]

DEFERRED: Final = object()
"""A handler returns this where the answer comes later, through ``Session.answer`` or ``Session.fail``."""


@dataclass(frozen=True, slots=True)
class ImOptions:
    """Plain options of the domain; the service fills them from its settings.

    Attributes:
        dev_login: Anyone may choose the id of a conversation that is created.
        presence_shared_only: Presence is given only of users one shares a conversation with.
        history_from_joining: New members see messages from their joining on only.
        allow_leave: Members may remove themselves.
        max_members: Members of a conversation; 0: no bound.
        offline_grace_ms: How long the last device is gone before its user is offline.
        typing_timeout_ms: When a typing state ends by itself.
        window_ms: Receipts and states of a window go out together.
        session_life_s: How long a session can be resumed after its connection ended.
        max_sessions: Ended sessions remembered for a resume; the oldest go first.
        ring_bytes: Latest encoded messages kept for a conversation.
        ring_total_bytes: The same over all conversations; the longest unused go first.
        replay_messages: Messages replayed for a conversation before a ``gap``.
        replay_chunk_bytes: Replay queues about this much and waits until the connection has drained.
        ack_timeout_ms, ack_retries: When, and how often, an unacknowledged message is sent again.
        pause_writes: With more writes waiting in the store, sessions that send are not read.
        max_writes: With more writes waiting, messages are answered ``unavailable``.
        limit_message: Called for each message; milliseconds until it is welcome, 0: now. None: no limit.
    """

    dev_login: bool = False
    presence_shared_only: bool = True
    history_from_joining: bool = False
    allow_leave: bool = True
    max_members: int = 10_000
    offline_grace_ms: int = 10_000
    typing_timeout_ms: int = 6_000
    window_ms: int = 100
    session_life_s: int = 3_600
    max_sessions: int = 200_000
    ring_bytes: int = 262_144
    ring_total_bytes: int = 67_108_864
    replay_messages: int = 500
    replay_chunk_bytes: int = 131_072
    ack_timeout_ms: int = 2_000
    ack_retries: int = 3
    pause_writes: int = 16_384
    max_writes: int = 65_536
    limit_message: Callable[[Session], int] | None = None


class Builtin(NamedTuple):
    """A built-in event: the struct its body is decoded into, and who serves it.

    ``handler(session, body, ref)`` returns the body of the ``ok``, or ``DEFERRED``, or an awaitable of the body;
    it may raise RequestError or StoreError (→ ``unavailable``), at once or from the awaitable.
    """

    body: type[Any]
    handler: Callable[[Session, Any, int | None], Any | Awaitable[Any]]


class Messaging:
    """Conversations and everything that happens in them.

    **Thread**: the event loop's. **Time**: injected; ``tick`` drives windows, grace times and retries.

    Args:
        hub: Where the connections are.
        store: Opened by the caller with ``on_commit`` of this object.
        options: See ``ImOptions``.
        clock_ns: Monotonic time.
        time_ms: Time since the epoch.
        spawn: Runs a coroutine in the background; called only for store reads.
    """

    builtins: Mapping[str, Builtin]

    def __init__(
        self,
        hub: Hub,
        store: Store,
        options: ImOptions,
        *,
        clock_ns: Callable[[], int],
        time_ms: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None: ...

    # -- life

    async def start(self) -> None:
        """Begin; the store is open."""

    async def stop(self) -> None:
        """Submit what windows hold, wait until the store has reported everything; tells nobody that anyone left."""

    def tick(self, now_ns: int) -> None:
        """Do what is due: windows, grace times, typing timeouts, retries. Every 20–100 ms."""

    def on_commit(self, writes: Sequence[Write]) -> None:
        """Answer and deliver a committed batch; given to ``store.open``."""

    # -- connections

    async def attach(self, session: Session, hello: Any, claims: Any) -> dict[str, Any]:
        """Make a connection the session of a user.

        Args:
            session: New, with hub, handle and encoding.
            hello: ``bodies.Hello``: ``device``, ``batch``, ``acks``, ``resume``.
            claims: ``Claims`` of the verified token.

        Returns:
            The domain's part of the ``ok`` body: protocol, features, session, user, device, tier, time, resumed.
            The caller adds node, heartbeat_ms and limits, queues the ``ok``, and then calls ``begin``.

        Raises:
            StoreError: the user could not be loaded; the session is as before.
            RequestError: the connection ended meanwhile.
        """
        raise NotImplementedError

    def begin(self, session: Session) -> None:
        """Start replay and live delivery; called once, after the ``ok`` of the hello was queued."""

    def on_drained(self, session: Session) -> None:
        """Go on with a replay; called for each DRAINED event of a session that was attached."""

    def detach(self, session: Session) -> None:
        """The connection is gone; idempotent, and harmless for one that was never attached."""

    def sessions(self) -> Iterator[Session]:
        """All attached sessions."""
        raise NotImplementedError

    def sessions_of(self, user_id: str) -> tuple[Session, ...]:
        """The live sessions of a user."""
        raise NotImplementedError

    def end_session(self, session: Session) -> None:
        """Forget a session so that it cannot be resumed (logout, ban)."""

    def stats(self) -> dict[str, int]:
        """Counters for the metrics: users, sessions, conversations, ring_bytes, replays, …"""
        raise NotImplementedError

    # -- for REST and applications, with explicit users

    async def create_conversation(
        self,
        kind: str,
        creator: str,
        members: Iterable[str],
        title: str = "",
        *,
        id: str | None = None,
        client_id: str | None = None,
    ) -> dict[str, Any]:
        """Create a conversation, or return the one that a repeat means; creator "" is the system."""
        raise NotImplementedError

    async def update_conversation(
        self, conversation: str, *, title: str | None = None, add: Iterable[str] = (), remove: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Change title and members as an operator.

        Raises:
            RequestError: ``forbidden`` where there is none of this id, ``bad_request``.
            StoreError: not known to be done.
        """
        raise NotImplementedError

    async def post_message(
        self,
        conversation: str,
        content: bytes,
        encoding: int,
        *,
        kind: str = "text",
        sender: str = "",
        device: str = "",
        client_id: str | None = None,
        reply_to: int | None = None,
    ) -> dict[str, Any]:
        """Store and deliver a message as a user (a member), or as the system (""); returns the ``ok`` body.

        Args:
            content: Encoded content, already checked, in ``encoding``.
        """
        raise NotImplementedError

    async def history(
        self,
        conversation: str,
        encoding: int,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> bytes:
        """Read messages as an operator; returns the encoded ``ok`` body."""
        raise NotImplementedError
