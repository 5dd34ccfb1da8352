"""Stored messages by the page."""

from __future__ import annotations

from typing import Any, Final

from fastim.im.delivery import message_fields
from fastim.im.domain import Domain, forbidden
from fastim.im.session import Session
from fastim.store.base import MessageRecord
from fastim.wire.bodies import History
from fastim.wire.encoders import message_body
from fastim.wire.native import Encoded

__all__ = ["DEFAULT_LIMIT", "MAX_BYTES", "MAX_LIMIT", "HistoryReader", "page_of_messages"]

MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 100
MAX_BYTES: Final = 262_144  # of an answer's body
FRAME_BYTES: Final = 64  # what stands around the messages of an answer


def page_of_messages(
    conversation_id: str, records: list[MessageRecord], more: bool, encoding: int
) -> dict[str, Any]:
    """The body of an answer, cut before it grows past MAX_BYTES but never empty for it."""
    messages: list[Encoded] = []
    left = MAX_BYTES - FRAME_BYTES
    for record in records:
        body = message_body(encoding, message_fields(conversation_id, record))
        left -= len(body.data) + 1
        if left < 0 and messages:
            return {"messages": messages, "more": True}
        messages.append(body)
    return {"messages": messages, "more": more}


class HistoryReader:
    """Reads pages of messages, for members and for operators."""

    __slots__ = ("_domain",)

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    async def history(self, session: Session, body: History, ref: int | None) -> dict[str, Any]:
        """Serve ``history``."""
        membership = self._domain.member_of(session, body.conversation)
        floor = membership.joined_seq if self._domain.options.history_from_joining else 0
        key = membership.conversation.key
        limit = body.limit or DEFAULT_LIMIT
        page = await self._page(
            key, body.conversation, session.encoding, body.after, body.before, limit, floor
        )
        # Read while the member was removed: not theirs any more.
        self._domain.member_of(session, body.conversation)
        return page

    async def of(
        self, conversation_id: str, encoding: int, after: int | None, before: int | None, limit: int
    ) -> dict[str, Any]:
        """Read a page as an operator."""
        record = await self._domain.store.conversation(conversation_id)
        if record is None:
            raise forbidden()
        return await self._page(
            record.key, conversation_id, encoding, after, before, min(limit, MAX_LIMIT), 0
        )

    async def _page(
        self,
        key: int,
        conversation_id: str,
        encoding: int,
        after: int | None,
        before: int | None,
        limit: int,
        floor: int,
    ) -> dict[str, Any]:
        if after is not None:
            after = max(after, floor)
        records, more = await self._domain.store.history(
            key, after=after, before=before, limit=limit, max_bytes=MAX_BYTES
        )
        if floor and after is None:
            kept = [record for record in records if record.seq > floor]
            records, more = (
                kept,
                more and len(kept) == len(records) and (not kept or kept[-1].seq > floor + 1),
            )
        return page_of_messages(conversation_id, records, more, encoding)
