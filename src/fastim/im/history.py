"""Stored messages by the page."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from fastim.im.conversation import Conversation, RingEntry
from fastim.im.delivery import message_fields
from fastim.im.domain import Domain, forbidden
from fastim.im.lookups import Lookups
from fastim.im.pages import Pages
from fastim.im.session import Session
from fastim.store.base import MessageRecord
from fastim.wire.bodies import History
from fastim.wire.encoders import body_of_new_message, message_body
from fastim.wire.native import Encoded

__all__ = ["DEFAULT_LIMIT", "MAX_LIMIT", "HistoryReader", "page_of_messages"]

MAX_LIMIT: Final = 500
DEFAULT_LIMIT: Final = 100
FRAME_BYTES: Final = 64  # what stands around the messages of an answer


class Question(NamedTuple):
    """What page is wanted, for whom.

    Attributes:
        floor: Messages up to this seq are not theirs to see.
        max_bytes: Of the answer.
    """

    key: int
    conversation_id: str
    encoding: int
    after: int | None
    before: int | None
    limit: int
    floor: int
    max_bytes: int


def page_of_messages(question: Question, records: list[MessageRecord], more: bool) -> dict[str, Any]:
    """The body of an answer, cut before it grows past its bound but never empty for it."""
    messages: list[Encoded] = []
    left = question.max_bytes - FRAME_BYTES
    for record in records:
        body = message_body(question.encoding, message_fields(question.conversation_id, record))
        left -= len(body.data) + 1
        if left < 0 and messages:
            return {"messages": messages, "more": True}
        messages.append(body)
    return {"messages": messages, "more": more}


def page_of_ring(question: Question, conversation: Conversation) -> dict[str, Any] | None:
    """The same from the latest messages in memory; None where they do not reach as far as the page."""
    ring, last = conversation.ring, conversation.last_seq
    if ring is None or ring.end != last + 1:
        return None
    messages: list[Encoded] = []
    left = question.max_bytes - FRAME_BYTES
    ascending = question.after is not None
    if question.after is not None:
        seq = max(question.after, question.floor) + 1
    else:
        seq = last if question.before is None else min(question.before - 1, last)
    more = seq <= last if ascending else seq > question.floor
    while more and len(messages) < question.limit:
        if seq < ring.first:
            return None
        body = body_of_entry(question, ring.entries[seq - ring.first])
        left -= len(body.data) + 1
        if left < 0 and messages:
            break
        messages.append(body)
        seq += 1 if ascending else -1
        more = seq <= last if ascending else seq > question.floor
    return {"messages": messages, "more": more}


def body_of_entry(question: Question, entry: RingEntry) -> Encoded:
    """A message's body: cut out of its packet where there is one."""
    packet = entry[2] if question.encoding else entry[1]
    if packet is not None:
        return body_of_new_message(question.encoding, packet)
    return message_body(question.encoding, message_fields(question.conversation_id, entry[0]))


class HistoryReader:
    """Reads pages of messages, for members and for operators."""

    __slots__ = ("_domain", "_lookups", "_pages")

    def __init__(self, domain: Domain, lookups: Lookups, pages: Pages) -> None:
        self._domain = domain
        self._lookups = lookups
        self._pages = pages

    async def history(self, session: Session, body: History, ref: int | None) -> dict[str, Any]:
        """Serve ``history``."""
        domain = self._domain
        domain.member_of(session, body.conversation)
        async with self._pages.turn(session):
            membership = domain.member_of(session, body.conversation)
            question = Question(
                membership.conversation.key,
                body.conversation,
                session.encoding,
                body.after,
                body.before,
                body.limit or DEFAULT_LIMIT,
                membership.joined_seq if domain.options.history_from_joining else 0,
                domain.page_bytes(session),
            )
            page = await self._read(question)
            # Read while the member was removed: not theirs any more.
            domain.member_of(session, body.conversation)
            return page

    async def of(
        self, conversation_id: str, encoding: int, after: int | None, before: int | None, limit: int
    ) -> dict[str, Any]:
        """Read a page as an operator."""
        record = await self._lookups.conversation(conversation_id)
        if record is None:
            raise forbidden()
        limit = min(limit, MAX_LIMIT)
        return await self._read(
            Question(
                record.key,
                conversation_id,
                encoding,
                after,
                before,
                limit,
                0,
                self._domain.options.page_bytes,
            )
        )

    async def _read(self, question: Question) -> dict[str, Any]:
        after, floor = question.after, question.floor
        conversation = self._domain.conversations.get(question.key)
        if conversation is not None and (page := page_of_ring(question, conversation)) is not None:
            return page
        records, more = await self._domain.store.history(
            question.key,
            after=max(after, floor) if after is not None else None,
            before=question.before,
            limit=question.limit,
            max_bytes=question.max_bytes,
        )
        if (
            conversation is not None
            and conversation.loaded_members
            and after is None
            and question.before is None
        ):
            self._domain.rings.seed(conversation, records[::-1])
        if floor and after is None:
            kept = [record for record in records if record.seq > floor]
            more = more and len(kept) == len(records) and kept[-1].seq > floor + 1
            records = kept
        return page_of_messages(question, records, more)
