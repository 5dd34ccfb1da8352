"""A message's way: checked, submitted to the store, and after the commit answered and delivered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

from fastim._core.hub import Encoding
from fastim.errors import ErrorCode, FastimError, RequestError, StoreError
from fastim.im.conversation import Conversation, RingEntry
from fastim.im.domain import Domain, forbidden, unavailable
from fastim.im.lookups import Lookups
from fastim.im.receipts import Receipts
from fastim.im.resume import Replayer
from fastim.im.retries import Retries
from fastim.im.session import Session, SessionState
from fastim.im.storm import StormControl
from fastim.im.undelivered import Undelivered
from fastim.im.user import Membership
from fastim.store.base import Append, ConversationRecord, Mark, MessageRecord, Write
from fastim.wire.bodies import Binary, Message
from fastim.wire.encoders import MessageFields, new_message_packet, ok_message_packet
from fastim.wire.native import Encoded

__all__ = ["DEFERRED", "Delivery", "Origin", "bad_request", "message_fields"]

DEFERRED: Final = object()
"""A handler returns this where the answer comes later, through ``Session.answer`` or ``Session.fail``."""

JSON: Final = int(Encoding.JSON)
MSGPACK: Final = int(Encoding.MSGPACK)
GONE: Final = int(SessionState.GONE)

Origin = tuple[Session, int | None, Membership]
"""Where a message came from: the connection, its ref, and the sender's membership."""


class Post:
    """Where a message came from that came over no connection: who waits for it, and the conversation's id."""

    __slots__ = ("conversation_id", "future")

    def __init__(self, future: asyncio.Future[Append], conversation_id: str) -> None:
        self.future = future
        self.conversation_id = conversation_id


def message_fields(conversation_id: str, message: Append | MessageRecord) -> MessageFields:
    """The fields of a ``new_message``, of a message just stored or read."""
    sender = message.sender_id if isinstance(message, Append) else message.sender
    return (
        message.id,
        conversation_id,
        message.seq,
        sender,
        message.device,
        Encoded(message.content, message.encoding),
        message.kind,
        message.time,
        message.client_id,
        message.reply_to,
    )


class Delivery:
    """Messages from clients to the store, and from the store to clients."""

    __slots__ = (
        "_domain",
        "_lookups",
        "_paused",
        "_receipts",
        "_storm",
        "delivered_count",
        "replayer",
        "retries",
        "undelivered",
    )

    def __init__(self, domain: Domain, receipts: Receipts, lookups: Lookups) -> None:
        self._domain = domain
        self._lookups = lookups
        self._receipts = receipts
        self.retries = Retries(domain, self.packet)
        self.replayer = Replayer(domain, self.retries, self.packet)
        self.undelivered = Undelivered(domain)
        self._paused: dict[Session, None] = {}
        self._storm: StormControl | None = None
        if domain.options.storm.limited:
            self._storm = StormControl(
                domain.options.storm, self._store, self._refuse, domain.store_is_full, domain.clock_ns
            )
        self.delivered_count = 0

    # -- from clients

    def message(self, session: Session, body: Message, ref: int | None) -> object:
        """Serve ``message``: check, and submit to the store; the answer follows the commit."""
        return self._submit(
            session, ref, body.conversation, body.kind or "text", body.content, body.client_id, body.reply_to
        )

    def binary(self, session: Session, body: Binary, ref: int | None) -> object:
        """Serve ``binary``: a message of kind ``binary``."""
        content = body.content(session.encoding)
        return self._submit(session, ref, body.conversation, "binary", content, body.client_id, None)

    def _submit(
        self,
        session: Session,
        ref: int | None,
        conversation_id: str,
        kind: str,
        content: bytes,
        client_id: str | None,
        reply_to: int | None,
    ) -> object:
        domain = self._domain
        user = session.user
        membership = user.membership(conversation_id) if user is not None else None
        if membership is None or user is None:
            raise forbidden()
        if domain.store_is_behind():
            self.hold_back(session)
        conversation = membership.conversation
        append = Append(
            conversation.key,
            user.key,
            user.id,
            session.device,
            kind,
            content,
            session.encoding,
            domain.time_ms(),
            client_id,
            reply_to,
            (session, ref, membership),
            session.origin,
        )
        if self._storm is None or self._storm.admits(append, user.id, session.tier, conversation.id):
            domain.store.submit(append)
        return DEFERRED

    def _store(self, append: Append) -> None:
        """Submit a message that has waited: it is of now, and its sender may have been removed meanwhile."""
        context = append.context
        if isinstance(context, tuple):
            session, _, membership = context
            if session.user.membership(membership.conversation.id) is not membership:
                self._refuse(append, forbidden())
                return
        append.time = self._domain.time_ms()
        self._domain.store.submit(append)

    def hold_back(self, session: Session) -> None:
        """The store is behind: read no more from who writes, and past the bound take nothing.

        Raises:
            RequestError: ``unavailable``.
        """
        if session not in self._paused and self._domain.hub.pause(session.handle):
            self._paused[session] = None
        if self._domain.store_is_full():
            raise unavailable()

    def tick(self, now_ns: int) -> None:
        """Move on what waits; read on from those who were held back, once the store has caught up by half."""
        if self._storm is not None and self._storm.waiting_count:
            self._storm.serve(now_ns)
        if self._paused and self._domain.store_has_caught_up():
            paused, self._paused = self._paused, {}
            for session in paused:
                self._domain.hub.resume(session.handle)

    def drain(self) -> None:
        """Submit what waits for its turn."""
        if self._storm is not None:
            self._storm.drain()

    @property
    def paused_count(self) -> int:
        return len(self._paused)

    def storm_stats(self) -> dict[str, int]:
        """Counters of the limits of messages; empty where there are none."""
        return self._storm.stats() if self._storm is not None else {}

    # -- from the store

    def on_commit(self, writes: Sequence[Write]) -> None:
        """Answer and deliver in commit order: on a connection messages and answers come in ``seq`` order."""
        domain = self._domain
        conversations = domain.conversations
        for write in writes:
            if isinstance(write, Mark):
                self._receipts.on_commit(write)
                continue
            append = cast(Append, write)
            context = append.context
            if append.error is not None:
                self._refuse(append, append.error)
            elif append.duplicate:
                self._answer(append, None)
            else:
                domain.last_key = append.key
                conversation = conversations.get(append.conversation)
                if conversation is not None:
                    self._deliver(conversation, append, context)
                else:
                    self._stored(append, context)
                self._answer(append, conversation)
        if self._storm is not None and self._storm.waiting_count:
            self._storm.serve(domain.clock_ns())

    def _stored(self, append: Append, context: object) -> None:
        """Take note of a message of a conversation that is not loaded: what was read of it has changed."""
        domain = self._domain
        if domain.loads_in_flight:
            domain.missed[append.conversation] = (append.seq, append.time)
        if isinstance(context, Post):
            conversation_id = context.conversation_id
        else:
            conversation_id = cast(Origin, context)[2].conversation.id
        self.undelivered.stored(append.conversation, conversation_id, append.seq, append.time)
        key = ("conversation", conversation_id)
        record = domain.cache.peek(key)
        if isinstance(record, ConversationRecord):
            if record.last_seq < append.seq:
                domain.cache.put(key, replace(record, last_seq=append.seq, last_time=append.time))
        else:
            domain.cache.invalidate(key)

    def _deliver(self, conversation: Conversation, append: Append, context: object) -> None:
        """Publish a message to the live sessions of the members, the sending one left out."""
        seq = append.seq
        if seq <= conversation.last_seq:
            return  # loaded after the commit and before its report: whoever is here had it from the store
        domain = self._domain
        hub, topic = domain.hub, conversation.topic
        if seq != conversation.last_seq + 1:
            # A report was missed: name what the live sessions did not get.
            body = {"conversation": conversation.id, "have": conversation.last_seq, "last": seq - 1}
            domain.publish(conversation, "gap", body)
        json_count, msgpack_count = hub.topic_members(topic)
        json = msgpack = None
        exclude = 0
        # Whose context is a tuple came over a connection; see Origin.
        if context.__class__ is tuple:
            session, _, membership = context
            exclude = session.handle
            if membership.read < seq:
                membership.read = seq
        if json_count or msgpack_count:
            fields = (
                append.id,
                conversation.id,
                seq,
                append.sender_id,
                append.device,
                Encoded(append.content, append.encoding),
                append.kind,
                append.time,
                append.client_id,
                append.reply_to,
            )
            if json_count:
                json = new_message_packet(JSON, fields)
            if msgpack_count:
                msgpack = new_message_packet(MSGPACK, fields)
            offset = b"" if domain.journal is None else domain.journal.message_offset(append.key)
            self.delivered_count += hub.publish(topic, json, msgpack, exclude, offset=offset)
            rare = conversation._more
            if rare is not None and rare.ack_sessions:
                self.retries.published(conversation, seq)
        conversation.last_seq = seq
        conversation.last_time = append.time
        domain.rings.append(conversation, (append, json, msgpack), seq)
        conversation.last_key = append.key
        if self.undelivered.on_event is not None:
            self.undelivered.stored(conversation.key, conversation.id, seq, append.time)

    def _answer(self, append: Append, conversation: Conversation | None) -> None:
        """Queue the ``ok`` behind what was published before it."""
        context, append.context = append.context, None
        if context.__class__ is not tuple:
            if isinstance(context, Post):
                if append.sender_id and append.sender_id not in self._domain.users:
                    self._lookups.has_read(append.conversation, append.sender_id, append.seq)
                if not context.future.done():
                    context.future.set_result(append)
            return
        session, ref, membership = context
        if ref is None or session.state == GONE:
            return
        packet = ok_message_packet(
            session.encoding,
            ref,
            (
                append.id,
                membership.conversation.id,
                append.seq,
                append.time,
                append.client_id,
                append.duplicate,
            ),
        )
        if (
            session.replay is None
            or conversation is None
            or not self.replayer.hold_ok(session, conversation, append.seq, packet)
        ):
            session.hub.send(session.handle, packet)

    def _refuse(self, append: Append, error: FastimError) -> None:
        context, append.context = append.context, None
        if not isinstance(error, RequestError):
            error = unavailable(error if isinstance(error, StoreError) else None)
        if isinstance(context, Post):
            if not context.future.done():
                context.future.set_exception(error)
        elif isinstance(context, tuple):
            session, ref, _ = context
            session.fail(ref, "binary" if append.kind == "binary" else "message", error)

    # -- encoding

    def packet(self, conversation: Conversation, entry: RingEntry, encoding: int) -> bytes:
        """A ring entry's ``new_message`` packet; made at most once per encoding while the ring keeps it."""
        message, json, msgpack = entry
        packet = msgpack if encoding else json
        if packet is not None:
            return packet
        packet = new_message_packet(encoding, message_fields(conversation.id, message))
        kept = (message, json, packet) if encoding else (message, packet, msgpack)
        self._domain.rings.replace(conversation, message.seq, kept)
        return packet

    # -- as an explicit user

    async def post(self, append: Append, conversation_id: str) -> Append:
        """Submit a message and return it once it is durable; None of a connection is involved.

        Whoever may speak for any user is trusted with how often; the conversation and the server are not his
        alone: their limits hold.

        Raises:
            RequestError: refused, ``rate_limited`` or ``unavailable``.
        """
        if self._domain.store_is_full():
            raise unavailable()
        future: asyncio.Future[Append] = asyncio.get_running_loop().create_future()
        append.context = Post(future, conversation_id)
        if self._storm is None or self._storm.admits(append, "", "", conversation_id):
            self._domain.store.submit(append)
        return await future


def bad_request(field: str, what: str) -> RequestError:
    """A ``bad_request`` that names its field."""
    return RequestError(ErrorCode.BAD_REQUEST, f"{field}: {what}")
