"""The list of one's conversations, with what is unread."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastim.errors import ErrorCode, RequestError
from fastim.im.conversation import Conversation
from fastim.im.delivery import message_fields
from fastim.im.domain import Domain
from fastim.im.pages import Pages
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import Append, ConversationRecord, MessageRecord
from fastim.wire.bodies import Conversations
from fastim.wire.encoders import message_body

__all__ = ["Inbox", "conversation_body", "public_body"]

DEFAULT_LIMIT: Final = 100
LINE_BYTES: Final = 256  # about what a conversation takes without its last message


def public_body(record: ConversationRecord) -> dict[str, Any]:
    """What is the same for all members."""
    return {
        "conversation": record.id,
        "kind": record.kind,
        "title": record.title,
        "members": record.member_count,
        "last_seq": record.last_seq,
        "time": record.last_time,
    }


def conversation_body(record: ConversationRecord, user_id: str, read: int) -> dict[str, Any]:
    """A conversation as a member sees it."""
    body = public_body(record)
    if record.peers is not None and user_id in record.peers:
        first, second = record.peers
        body["peer"] = second if user_id == first else first
    body["read_seq"] = read
    body["unread"] = max(0, record.last_seq - read)
    return body


class Inbox:
    """Reads the conversations of a user, newest activity first."""

    __slots__ = ("_domain", "_pages")

    def __init__(self, domain: Domain, pages: Pages) -> None:
        self._domain = domain
        self._pages = pages

    async def conversations(self, session: Session, body: Conversations, ref: int | None) -> dict[str, Any]:
        """Serve ``conversations``."""
        async with self._pages.turn(session):
            return await self._page(session, body)

    async def _page(self, session: Session, body: Conversations) -> dict[str, Any]:
        user = session.user
        if user is None:
            return {"conversations": [], "more": False}
        limit = body.limit or DEFAULT_LIMIT
        memberships = self._newest(user, limit + 1, body.after)
        more = len(memberships) > limit
        # As they are now; reading the last messages takes its time.
        rows = [(m, m.conversation.record(), m.read) for m in memberships[:limit]]
        lasts = await self._last_messages([membership.conversation for membership, _, _ in rows])
        answers: list[dict[str, Any]] = []
        left = self._domain.page_bytes(session)
        for (membership, record, read), last in zip(rows, lasts, strict=True):
            if user.membership(record.id) is not membership:
                continue  # removed meanwhile
            answer = conversation_body(record, user.id, read)
            if last is not None and self._may_see(membership, record.last_seq):
                answer["last"] = message_body(session.encoding, message_fields(record.id, last))
            left -= LINE_BYTES + (len(answer["last"].data) if "last" in answer else 0)
            if left < 0 and answers:
                more = True
                break
            answers.append(answer)
        return {"conversations": answers, "more": more}

    @staticmethod
    def _newest(user: User, count: int, after: str | None) -> list[Membership]:
        """The memberships with the newest activity; they are loaded with their user."""

        def place(membership: Membership) -> tuple[int, int]:
            return membership.conversation.last_time, membership.conversation.key

        memberships: Iterable[Membership] = user.memberships()
        if after is not None:
            start = user.membership(after)
            if start is None:
                raise RequestError(ErrorCode.BAD_REQUEST, "after: no such conversation")
            end = place(start)
            memberships = [membership for membership in memberships if place(membership) < end]
        return heapq.nlargest(count, memberships, key=place)

    async def _last_messages(
        self, conversations: Sequence[Conversation]
    ) -> list[Append | MessageRecord | None]:
        """The last message of each: from its ring, or all others by one read, which begins their rings."""
        found: list[Append | MessageRecord | None] = []
        wanted: list[tuple[int, int, int]] = []
        missing: list[int] = []
        for place, conversation in enumerate(conversations):
            ring, last = conversation.ring, conversation.last_seq
            entry = ring.entries[-1] if ring is not None and ring.entries and ring.end == last + 1 else None
            found.append(entry[0] if entry is not None else None)
            if entry is None and last:
                missing.append(place)
                wanted.append((conversation.key, last - 1, last))
        if wanted:
            for place, records in zip(missing, await self._domain.store.replay(wanted, 1), strict=True):
                if records:
                    found[place] = records[0]
                    if conversations[place].loaded_members:
                        self._domain.rings.seed(conversations[place], records)
        return found

    def _may_see(self, membership: Membership, seq: int) -> bool:
        return not self._domain.options.history_from_joining or seq > membership.joined_seq
