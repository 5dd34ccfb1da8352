"""What is asked of the store for what is not loaded, through the cache.

Loaded users and conversations own their state and are asked first; only what stands beside them is cached,
and forgotten by the writes that change it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Final, NamedTuple

from fastim.im.conversation import Conversation
from fastim.im.domain import Domain
from fastim.im.user import User
from fastim.store.base import ConversationRecord, MemberRecord
from fastim.store.cache import MISSING

__all__ = ["FIRST_PAGE", "Lookups", "Profile"]

FIRST_PAGE: Final = 101  # members that are read at least for a first page, the default page and one more
MAX_PROFILE: Final = 1_000  # conversations of a user or device that is kept


class Profile(NamedTuple):
    """A user: the key, and the keys of the conversations."""

    key: int
    conversations: frozenset[int]


class _FirstPage(NamedTuple):
    """Members of a conversation from the first on; ``complete``: there are no more."""

    records: list[MemberRecord]
    complete: bool


class Lookups:
    """Reads of the store for the domain.

    Args:
        domain: The shared state.
    """

    __slots__ = ("_domain",)

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    async def conversation(self, conversation_id: str) -> ConversationRecord | None:
        """A conversation by its public id, as it is now.

        Raises:
            StoreError: not read.
        """
        domain = self._domain
        record = await domain.cache.get(
            ("conversation", conversation_id), lambda: domain.store.conversation(conversation_id)
        )
        if record is None:
            return None
        loaded = domain.conversations.get(record.key)
        return record if loaded is None else loaded.record()

    async def profile(self, user_id: str) -> Profile:
        """A user who is not loaded; one who is not known is made known.

        Raises:
            StoreError: not read.
        """
        cache, key = self._domain.cache, ("user", user_id)
        profile = await cache.get(key, lambda: self._read_profile(user_id))
        if len(profile.conversations) > MAX_PROFILE:
            cache.invalidate(key)
        return profile

    async def _read_profile(self, user_id: str) -> Profile:
        found = await self._domain.store.load_users([(user_id, "")])
        user_key, records = found[user_id, ""]
        return Profile(user_key, frozenset(record.conversation.key for record in records))

    async def is_member(self, user_id: str, record: ConversationRecord) -> bool:
        """Whether a user, loaded or not, is a member."""
        user = self._domain.users.get(user_id)
        if user is not None and user.membership(record.id) is not None:
            return True
        if record.peers is not None:
            return user_id in record.peers
        # A loaded user who is no member may be about to become one, or be cut off while a removal commits.
        profile = await (self._read_profile(user_id) if user is not None else self.profile(user_id))
        return record.key in profile.conversations

    # -- what a device has got

    def knows_positions(self, user: User, device: str, seen: Mapping[str, int]) -> bool:
        """Whether a resume of a loaded user's device needs no read to know where to begin."""
        unseen = [m.conversation.key for m in user.memberships() if m.conversation.id not in seen]
        if not unseen:
            return True
        kept = self._domain.cache.peek(("cursors", user.id, device))
        return kept is not MISSING and all(key in kept for key in unseen)

    def keep_positions(self, user_id: str, device: str, positions: dict[int, int]) -> None:
        """Keep what was read of a device, by conversation key; ``acknowledged`` moves it on."""
        if len(positions) <= MAX_PROFILE:
            self._domain.cache.put(("cursors", user_id, device), positions)

    def kept_positions(self, user_id: str, device: str) -> Mapping[int, int]:
        """What is kept of a device."""
        kept = self._domain.cache.peek(("cursors", user_id, device))
        return {} if kept is MISSING else dict(kept)

    def acknowledged(self, user_id: str, device: str, key: int, seq: int) -> None:
        """A device has got everything of a conversation up to ``seq``."""
        kept = self._domain.cache.peek(("cursors", user_id, device))
        if kept is not MISSING and kept.get(key, 0) < seq:
            kept[key] = seq

    # -- members

    async def members(self, conversation: Conversation, limit: int, after: str) -> list[MemberRecord]:
        """Members of a loaded conversation by user id, after ``after``; those who are loaded as they are now.

        Raises:
            StoreError: not read.
        """
        return [
            self._as_loaded(record, conversation)
            for record in await self._members(conversation, limit, after)
        ]

    async def _members(self, conversation: Conversation, limit: int, after: str) -> list[MemberRecord]:
        cache, key = self._domain.cache, ("members", conversation.key)
        if after:
            page = cache.peek(key)
            if not isinstance(page, _FirstPage) or not page.complete:
                return await self._domain.store.member_records(conversation.key, limit, after)
            return [record for record in page.records if record.user > after][:limit]

        async def read() -> _FirstPage:
            wanted = max(limit, FIRST_PAGE)
            records = await self._domain.store.member_records(conversation.key, wanted)
            return _FirstPage(records, len(records) < wanted)

        page = await cache.get(key, read)
        if limit > len(page.records) and not page.complete:
            cache.invalidate(key)  # kept for smaller pages
            page = await cache.get(key, read)
        found: list[MemberRecord] = page.records[:limit]
        return found

    def has_read(self, key: int, user_id: str, seq: int) -> None:
        """A member who is not loaded has read up to ``seq``, by sending: a page that is kept moves along."""
        cache = self._domain.cache
        page = cache.peek(("members", key))
        if not isinstance(page, _FirstPage):
            cache.invalidate(("members", key))  # one that is being read may be from before
            return
        place = bisect_left(page.records, user_id, key=lambda record: record.user)
        if place < len(page.records) and page.records[place].user == user_id:
            record = page.records[place]
            page.records[place] = record._replace(read=max(record.read, seq))

    def _as_loaded(self, record: MemberRecord, conversation: Conversation) -> MemberRecord:
        user = self._domain.users.get(record.user)
        membership = user.membership(conversation.id) if user is not None else None
        if membership is None:
            return record
        return record._replace(
            role="owner" if membership.owner else "member",
            delivered=max(record.delivered, min(membership.delivered, conversation.last_seq)),
            read=max(record.read, membership.read),
        )
