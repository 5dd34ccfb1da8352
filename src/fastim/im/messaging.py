"""The facade of the messaging domain: what the service calls, and nothing of sockets or settings."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from fastim._core.hub import Hub
from fastim.errors import CloseCode, ErrorCode, RequestError
from fastim.im.conversation import Conversation
from fastim.im.delivery import DEFERRED, Delivery
from fastim.im.domain import Domain, forbidden
from fastim.im.history import HistoryReader
from fastim.im.inbox import Inbox
from fastim.im.loading import UserLoader
from fastim.im.members import Conversations
from fastim.im.options import ImOptions
from fastim.im.pages import Pages
from fastim.im.presence import Presence
from fastim.im.receipts import Receipts
from fastim.im.resume import NS_PER_S, EndedSession, Sessions, Start, live_session
from fastim.im.session import Session, SessionState, Status
from fastim.im.typing import Typing
from fastim.im.user import User
from fastim.store.base import Append, MembershipRecord, Store, Write
from fastim.wire import bodies
from fastim.wire.native import Encoded, encode_value

__all__ = ["DEFERRED", "FEATURES", "Builtin", "ImOptions", "Messaging"]

PROTOCOL: Final = 1
FEATURES: Final = ("acks", "batch", "presence", "receipts", "resume", "typing")


class Builtin(NamedTuple):
    """A built-in event: the struct its body is decoded into, and who serves it.

    ``handler(session, body, ref)`` returns the body of the ``ok``, or ``DEFERRED``, or an awaitable of the
    body; it may raise RequestError or StoreError (→ ``unavailable``), at once or from the awaitable.
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
    ) -> None:
        domain = Domain(hub, store, options, clock_ns=clock_ns, time_ms=time_ms, spawn=spawn)
        self._domain = domain
        self._loader = UserLoader(domain)
        self._receipts = Receipts(domain)
        self._typing = Typing(domain)
        self._presence = Presence(domain)
        self._delivery = Delivery(domain, self._receipts)
        self._pages = Pages(domain)
        self._history = HistoryReader(domain, self._pages)
        self._inbox = Inbox(domain, self._pages)
        self._conversations = Conversations(domain, self._pages, self._on_removed, self._on_restored)
        self._ended = Sessions(options.session_life_s * NS_PER_S, options.max_sessions)
        self.on_commit: Callable[[Sequence[Write]], None] = self._delivery.on_commit
        """Answers and delivers a committed batch; given to ``store.open``."""
        self.builtins = {
            "message": Builtin(bodies.Message, self._delivery.message),
            "binary": Builtin(bodies.Binary, self._delivery.binary),
            "ack": Builtin(bodies.Ack, self._ack),
            "read_receipt": Builtin(bodies.ReadReceipt, self._read_receipt),
            "typing": Builtin(bodies.Typing, self._set_typing),
            "presence": Builtin(bodies.Presence, self._set_presence),
            "presence_subscribe": Builtin(bodies.PresenceSubscribe, self._subscribe),
            "history": Builtin(bodies.History, self._history.history),
            "conversations": Builtin(bodies.Conversations, self._inbox.conversations),
            "conversation_create": Builtin(bodies.ConversationCreate, self._conversations.create),
            "conversation_update": Builtin(bodies.ConversationUpdate, self._conversations.update),
            "members": Builtin(bodies.Members, self._conversations.members),
            "ping": Builtin(bodies.Ping, self._ping),
        }

    # -- life

    async def start(self) -> None:
        """Begin; the store is open."""

    def drain(self) -> None:
        """The server is about to end: from now on nobody is told that anyone left."""
        self._presence.muted = True

    async def stop(self) -> None:
        """Submit what windows hold, and wait until the store has reported everything."""
        self.drain()
        self._receipts.flush()
        await self._domain.store.flush()

    def tick(self, now_ns: int) -> None:
        """Do what is due: windows, grace times, typing timeouts, retries, replays. Every 20–100 ms."""
        self._receipts.tick(now_ns)
        self._typing.tick(now_ns)
        self._presence.tick(now_ns)
        self._delivery.retries.tick(now_ns)
        self._delivery.replayer.tick(now_ns)
        self._delivery.tick()

    # -- connections

    async def attach(self, session: Session, hello: bodies.Hello, claims: Any) -> dict[str, Any]:
        """Make a connection the session of a user.

        Args:
            session: New, with hub, handle and encoding.
            hello: Its ``device``, ``acks`` and ``resume``; ``batch`` and ``token`` are the caller's.
            claims: ``Claims`` of the verified token.

        Returns:
            The domain's part of the ``ok`` body: protocol, features, session, user, device, tier, time,
            resumed. The caller adds node, heartbeat_ms and limits, queues the ``ok``, and calls ``begin``.

        Raises:
            StoreError: the user could not be loaded; the session is as before.
            RequestError: the connection ended meanwhile, or has a user already.
        """
        device = claims.device or hello.device
        if device is None:
            device = self._device_of(claims.user, hello.resume) or secrets.token_urlsafe(8)
        user = self._domain.users.get(claims.user)
        if user is not None and hello.resume is None:
            return self._enter(session, hello, claims, device, user.key, ())
        enter = partial(self._enter, session, hello, claims, device)
        answer: dict[str, Any] = await self._loader.load(claims.user, device, enter)
        return answer

    def _enter(
        self,
        session: Session,
        hello: bodies.Hello,
        claims: Any,
        device: str,
        key: int,
        records: Sequence[MembershipRecord],
    ) -> dict[str, Any]:
        """Fill the session and make it one of its user's; nothing else happens in between."""
        if session.state != SessionState.NEW:
            raise RequestError(ErrorCode.BAD_REQUEST, "hello: the connection has one already, or is gone")
        user = self._domain.load_user(claims.user, key, records)
        session.user = user
        session.device = device
        session.device_class = claims.device_class or ""
        session.tier = claims.tier
        session.scope = claims.scope or ()
        session.exp = claims.exp
        session.acks = hello.acks
        session.state = int(SessionState.ATTACHED)
        resumed = self._resume(session, user, hello.resume) if hello.resume is not None else False
        if hello.resume is not None:
            delivered = {record.conversation.key: record.device_delivered for record in records}
            session.replay = Start(hello.resume.seen, delivered)
        if not session.number:
            session.number = Sessions.new_number()
        user.enter(session)
        self._presence.arrive(user, session)
        return {
            "protocol": PROTOCOL,
            "features": list(FEATURES),
            "session": Sessions.to_id(session.number),
            "user": user.id,
            "device": device,
            "tier": session.tier,
            "time": self._domain.time_ms(),
            "resumed": resumed,
        }

    def _device_of(self, user_id: str, resume: bodies.Resume | None) -> str | None:
        """The device of the session to resume, for a client that does not repeat what it was told."""
        if resume is None:
            return None
        number = Sessions.from_id(resume.session)
        for session in self.sessions_of(user_id):
            if number and session.number == number:
                return session.device
        return self._ended.device(number, user_id)

    def _resume(self, session: Session, user: User, resume: bodies.Resume) -> bool:
        """Take over an ended or live session of the same user and device; False if there is none."""
        number = Sessions.from_id(resume.session)
        live = live_session(user, number, session.device)
        ended: Session | EndedSession | None = live
        if live is None:
            ended = self._ended.take(number, user.id, session.device, self._domain.clock_ns())
        if ended is None:
            return False
        session.number = number
        session.status = ended.status
        session.metadata = ended.metadata
        if live is not None:
            user.exit(live)
            user.enter(session)
            self._presence.replace(live)
            self._part(live, user)
            self._domain.hub.close(
                live.handle, CloseCode.REPLACED, "resumed elsewhere", self._domain.clock_ns()
            )
        return True

    def begin(self, session: Session) -> None:
        """Start replay and live delivery; called once, after the ``ok`` of the hello was queued."""
        if session.state != SessionState.ATTACHED:
            return
        session.state = int(SessionState.LIVE)
        start, session.replay = session.replay, None
        self._delivery.replayer.begin(session, start)

    def on_drained(self, session: Session) -> None:
        """Go on with a replay or the next page; called for each DRAINED event of an attached session."""
        self._delivery.replayer.on_drained(session)
        self._pages.on_drained(session)

    def detach(self, session: Session) -> None:
        """The connection is gone; idempotent, and harmless for one that was never attached."""
        user = session.user
        if session.state == SessionState.GONE or user is None:
            session.state = int(SessionState.GONE)
            return
        user.exit(session)
        if session.number:
            self._ended.end(session, self._domain.clock_ns())
        self._part(session, user)
        self._presence.depart(user, session)

    def _part(self, session: Session, user: User) -> None:
        """Take a session out of everything but presence."""
        session.state = int(SessionState.GONE)
        self._typing.leave(session)
        self._pages.leave(session)
        self._delivery.replayer.leave(session)
        self._delivery.retries.leave(session)
        hub, handle = self._domain.hub, session.handle
        still_open = hub.alive(handle)
        if not still_open and not session.acks:
            return
        for membership in user.memberships():
            conversation = membership.conversation
            if still_open:
                hub.unsubscribe(conversation.topic, handle)
            if session.acks and conversation.rare is not None:
                conversation.rare.ack_sessions.discard(session)

    def sessions(self) -> Iterator[Session]:
        """All attached sessions."""
        for user in list(self._domain.users.values()):
            yield from tuple(user.sessions)

    def sessions_of(self, user_id: str) -> tuple[Session, ...]:
        """The live sessions of a user."""
        user = self._domain.users.get(user_id)
        return tuple(user.sessions) if user is not None else ()

    def end_session(self, session: Session) -> None:
        """Forget a session so that it cannot be resumed (logout, ban)."""
        self._ended.forget(session.number)
        session.number = 0

    def stats(self) -> dict[str, int]:
        """Counters for the metrics: users, conversations, ring_bytes, replays, …"""
        domain = self._domain
        return {
            "users": len(domain.users),
            "conversations": len(domain.conversations),
            "sessions_ended": len(self._ended),
            "ring_bytes": domain.rings.bytes,
            "rings": len(domain.rings),
            "typing_conversations": len(self._typing),
            "sessions_awaiting_acks": len(self._delivery.retries),
            "sessions_held_back": self._delivery.paused_count,
            "deliveries": self._delivery.delivered_count,
            **self._presence.stats(),
            **self._delivery.replayer.stats(),
        }

    # -- events

    def _ack(self, session: Session, body: bodies.Ack, ref: int | None) -> dict[str, Any]:
        membership = self._domain.member_of(session, body.conversation)
        conversation = membership.conversation
        seq = min(body.seq, conversation.last_seq)
        if session.acks:
            self._delivery.retries.acknowledge(session, conversation, seq)
        self._receipts.acknowledge(session, membership, seq)
        return {}

    def _read_receipt(self, session: Session, body: bodies.ReadReceipt, ref: int | None) -> object:
        membership = self._domain.member_of(session, body.conversation)
        if self._domain.store.queued_count >= self._domain.options.pause_writes:
            self._delivery.hold_back(session)
        return DEFERRED if self._receipts.read(session, membership, body.seq, ref) else {}

    def _set_typing(self, session: Session, body: bodies.Typing, ref: int | None) -> dict[str, Any]:
        membership = self._domain.member_of(session, body.conversation)
        self._typing.change(session, membership.conversation, body.typing)
        return {}

    def _set_presence(self, session: Session, body: bodies.Presence, ref: int | None) -> dict[str, Any]:
        metadata = Encoded(body.metadata, session.encoding) if body.metadata else None
        self._presence.change(session, Status[body.status.upper()], metadata)
        return {}

    async def _subscribe(
        self, session: Session, body: bodies.PresenceSubscribe, ref: int | None
    ) -> dict[str, Any]:
        async with self._pages.turn(session):
            if body.users is not None:
                if body.unsubscribe:
                    return self._presence.unsubscribe_users(session, body.users)
                return await self._presence.subscribe_users(session, body.users)
            conversation = self._domain.member_of(session, body.conversation or "").conversation
            if body.unsubscribe:
                return self._presence.unsubscribe_conversation(session, conversation)
            return await self._presence.subscribe_conversation(session, conversation)

    def _ping(self, session: Session, body: bodies.Ping, ref: int | None) -> dict[str, Any]:
        return {"time": self._domain.time_ms()}

    def _on_removed(self, user: User, conversation: Conversation) -> None:
        self._typing.remove_member(user.id, conversation)
        self._presence.remove_member(user, conversation)
        for session in user.sessions:
            self._delivery.replayer.remove(session, conversation)
            self._delivery.retries.remove(session, conversation)

    def _on_restored(self, user: User, conversation: Conversation, position: int) -> None:
        for session in user.sessions:
            if session.state == SessionState.LIVE:
                self._delivery.replayer.catch_up(session, conversation, position)

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
        """Create a conversation, or return the one that a repeat means; creator "" is the system.

        Raises:
            RequestError: ``bad_request``; ``forbidden`` where the id exists and the creator is not in it.
            StoreError: not known to be done.
        """
        return await self._conversations.create_as(creator, kind, members, title, id=id, client_id=client_id)

    async def update_conversation(
        self,
        conversation: str,
        *,
        title: str | None = None,
        add: Iterable[str] = (),
        remove: Iterable[str] = (),
    ) -> dict[str, Any]:
        """Change title and members as an operator.

        Raises:
            RequestError: ``forbidden`` where there is none of this id, ``bad_request``.
            StoreError: not known to be done.
        """
        return await self._conversations.update_as_operator(conversation, title, add, remove)

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

        Raises:
            RequestError: ``forbidden`` where the sender is no member or there is none of this id;
                ``conflict``; ``unavailable``.
            StoreError: the conversation could not be looked up.
        """
        domain = self._domain
        record = await domain.store.conversation(conversation)
        if record is None:
            raise forbidden()
        sender_key = 0
        if sender:
            if not await self._conversations.is_member(sender, record):
                raise forbidden()
            found = await domain.store.load_users([(sender, device)])
            sender_key = found[sender, device][0]
        append = Append(
            record.key,
            sender_key,
            sender,
            device,
            kind,
            content,
            encoding,
            domain.time_ms(),
            client_id,
            reply_to,
        )
        await self._delivery.post(append)
        user = domain.users.get(sender)
        membership = user.membership(conversation) if user is not None else None
        if membership is not None and membership.read < append.seq:
            membership.read = append.seq
        return {
            "id": append.id,
            "conversation": conversation,
            "seq": append.seq,
            "time": append.time,
            "client_id": append.client_id,
            "duplicate": append.duplicate,
        }

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
        return encode_value(await self._history.of(conversation, encoding, after, before, limit), encoding)
