"""Conversations come into being and change: who may, who is told, and whose sessions come and go with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from fastim.errors import ErrorCode, LimitExceeded, RequestError
from fastim.im.conversation import Change, Conversation
from fastim.im.delivery import bad_request
from fastim.im.domain import Domain, forbidden
from fastim.im.inbox import conversation_body, public_body
from fastim.im.lookups import Lookups
from fastim.im.pages import Pages
from fastim.im.session import Session
from fastim.im.user import Membership, User
from fastim.store.base import ConversationRecord, MemberRecord, MembershipRecord
from fastim.wire.bodies import ConversationCreate, ConversationUpdate, Members
from fastim.wire.native import encode_packet

__all__ = ["NAME_SCOPE", "Conversations"]

NAME_SCOPE: Final = "name_conversations"
DEFAULT_LIMIT: Final = 100
DIRECT_MEMBERS: Final = 2

RemovedHook = Callable[[User, Conversation], None]
RestoredHook = Callable[[User, Conversation, int], None]
Suspended = tuple[User, Membership, int]
"""A user cut off before the removal is committed, and up to where everything was delivered."""


class Conversations:
    """Creates and changes conversations, for members and for operators.

    Args:
        domain: The shared state.
        lookups: Reads what is not loaded.
        pages: Gives large answers their turns.
        on_removed: Called for each loaded user who is no member any more, before the membership goes.
        on_restored: Called with a seq for each who is one again since the removal failed: what follows the
            seq was not delivered.
        on_left: Called with the user ids of all, loaded or not, who are no members any more.
    """

    __slots__ = ("_domain", "_joining", "_lookups", "_on_left", "_on_removed", "_on_restored", "_pages")

    def __init__(
        self,
        domain: Domain,
        lookups: Lookups,
        pages: Pages,
        on_removed: RemovedHook,
        on_restored: RestoredHook,
        on_left: Callable[[Iterable[str]], None],
    ) -> None:
        self._lookups = lookups
        self._on_left = on_left
        self._pages = pages
        self._on_restored = on_restored
        self._domain = domain
        self._on_removed = on_removed
        self._joining: dict[int, int] = {}  # conversation key → members being added right now

    # -- from clients

    async def create(self, session: Session, body: ConversationCreate, ref: int | None) -> dict[str, Any]:
        """Serve ``conversation_create``."""
        if body.conversation is not None and not self._may_name(session):
            raise RequestError(ErrorCode.FORBIDDEN, f"conversation: needs the scope {NAME_SCOPE}")
        self._meter(session, 1 + len(body.members))
        return await self.create_as(
            session.user_id,
            body.kind,
            body.members,
            body.title or "",
            id=body.conversation,
            client_id=body.client_id,
            origin=session,
        )

    def _meter(self, session: Session, count: int) -> None:
        """Count members that a client puts into a conversation.

        Raises:
            LimitExceeded: They are too many for the time.
        """
        limit = self._domain.options.limit_members
        if limit is not None and (retry_after_ms := limit(session, count)):
            raise LimitExceeded("too many members in a short time", retry_after_ms)

    def _may_name(self, session: Session) -> bool:
        return self._domain.options.dev_login or NAME_SCOPE in session.scope

    async def update(self, session: Session, body: ConversationUpdate, ref: int | None) -> dict[str, Any]:
        """Serve ``conversation_update``: the owner's, or leaving."""
        membership = self._domain.member_of(session, body.conversation)
        conversation = membership.conversation
        leaving = body.title is None and not body.add and body.remove == [session.user_id]
        if conversation.peers is not None:
            raise bad_request("conversation", "a direct one has its two members and no title")
        if not membership.owner and not (leaving and self._domain.options.allow_leave):
            raise RequestError(ErrorCode.FORBIDDEN, "conversation: only its owner may change it")
        self._meter(session, 1 + len(body.add))
        record = await self._change(
            conversation.key, conversation.member_count, body.title, body.add, body.remove, session
        )
        return self._as_seen_by(record, session.user_id)

    async def members(self, session: Session, body: Members, ref: int | None) -> dict[str, Any]:
        """Serve ``members``."""
        limit = body.limit or DEFAULT_LIMIT
        async with self._pages.turn(session):
            conversation = self._domain.member_of(session, body.conversation).conversation
            records = await self._lookups.members(conversation, limit + 1, body.after or "")
            # Read while the asker was removed: not theirs any more.
            self._domain.member_of(session, body.conversation)
        members = [self._member_body(record) for record in records[:limit]]
        return {"members": members, "more": len(records) > limit}

    @staticmethod
    def _member_body(record: MemberRecord) -> dict[str, Any]:
        return {
            "user": record.user,
            "role": record.role,
            "delivered": record.delivered,
            "read": record.read,
            "joined": record.joined,
        }

    # -- creating

    async def create_as(
        self,
        creator: str,
        kind: str,
        members: Iterable[str],
        title: str = "",
        *,
        id: str | None = None,
        client_id: str | None = None,
        origin: Session | None = None,
    ) -> dict[str, Any]:
        """Create a conversation, or return the one that a repeat means.

        Raises:
            RequestError: ``bad_request``; ``forbidden`` for one that exists and the creator is not in.
        """
        domain = self._domain
        everyone = list(dict.fromkeys((creator, *members) if creator else members))
        self._check_members(kind, everyone, title)
        with self._in_flight():
            record, is_new = await domain.store.create_conversation(
                kind, creator, everyone, title, domain.time_ms(), id, client_id
            )
            if is_new:
                domain.cache.invalidate(("conversation", record.id))
                self._enter(record, everyone, origin)
            elif creator and not await self._lookups.is_member(creator, record):
                raise forbidden()
        return self._as_seen_by(record, creator)

    def _check_members(self, kind: str, everyone: list[str], title: str) -> None:
        limit = self._domain.options.max_members
        if kind == "direct":
            if len(everyone) != DIRECT_MEMBERS:
                raise bad_request("members", "a direct conversation has two different members")
            if title:
                raise bad_request("title", "a direct conversation has none")
        elif kind != "group":
            raise bad_request("kind", "expected direct or group")
        if limit and len(everyone) > limit:
            raise bad_request("members", f"expected at most {limit} members")

    def _enter(self, record: ConversationRecord, everyone: list[str], origin: Session | None) -> None:
        """Make the loaded users members of a new conversation, and tell them."""
        self._domain.changed(everyone)
        for user_id in everyone:
            user = self._domain.users.get(user_id)
            if user is not None:
                role = "owner" if user_id == record.owner else "member"
                member = MemberRecord(user_id, user.key, role, 0, 0, record.last_time, 0)
                self._domain.add_membership(user, MembershipRecord(record, member, 0))
                self._tell(user, "added", conversation_body(record, user_id, 0), origin)

    # -- changing

    async def update_as_operator(
        self, conversation_id: str, title: str | None, add: Iterable[str], remove: Iterable[str]
    ) -> dict[str, Any]:
        """Change a conversation whoever owns it."""
        record = await self._lookups.conversation(conversation_id)
        if record is None:
            raise forbidden()
        if record.peers is not None:
            raise bad_request("conversation", "a direct one has its two members and no title")
        record = await self._change(record.key, record.member_count, title, list(add), list(remove), None)
        return public_body(record)

    async def _change(
        self,
        key: int,
        member_count: int,
        title: str | None,
        add: list[str],
        remove: list[str],
        origin: Session | None,
    ) -> ConversationRecord:
        domain = self._domain
        remove_set = set(remove)
        add = [user_id for user_id in dict.fromkeys(add) if user_id not in remove_set]
        limit = domain.options.max_members
        joining = self._joining.get(key, 0) + len(add)
        if add and limit and member_count + joining > limit:
            raise bad_request("add", f"expected at most {limit} members in all")
        self._joining[key] = joining
        try:
            with self._in_flight(), self._suspended(key, remove_set) as suspended:
                record, added, removed = await domain.store.update_conversation(
                    key, domain.time_ms(), title, add, list(remove_set)
                )
                self._apply(record, added, removed, origin, changed=title is not None)
                for entry in [entry for entry in suspended if entry[0].id in removed]:
                    suspended.remove(entry)
                    self._tell_removed(entry[0], record, origin)
        finally:
            left = self._joining.get(key, 0) - len(add)
            if left > 0:
                self._joining[key] = left
            else:
                self._joining.pop(key, None)
        return record

    @contextmanager
    def _suspended(self, key: int, users: set[str]) -> Iterator[list[Suspended]]:
        """Cut the users off for the time of the change; who is left in the list then is restored."""
        conversation = self._domain.conversations.get(key) if users else None
        if conversation is None:
            yield []
            return
        conversation.loaded_members += 1  # stays loaded for the restored
        suspended = self._suspend(conversation, users)
        try:
            yield suspended
        finally:
            self._restore(suspended)
            self._domain.release(conversation)

    # -- removing

    def _suspend(self, conversation: Conversation, users: set[str]) -> list[Suspended]:
        """Cut users off before their removal commits: what commits after it must not reach them."""
        suspended: list[Suspended] = []
        for user_id in users:
            user = self._domain.users.get(user_id)
            membership = user.membership(conversation.id) if user is not None else None
            if user is not None and membership is not None:
                suspended.append((user, membership, conversation.last_seq))
                self._cut(user, membership)
        return suspended

    def _restore(self, suspended: list[Suspended]) -> None:
        """The removal failed: the users are members as before, and get what they missed meanwhile."""
        for user, membership, position in suspended:
            conversation = membership.conversation
            if self._domain.users.get(user.id) is user and user.membership(conversation.id) is None:
                conversation.loaded_members += 1
                user.join(membership)
                self._on_restored(user, conversation, position)

    def _cut(self, user: User, membership: Membership) -> None:
        """Take a membership and all that hangs on it away from a loaded user."""
        conversation = membership.conversation
        for session in user.sessions:
            self._domain.hub.unsubscribe(conversation.topic, session.handle)
            if conversation.rare is not None:
                conversation.rare.ack_sessions.discard(session)
        self._on_removed(user, conversation)
        user.leave(membership)
        self._domain.release(conversation)

    def _tell_removed(self, user: User, record: ConversationRecord, origin: Session | None) -> None:
        body = {"conversation": record.id, "kind": record.kind, "title": record.title}
        self._tell(user, "removed", body, origin)

    def _apply(
        self,
        record: ConversationRecord,
        added: list[MemberRecord],
        removed: list[str],
        origin: Session | None,
        *,
        changed: bool,
    ) -> None:
        """Take a committed change over: the removed leave at once, the others are told, the added come in."""
        domain = self._domain
        domain.changed([*removed, *(member.user for member in added)])
        domain.cache.invalidate(("conversation", record.id))
        domain.cache.invalidate(("members", record.key))
        for user_id in removed:
            # Most were cut off before; this is who came in by a read that was older than the commit.
            gone = domain.users.get(user_id)
            membership = gone.membership(record.id) if gone is not None else None
            if gone is not None and membership is not None:
                self._cut(gone, membership)
                self._tell_removed(gone, record, origin)
        if removed:
            self._on_left(removed)
        heir = domain.users.get(record.owner) if removed else None
        inherited = heir.membership(record.id) if heir is not None else None
        if inherited is not None:
            inherited.owner = True  # the owner has left, or owned it before
        conversation = domain.conversations.get(record.key)
        if conversation is not None:
            conversation.update(record)
            if changed or added or removed:
                self._tell_changed(conversation, record, origin)
        for member in added:
            user = domain.users.get(member.user)
            if user is not None:
                domain.add_membership(user, MembershipRecord(record, member, member.joined_seq))
                self._tell(user, "added", conversation_body(record, member.user, member.read), origin)

    # -- helpers

    @contextmanager
    def _in_flight(self) -> Iterator[None]:
        """Commits reported while a change is on its way must not be lost for whoever comes in by it."""
        self._domain.load_begins()
        try:
            yield
        finally:
            self._domain.load_ends()

    def _tell(self, user: User, change: str, body: dict[str, Any], origin: Session | None) -> None:
        self._domain.tell(user, "conversation", {"change": change, "conversation": body}, origin)

    def _tell_changed(
        self, conversation: Conversation, record: ConversationRecord, origin: Session | None
    ) -> None:
        domain, offset, exclude = self._domain, b"", 0
        if domain.journal is not None:
            number, offset = domain.journal.change()
            by = origin.session_id if origin is not None else ""
            conversation.more().change = Change(number, domain.last_key, by)
        if origin is not None:
            exclude = origin.handle
        body = {"change": "changed", "conversation": public_body(record)}
        domain.publish(conversation, "conversation", body, exclude=exclude, offset=offset)

    def changes(self, session: Session, since: int) -> list[tuple[Change, bytes]]:
        """The conversations of a session that have changed since a number, as they are now; see ``Journal``.

        Returns:
            The last change of each, and the event that tells of it; ascending.
        """
        user, found = session.user, []
        for membership in user.memberships() if user is not None else ():
            conversation = membership.conversation
            change = conversation.rare.change if conversation.rare is not None else None
            if change is not None and change.number > since and change.session != session.session_id:
                body = {"change": "changed", "conversation": public_body(conversation.record())}
                found.append((change, encode_packet("conversation", body, session.encoding)))
        return sorted(found)

    def _as_seen_by(self, record: ConversationRecord, user_id: str) -> dict[str, Any]:
        user = self._domain.users.get(user_id)
        membership = user.membership(record.id) if user is not None else None
        if membership is None:
            return public_body(record)
        return conversation_body(record, user_id, min(membership.read, record.last_seq))
