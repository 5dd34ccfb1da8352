"""Who is a member of a conversation, loaded or not: read once, until the members change."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from fastim.im.conversation import Conversation
from fastim.im.domain import Domain
from fastim.im.lookups import FIRST_PAGE, Lookups
from fastim.store.cache import Cache

__all__ = ["Rosters"]

MAX_USERS: Final = 200_000  # kept in memory, over all conversations
NO_LIMIT: Final = 1 << 31


class Rosters:
    """User ids of the members of loaded conversations; the longest unused go first.

    Args:
        domain: The shared state.
        lookups: Reads the members.
    """

    __slots__ = ("_domain", "_flights", "_lookups", "_rosters", "_user_count")

    def __init__(self, domain: Domain, lookups: Lookups) -> None:
        self._domain = domain
        self._lookups = lookups
        self._rosters: OrderedDict[Conversation, tuple[int, frozenset[str]]] = OrderedDict()
        self._user_count = 0
        self._flights = Cache(1, 0, domain.clock_ns)  # whose values have no life: it joins reads, no more

    def known(self, conversation: Conversation) -> frozenset[str] | None:
        """The members as they are, where they were read; else None."""
        found = self._rosters.get(conversation)
        return found[1] if found is not None and found[0] == conversation.more().version else None

    async def of(self, conversation: Conversation) -> frozenset[str]:
        """The members.

        Raises:
            StoreError: They had to be read and could not be.
        """
        version = conversation.more().version
        roster = self.known(conversation)
        if roster is not None:
            self._rosters.move_to_end(conversation)
            return roster
        if conversation.member_count < FIRST_PAGE:
            records = await self._lookups.members(conversation, FIRST_PAGE, "")  # as ``members`` reads it
            roster = frozenset([record.user for record in records])
        else:
            key = ("roster", conversation.key, version)
            roster = await self._flights.get(key, lambda: self._read(conversation))
        if conversation.loaded_members and conversation.more().version == version:
            self._keep(conversation, version, roster)
        return roster

    async def _read(self, conversation: Conversation) -> frozenset[str]:
        limit = self._domain.options.max_members or NO_LIMIT
        records = await self._domain.store.member_records(conversation.key, limit)
        return frozenset([record.user for record in records])

    def _keep(self, conversation: Conversation, version: int, roster: frozenset[str]) -> None:
        self._drop(conversation)
        self._rosters[conversation] = (version, roster)
        self._user_count += len(roster)
        while self._user_count > MAX_USERS:
            self._drop(next(iter(self._rosters)))

    def _drop(self, conversation: Conversation) -> None:
        found = self._rosters.pop(conversation, None)
        if found is not None:
            self._user_count -= len(found[1])
