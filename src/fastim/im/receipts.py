"""Read and delivered marks: forwards only, durable, told to the conversation once a window."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastim._core.hub import Lane
from fastim.errors import StoreError
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain, unavailable
from fastim.im.lookups import Lookups
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import Mark, MembershipRecord

__all__ = ["ReadContext", "Receipts"]


DeviceKey = tuple[int, int, str]
"""Keys of the conversation and the user, and the device."""


class ReadContext(NamedTuple):
    """What an answer to a ``read_receipt`` needs once its mark is durable."""

    session: Session
    ref: int | None
    membership: Membership


class _Window:
    """What a conversation is told at the window's end, by user id."""

    __slots__ = ("conversation", "receipts", "until_ns")

    def __init__(self, conversation: Conversation, until_ns: int) -> None:
        self.conversation = conversation
        self.until_ns = until_ns
        self.receipts: dict[str, _Receipt] = {}


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

    __slots__ = ("_domain", "_due_ns", "_lookups", "_marks", "_order", "_submitted", "_windows")

    def __init__(self, domain: Domain, lookups: Lookups) -> None:
        self._domain = domain
        self._lookups = lookups
        self._windows: dict[Conversation, _Window] = {}  # open ones
        self._order: deque[_Window] = deque()  # the same, the earliest end first
        self._marks: dict[DeviceKey, int] = {}  # delivered, to be submitted at the window's end
        self._submitted: dict[DeviceKey, int] = {}  # and not reported yet
        self._due_ns = 0  # when marks are submitted; 0: there are none

    # -- from clients

    def acknowledge(self, session: Session, membership: Membership, seq: int) -> None:
        """Everything up to ``seq`` has arrived at this device. The mark is stored at the window's end."""
        user = session.user
        if user is None or seq <= 0:
            return
        conversation = membership.conversation
        self._lookups.acknowledged(user.id, session.device, conversation.key, seq)
        key = (conversation.key, user.key, session.device)
        if self._marks.get(key, 0) < seq:
            self._marks[key] = seq
            if not self._due_ns:
                self._due_ns = self._domain.clock_ns() + self._domain.options.window_ms * NS_PER_MS
        if membership.delivered < seq:
            membership.delivered = seq
            self._note(conversation, user, session, delivered=seq)

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
            key = (mark.conversation, mark.user, mark.device)
            if self._submitted.get(key, 0) <= mark.delivered or mark.error is not None:
                self._submitted.pop(key, None)
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
                self._note(membership.conversation, user, session, read=mark.read)
        session.answer(ref, {})

    # -- for a resume

    def positions(
        self, user: User, device: str, records: Sequence[MembershipRecord], *, keep: bool = True
    ) -> Mapping[int, int]:
        """Up to where a device has got everything, by conversation key: as just read, else as kept.

        What it acknowledged a moment ago is on its way to the store, and not in what was read.
        """
        if not records:
            return self._lookups.kept_positions(user.id, device)
        found: dict[int, int] = {}
        for record in records:
            key = (record.conversation.key, user.key, device)
            under_way = max(self._marks.get(key, 0), self._submitted.get(key, 0))
            found[record.conversation.key] = max(record.device_delivered, under_way)
        if keep:  # not for who begins anew: all that connect would fill the cache
            self._lookups.keep_positions(user.id, device, found)
        return found

    # -- windows

    def _note(
        self, conversation: Conversation, user: User, origin: Session, *, delivered: int = 0, read: int = 0
    ) -> None:
        """Tell of a mark: at once in a quiet conversation, else at the end of its window."""
        window = self._windows.get(conversation)
        receipts = window.receipts if window is not None else {}
        receipt = receipts.get(user.id)
        if receipt is None:
            receipt = receipts[user.id] = _Receipt(user, origin)
        elif receipt.origin is not origin:
            receipt.origin = None
        receipt.time = self._domain.time_ms()
        receipt.delivered = delivered or receipt.delivered
        receipt.read = read or receipt.read
        if window is None:
            self._open(conversation, self._domain.clock_ns())
            self._tell(conversation, [receipt])

    def _open(self, conversation: Conversation, now_ns: int) -> None:
        window = _Window(conversation, now_ns + self._domain.options.window_ms * NS_PER_MS)
        self._windows[conversation] = window
        self._order.append(window)

    def tick(self, now_ns: int) -> None:
        """Close the windows that are over."""
        if self._due_ns and now_ns >= self._due_ns:
            self._submit(now_ns)
        while self._order and self._order[0].until_ns <= now_ns:
            window = self._order.popleft()
            del self._windows[window.conversation]
            if window.receipts:
                self._open(window.conversation, now_ns)
                self._tell(window.conversation, list(window.receipts.values()))

    def _submit(self, now_ns: int) -> None:
        """Store the delivered marks of the window; one of a device at a time while the store is behind."""
        marks, self._marks = self._marks, {}
        is_behind = self._domain.store_is_behind()
        for key, seq in marks.items():
            if is_behind and key in self._submitted:
                self._marks[key] = seq
            else:
                self._store(key, seq)
        window_ns = self._domain.options.window_ms * NS_PER_MS
        self._due_ns = now_ns + window_ns if self._marks else 0

    def _store(self, key: DeviceKey, seq: int) -> None:
        conversation_key, user_key, device = key
        self._submitted[key] = seq
        self._domain.store.submit(Mark(conversation_key, user_key, device, delivered=seq))

    def flush(self) -> None:
        """Store and tell what the windows hold."""
        marks, self._marks, self._due_ns = self._marks, {}, 0
        for key, seq in marks.items():
            self._store(key, seq)
        self._windows.clear()
        while self._order:
            window = self._order.popleft()
            if window.receipts:
                self._tell(window.conversation, list(window.receipts.values()))

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
