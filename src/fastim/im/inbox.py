"""The list of one's conversations, with what is unread."""

from __future__ import annotations

from typing import Any, Final

from fastim.im.delivery import message_fields
from fastim.im.domain import Domain
from fastim.im.pages import Pages
from fastim.im.session import Session
from fastim.store.base import ConversationRecord, InboxRow
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
        rows, more = await self._domain.store.inbox(user.key, body.limit or DEFAULT_LIMIT, body.after)
        answers: list[dict[str, Any]] = []
        left = self._domain.page_bytes(session)
        for row in rows:
            answer = self._line(session, row)
            left -= LINE_BYTES + (len(answer["last"].data) if "last" in answer else 0)
            if left < 0 and answers:
                more = True
                break
            answers.append(answer)
        return {"conversations": answers, "more": more}

    def _line(self, session: Session, row: InboxRow) -> dict[str, Any]:
        record = row.conversation
        answer = conversation_body(record, session.user_id, row.read)
        last = row.last
        if last is not None and self._may_see(session, record.id, last.seq):
            answer["last"] = message_body(session.encoding, message_fields(record.id, last))
        return answer

    def _may_see(self, session: Session, conversation_id: str, seq: int) -> bool:
        if not self._domain.options.history_from_joining or session.user is None:
            return True
        membership = session.user.membership(conversation_id)
        return membership is not None and seq > membership.joined_seq
