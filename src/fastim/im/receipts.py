"""Read and delivered marks: forwards only, durable, told to the conversation once a window."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastim._core.hub import Lane
from fastim.errors import StoreError
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain, unavailable
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import Mark

__all__ = ["ReadContext", "Receipts"]


class ReadContext(NamedTuple):
    """What an answer to a ``read_receipt`` needs once its mark is durable."""

    session: Session
    ref: int | None
    membership: Membership


class _Receipt:
    """The latest marks of a user in a window; ``origin`` is the one connection they came from, or None."""

    __slots__ = ("delivered", "origin", "read", "time", "user")

    def __init__(self, user: User, origin: Session | None) -> None:
        self.user = user
        self.origin = origin
        self.delivered = 0
        self.read = 0
        self.time = 0

    def body(self, *, delivered: bool = True, read: bool = True) -> dict[str, Any] | None:
        body: dict[str, Any] = {"user": self.user.id}
        if delivered and self.delivered:
            body["delivered"] = self.delivered
        if read and self.read:
            body["read"] = self.read
        if len(body) == 1:
            return None
        body["time"] = self.time
        return body


class Receipts:
    """Cursors and their ``receipt`` events."""

    __slots__ = ("_domain", "_due_ns", "_marks", "_window")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._window: dict[Conversation, dict[str, _Receipt]] = {}
        self._marks: dict[tuple[int, int, str], int] = {}  # (conversation, user, device) → delivered
        self._due_ns = 0  # the open window's end; 0: none is open

    # -- from clients

    def acknowledge(self, session: Session, membership: Membership, seq: int) -> None:
        """Everything up to ``seq`` has arrived at this device. The mark is stored at the window's end."""
        user = session.user
        if user is None or seq <= 0:
            return
        conversation = membership.conversation
        key = (conversation.key, user.key, session.device)
        if self._marks.get(key, 0) < seq:
            self._marks[key] = seq
            self._open()
        if membership.delivered < seq:
            membership.delivered = seq
            self._note(conversation, user, session).delivered = seq

    def read(self, session: Session, membership: Membership, seq: int, ref: int | None) -> bool:
        """Submit a read mark; False if there is nothing to do. The answer follows the commit."""
        user = session.user
        seq = min(seq, membership.conversation.last_seq)
        if user is None or seq <= membership.read:
            return False
        self._domain.store.submit(
            Mark(
                membership.conversation.key, user.key, read=seq, context=ReadContext(session, ref, membership)
            )
        )
        return True

    # -- from the store

    def on_commit(self, mark: Mark) -> None:
        """Answer a read mark and tell the others of it; delivered marks need nothing more."""
        context = mark.context
        if not isinstance(context, ReadContext):
            return
        session, ref, membership = context
        if mark.error is not None:
            error = unavailable(mark.error if isinstance(mark.error, StoreError) else None)
            session.fail(ref, "read_receipt", error)
            return
        if membership.read < mark.read:
            membership.read = mark.read
            user = session.user
            if user is not None:
                self._note(membership.conversation, user, session).read = mark.read
        session.answer(ref, {})

    # -- windows

    def _open(self) -> None:
        if not self._due_ns:
            self._due_ns = self._domain.clock_ns() + self._domain.options.window_ms * NS_PER_MS

    def _note(self, conversation: Conversation, user: User, origin: Session) -> _Receipt:
        self._open()
        receipts = self._window.setdefault(conversation, {})
        receipt = receipts.get(user.id)
        if receipt is None:
            receipt = receipts[user.id] = _Receipt(user, origin)
        elif receipt.origin is not origin:
            receipt.origin = None
        receipt.time = self._domain.time_ms()
        return receipt

    def tick(self, now_ns: int) -> None:
        """Close the window if it is over."""
        if self._due_ns and now_ns >= self._due_ns:
            self.flush()

    def flush(self) -> None:
        """Store and tell what the window holds."""
        self._due_ns = 0
        marks, self._marks = self._marks, {}
        for (conversation_key, user_key, device), seq in marks.items():
            self._domain.store.submit(Mark(conversation_key, user_key, device, delivered=seq))
        window, self._window = self._window, {}
        for conversation, receipts in window.items():
            self._tell(conversation, list(receipts.values()))

    def _tell(self, conversation: Conversation, receipts: list[_Receipt]) -> None:
        delivered = conversation.member_count <= self._domain.options.delivered_members
        read = conversation.member_count <= self._domain.options.read_members
        public = [body for r in receipts if (body := r.body(delivered=delivered, read=read)) is not None]
        if public:
            origin = receipts[0].origin if len(receipts) == 1 else None
            self._domain.publish(
                conversation,
                "receipt",
                {"conversation": conversation.id, "receipts": public},
                exclude=origin.handle if origin is not None else 0,
            )
        if delivered:
            return
        for receipt in receipts:
            body = receipt.body(read=not read)
            if body is not None:
                event = {"conversation": conversation.id, "receipts": [body]}
                for session in receipt.user.sessions:
                    if session is not receipt.origin:
                        session.send_event("receipt", event, Lane.NORMAL)
