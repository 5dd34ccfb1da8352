"""The facade of the messaging domain: what the service calls, and nothing of sockets or settings."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from fastim._core.histogram import Histogram
from fastim._core.hub import Hub
from fastim.errors import CloseCode, ErrorCode, RequestError, StoreError
from fastim.im.conversation import Change, Conversation
from fastim.im.delivery import DEFERRED, Delivery
from fastim.im.domain import Domain, forbidden
from fastim.im.history import HistoryReader
from fastim.im.inbox import Inbox
from fastim.im.journal import Journal
from fastim.im.loading import UserLoader
from fastim.im.lookups import Lookups
from fastim.im.members import Conversations
from fastim.im.missed import Missed, MissedMessage
from fastim.im.options import ImOptions
from fastim.im.pages import Pages
from fastim.im.presence import Presence
from fastim.im.receipts import Receipts
from fastim.im.resume import NS_PER_S, Start
from fastim.im.rosters import Rosters
from fastim.im.session import Session, SessionState, Status
from fastim.im.sessions import (
    Cursors,
    DetachedSession,
    EndReason,
    MovedSession,
    Sessions,
    note_ack,
    stored_cursors,
)
from fastim.im.typing import Typing
from fastim.im.user import User
from fastim.store.base import Append, ConversationRecord, MembershipRecord, Store, Write
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
        self._lookups = Lookups(domain)
        self._receipts = Receipts(domain, self._lookups)
        self._typing = Typing(domain)
        self._rosters = Rosters(domain, self._lookups)
        self._presence = Presence(domain, self._rosters)
        self._delivery = Delivery(domain, self._receipts, self._lookups)
        self._missed = Missed(domain, self._delivery.packet)
        self._pages = Pages(domain)
        self._history = HistoryReader(domain, self._lookups, self._pages)
        self._inbox = Inbox(domain, self._pages)
        self._conversations = Conversations(
            domain,
            self._lookups,
            self._pages,
            self._on_removed,
            self._on_restored,
            self._presence.members_left,
        )
        self.sessions = Sessions(
            domain, int(options.session_life_s * NS_PER_S), options.max_sessions, options.max_session_bytes
        )
        """Who is connected, and who may come back."""
        self.sessions.on_gone = self._presence.forget
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
        self._domain.last_key = self._domain.store.last_key
        with suppress(StoreError):  # a store that takes no writes now: nobody is expected
            await self._presence.expect()

    def drain(self) -> None:
        """The server is about to end: from now on nobody is told that anyone left."""
        self._presence.mute()

    async def stop(self) -> None:
        """Submit what waits for its turn and what windows hold, and wait until the store has reported it."""
        self.drain()
        self._delivery.drain()
        self._receipts.flush()
        with suppress(StoreError):  # then the next start knows of nobody
            await self._presence.keep()
        await self._domain.store.flush()

    def tick(self, now_ns: int) -> None:
        """Do what is due: windows, grace times, typing timeouts, retries, replays. Every 20–100 ms."""
        self._receipts.tick(now_ns)
        self._typing.tick(now_ns)
        self._presence.tick(now_ns)
        self.sessions.tick(now_ns)
        self._delivery.retries.tick(now_ns)
        self._delivery.undelivered.tick(now_ns)
        self._delivery.replayer.tick(now_ns)
        self._delivery.tick(now_ns)

    # -- connections

    async def attach(
        self,
        session: Session,
        hello: bodies.Hello,
        claims: Any,
        moved: MovedSession | None = None,
        *,
        replay: bool = True,
    ) -> dict[str, Any]:
        """Make a connection the session of a user.

        Args:
            session: New, with hub, handle and encoding.
            hello: Its ``device``, ``acks`` and ``resume``; ``batch`` and ``token`` are the caller's.
            claims: ``Claims`` of the verified token.
            moved: What another server has handed over of the session that ``resume`` names.
            replay: What ``resume`` does not say it has seen is replayed by ``begin``; False: nothing is, the
                caller sends what was ``missed``.

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
        if user is not None and (not replay or self._knows_start(user, device, hello.resume)):
            return self._enter(session, hello, claims, device, moved, replay, user.key, None)
        enter = partial(self._enter, session, hello, claims, device, moved, replay)
        answer: dict[str, Any] = await self._loader.load(claims.user, device, enter)
        return answer

    def _knows_start(self, user: User, device: str, resume: bodies.Resume | None) -> bool:
        """Whether all that the replay of a loaded user's session starts from is in memory."""
        if resume is None:
            return True
        missing = [m for m in user.memberships() if m.conversation.id not in resume.seen]
        if not missing:
            return True
        found = self.sessions.find(resume.session, user.id, device)
        cursors: Cursors | None = found.cursors if found is not None else None
        if cursors is None or self._has_others(user, device, found):
            # Others acknowledge for the same device: what all have got is kept for a while beside them.
            return self._lookups.knows_positions(user, device, resume.seen)
        return all(cursors.position(m.conversation.key, m.joined_seq) is not None for m in missing)

    def _has_others(self, user: User, device: str, than: Session | DetachedSession | None) -> bool:
        """Whether the user has another session of the device, live or detached."""
        if any(other.device == device and other is not than for other in user.sessions):
            return True
        return any(
            other.device == device and other is not than for _, other in self.sessions.detached_of(user)
        )

    def _enter(
        self,
        session: Session,
        hello: bodies.Hello,
        claims: Any,
        device: str,
        moved: MovedSession | None,
        replay: bool,
        key: int,
        records: Sequence[MembershipRecord] | None,
    ) -> dict[str, Any]:
        """Fill the session and make it one of its user's; nothing else happens in between."""
        if session.state != SessionState.NEW:
            raise RequestError(ErrorCode.BAD_REQUEST, "hello: the connection has one already, or is gone")
        user = self._domain.load_user(claims.user, key, records or ())
        session.user = user
        session.device = device
        session.device_class = claims.device_class or ""
        session.tier = claims.tier
        session.scope = claims.scope or ()
        session.exp = claims.exp
        session.acks = hello.acks
        session.state = int(SessionState.ATTACHED)
        resume = hello.resume
        resumed = resume is not None and (
            self._resume(session, user, resume.session) or self._adopt(session, resume.session, moved)
        )
        positions: Mapping[int, int] = {}
        if resume is not None or records is not None:
            positions = self._receipts.positions(user, device, records or (), keep=resume is not None)
        if records is not None:
            session.cursors = stored_cursors(records, positions, session.cursors)
        if resume is not None and replay:
            session.replay = Start(resume.seen, session.cursors or Cursors(), positions)
        if not session.session_id:
            session.session_id = Sessions.new_id()
        self.sessions.enter(session)
        user.enter(session)
        self._presence.arrive(user, session)
        return {
            "protocol": PROTOCOL,
            "features": list(FEATURES),
            "session": session.session_id,
            "user": user.id,
            "device": device,
            "tier": session.tier,
            "time": self._domain.time_ms(),
            "resumed": resumed,
            "presence": resumed and self._presence.can_restore(session),
        }

    def _device_of(self, user_id: str, resume: bodies.Resume | None) -> str | None:
        """The device of the session to resume, for a client that does not repeat what it was told."""
        return self.sessions.device_of(resume.session, user_id) if resume is not None else None

    def _resume(self, session: Session, user: User, session_id: str) -> bool:
        """Take over a detached or live session of the same user and device; False if there is none."""
        found = self.sessions.find(session_id, user.id, session.device)
        if found is None:
            return False
        session.session_id = session_id
        session.status = found.status
        session.metadata = found.metadata
        session.cursors = found.cursors
        self.sessions.resumed += 1
        if isinstance(found, DetachedSession):
            user.come_back(session_id)
            return True
        user.exit(found)
        user.enter(session)
        self._presence.replace(found)
        self._part(found, user)
        self._domain.hub.close(found.handle, CloseCode.REPLACED, "resumed elsewhere", self._domain.clock_ns())
        return True

    @staticmethod
    def _adopt(session: Session, session_id: str, moved: MovedSession | None) -> bool:
        """Go on with a session that another server has handed over; False if this is none."""
        if moved is None or moved.session != session_id:
            return False
        session.session_id = session_id
        session.status = moved.status
        session.metadata = moved.metadata
        return True

    @property
    def last_key(self) -> int:
        """The key of the last message that was reported: a moment, for ``missed``."""
        return self._domain.last_key

    async def missed(self, session: Session, since: int) -> list[MissedMessage] | None:
        """Return all messages that a session has missed of all its conversations, in the order of commits.

        What it sent itself is left out: it had the answers. Whoever sends these and calls ``begin`` in the
        turn of the loop in which this returns has missed nothing and gets nothing twice. No read is needed
        where the rings have it all.

        Args:
            session: Attached with ``replay`` False, not begun.
            since: The key of the last message that it got.

        Returns:
            None: They are more than ``missed_messages`` or ``missed_bytes``.

        Raises:
            StoreError: Not read.
        """
        return await self._missed.of(session, since)

    def changes(self, session: Session, since: int) -> list[tuple[Change, bytes]]:
        """Return which of a session's conversations have changed since a number that the journal gave.

        Returns:
            The last change of each, and the event that tells how the conversation is now; ascending.
        """
        return self._conversations.changes(session, since)

    async def changed_since(self, session: Session, change: int) -> bool:
        """Whether any of a session's conversations, or which they are, has changed; see ``Store``.

        Raises:
            StoreError: Not read.
        """
        user = session.user
        return user is not None and await self._domain.store.changed_since(user.key, change)

    def keep_journal(self, journal: Journal) -> None:
        """Tell a journal, from now on, what clients that come back may have missed."""
        self._domain.journal = journal

    def begin(self, session: Session) -> None:
        """Start replay and live delivery; called once, after the ``ok`` of the hello was queued."""
        if session.state != SessionState.ATTACHED:
            return
        session.state = int(SessionState.LIVE)
        start, session.replay = session.replay, None
        self._presence.restore(session)
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
        self.sessions.detach(session, user)
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

    def sessions_of(self, user_id: str) -> tuple[Session, ...]:
        """The live sessions of a user, in the order they came."""
        user = self._domain.users.get(user_id)
        return tuple(user.sessions) if user is not None else ()

    def detached_of(self, user_id: str) -> list[tuple[str, DetachedSession]]:
        """The detached sessions of a user with their ids."""
        user = self._domain.users.get(user_id)
        return list(self.sessions.detached_of(user)) if user is not None else []

    async def sessions_in(self, conversation: str) -> list[Session]:
        """The live sessions of a conversation's members.

        Raises:
            RequestError: ``forbidden`` where there is none of this id.
        """
        record = await self._domain.store.conversation(conversation)
        if record is None:
            raise forbidden()
        return [
            session
            for user in self._domain.users.values()
            if user.membership(conversation) is not None
            for session in user.sessions
            if session.state == SessionState.LIVE
        ]

    def end_sessions(
        self,
        user_id: str,
        device: str | None = None,
        session_id: str | None = None,
        *,
        live: bool = True,
    ) -> None:
        """End a user's sessions: all, or those of a device, or one; closing connections is the caller's.

        Args:
            live: Those with a connection, too.
        """
        sessions: list[tuple[str, Session | DetachedSession]] = [*self.detached_of(user_id)]
        if live:
            sessions += [(session.session_id, session) for session in self.sessions_of(user_id)]
        for number, session in sessions:
            if device in (None, session.device) and session_id in (None, number):
                self.sessions.end(number, EndReason.REMOVED)

    def stats(self) -> dict[str, int]:
        """Counters for the metrics: users, conversations, ring_bytes, replays, …"""
        domain = self._domain
        return {
            "users": len(domain.users),
            "conversations": len(domain.conversations),
            "ring_bytes": domain.rings.bytes,
            "rings": len(domain.rings),
            "typing_conversations": len(self._typing),
            "typing_changes_total": self._typing.change_count,
            "typing_frames_total": self._typing.frame_count,
            "sessions_awaiting_acks": len(self._delivery.retries),
            "sessions_held_back": self._delivery.paused_count,
            "deliveries_total": self._delivery.delivered_count,
            "messages_sent_again_total": self._delivery.retries.sent_again_count,
            "messages_given_up_total": self._delivery.retries.given_up_count,
            **self._delivery.undelivered.stats(),
            **self._presence.stats(),
            **self._delivery.replayer.stats(),
        }

    def storm_stats(self) -> dict[str, int]:
        """Counters of the limits of messages."""
        return self._delivery.storm_stats()

    def cache_stats(self) -> dict[str, int]:
        """Counters of the cache for the metrics."""
        return self._domain.cache.stats()

    # -- events

    def _ack(self, session: Session, body: bodies.Ack, ref: int | None) -> dict[str, Any]:
        membership = self._domain.member_of(session, body.conversation)
        conversation = membership.conversation
        seq = min(body.seq, conversation.last_seq)
        if session.acks:
            self._delivery.retries.acknowledge(session, conversation, seq)
        self._receipts.acknowledge(session, membership, seq)
        note_ack(session, conversation.key, seq)
        return {}

    def _read_receipt(self, session: Session, body: bodies.ReadReceipt, ref: int | None) -> object:
        membership = self._domain.member_of(session, body.conversation)
        if self._domain.store_is_behind():
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

    @property
    def ack_latency(self) -> Histogram:
        """From the commit of a message to its acknowledgement, nanoseconds."""
        return self._delivery.retries.latency

    def tell_undelivered(self, on_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Have ``on_event`` called for what is stored and not delivered in time; see ``Undelivered``.

        With ``undelivered_after_ms`` 0 it never is.
        """
        if self._domain.options.undelivered_after_ms:
            self._delivery.undelivered.on_event = on_event

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
        record = await self._lookups.conversation(conversation)
        if record is None:
            raise forbidden()
        sender_key = 0
        if sender:
            if not await self._lookups.is_member(sender, record):
                raise forbidden()
            loaded = domain.users.get(sender)
            sender_key = loaded.key if loaded is not None else (await self._lookups.profile(sender)).key
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
        await self._delivery.post(append, conversation)
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

    async def conversation(self, conversation: str) -> ConversationRecord | None:
        """Look a conversation up as an operator; None: there is none of this id.

        Raises:
            StoreError: not looked up.
        """
        return await self._lookups.conversation(conversation)

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
