"""Presence: the state of users over their devices, told to those who subscribed."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, NamedTuple

from fastim._core.hub import Encoding, Lane
from fastim.errors import ErrorCode, RequestError
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain
from fastim.im.session import Session, Status
from fastim.im.user import User
from fastim.wire.native import Encoded, encode_packet

__all__ = ["MAX_LAST_SEEN", "MAX_USERS", "MAX_WATCHED", "STATUS_NAMES", "Presence"]

MAX_USERS: Final = 500  # of one request, and of one answer
MAX_WATCHED: Final = 10_000  # subscriptions of one connection
MAX_LAST_SEEN: Final = 100_000  # users remembered as seen
MAX_ROSTER_USERS: Final = 200_000  # kept in memory
NO_LIMIT: Final = 1 << 31
MAX_ROSTERS: Final = 200  # conversations read to find out whether users share one, for one request
STATUS_NAMES: Final = {status.value: status.name.lower() for status in Status}


def same(one: Encoded | None, other: Encoded | None) -> bool:
    """Whether two encoded values are the same bytes; what is not may still be the same value."""
    if one is None or other is None:
        return one is other
    return one.encoding == other.encoding and one.data == other.data


class _Leaving(NamedTuple):
    """A user whose last connection has gone, in the grace time."""

    deadline_ns: int
    gone_ms: int


class _Window:
    """What a subscriber is told at the window's end: the latest state of each user."""

    __slots__ = ("pending", "until_ns")

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.pending: dict[str, dict[str, Any]] = {}


class _Watched:
    """What a connection has subscribed to."""

    __slots__ = ("conversations", "users")

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.conversations: set[Conversation] = set()


class Presence:
    """Presence of all loaded users, and the subscriptions to it."""

    __slots__ = (
        "_domain",
        "_last_seen",
        "_late",
        "_leaving",
        "_roster_users",
        "_rosters",
        "_told",
        "_watched",
        "_watchers",
        "_windows",
        "muted",
    )

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._leaving: OrderedDict[User, _Leaving] = OrderedDict()  # the earliest deadline first
        self._last_seen: OrderedDict[str, int] = OrderedDict()
        self._watchers: dict[str, set[Session]] = {}  # user id → subscribed connections
        self._watched: dict[Session, _Watched] = {}
        self._windows: dict[Session, _Window] = {}
        self._told: dict[User, int] = {}  # users told of just now, and until when; the earliest first
        self._late: dict[User, None] = {}  # those of them who changed since
        self._rosters: OrderedDict[Conversation, tuple[int, frozenset[str]]] = OrderedDict()
        self._roster_users = 0
        self.muted = False  # a server that goes tells nobody that everybody left

    # -- states

    def arrive(self, user: User, session: Session) -> None:
        """A connection of the user has come; ``user.sessions`` names it already."""
        self._leaving.pop(user, None)
        self._settle(user, session)

    def depart(self, user: User, session: Session) -> None:
        """A connection has gone, and left ``user.sessions``; with the last the grace time begins."""
        self._unwatch_all(session)
        if user.sessions:
            self._settle(user, session)
            return
        domain = self._domain
        deadline_ns = domain.clock_ns() + domain.options.offline_grace_ms * NS_PER_MS
        self._leaving[user] = _Leaving(deadline_ns, domain.time_ms())

    def replace(self, session: Session) -> None:
        """A connection was replaced by another of the same session, which took its state over."""
        self._unwatch_all(session)

    def change(self, session: Session, status: int, metadata: Encoded | None) -> None:
        """Take the state a device names."""
        user = session.user
        if user is None:
            return
        session.status = status
        session.metadata = metadata
        self._settle(user, session)

    def _settle(self, user: User, session: Session) -> None:
        """Tell the subscribers if the state of a device moved the user's.

        The other devices are at most what was told before, so the search ends at the first that is: a user
        with thousands of connections costs no more than one with two.
        """
        told = user.status
        status: int = session.status if session in user.sessions else Status.OFFLINE
        if status < told:
            for other in user.sessions:
                status = max(status, other.status)
                if status >= told:
                    break
        user.status = status
        metadata = self._metadata(user) if user.metadata or session.metadata else None
        if status != told or not same(metadata, user.metadata):
            user.metadata = metadata
            self._notify(user)

    @staticmethod
    def _metadata(user: User) -> Encoded | None:
        """Of the device that decides the status, the latest to come; of any other if that one names none."""
        found: Encoded | None = None
        for session in reversed(user.sessions):
            metadata: Encoded | None = session.metadata
            if metadata is not None:
                if session.status == user.status:
                    return metadata
                found = found or metadata
        return found

    def _update(self, user: User) -> dict[str, Any]:
        offline = user.status == Status.OFFLINE
        return {
            "user": user.id,
            "status": STATUS_NAMES[user.status],
            "last_seen": self._last_seen.get(user.id) if offline else None,
            "metadata": user.metadata,
        }

    # -- time

    def tick(self, now_ns: int) -> None:
        """End grace times and windows that are over."""
        while self._leaving:
            user, leaving = next(iter(self._leaving.items()))
            if leaving.deadline_ns > now_ns:
                break
            del self._leaving[user]
            self._remember(user.id, leaving.gone_ms)
            user.status = Status.OFFLINE
            user.metadata = None
            self._notify(user)
            self._domain.drop_user(user)
        while self._told:
            user, until_ns = next(iter(self._told.items()))
            if until_ns > now_ns:
                break
            del self._told[user]
            if user in self._late:
                del self._late[user]
                self._tell(user, now_ns)
        if self._windows:
            for session in [s for s, window in self._windows.items() if window.until_ns <= now_ns]:
                self._close_window(session, now_ns)

    def _remember(self, user_id: str, gone_ms: int) -> None:
        self._last_seen[user_id] = gone_ms
        self._last_seen.move_to_end(user_id)
        if len(self._last_seen) > MAX_LAST_SEEN:
            self._last_seen.popitem(last=False)

    def _close_window(self, session: Session, now_ns: int) -> None:
        pending = self._windows[session].pending
        if not pending:
            del self._windows[session]
            return
        self._windows[session] = _Window(now_ns + self._domain.options.window_ms * NS_PER_MS)
        session.send_event("state_batch", {"updates": list(pending.values())}, Lane.LOW)

    # -- telling

    def _subscribers(self, user: User) -> set[Session]:
        watchers = self._watchers.get(user.id)
        found: set[Session] = set()
        if watchers:
            shared_only = self._domain.options.presence_shared_only
            for session in watchers:
                if session.user is not None and (not shared_only or session.user.shares_with(user)):
                    found.add(session)
        for membership in user.memberships():
            rare = membership.conversation.rare
            if rare is not None and rare.watchers:
                found |= rare.watchers
        return found

    def _notify(self, user: User) -> None:
        """Tell the subscribers: at once, or at the window's end.

        A window of the user's own bounds what a flood of changes costs: finding the subscribers takes as long
        as there are subscribers.
        """
        now_ns = self._domain.clock_ns()
        if self._told.get(user, 0) > now_ns and user.status != Status.OFFLINE:
            self._late[user] = None
            return
        self._told.pop(user, None)
        self._late.pop(user, None)
        self._tell(user, now_ns)

    def _tell(self, user: User, now_ns: int) -> None:
        """Tell each subscriber: at once, or at the end of the window that is open for it."""
        if not self._watched or self.muted:
            return
        self._told[user] = now_ns + self._domain.options.window_ms * NS_PER_MS
        subscribers = self._subscribers(user)
        if not subscribers:
            return
        until_ns = now_ns + self._domain.options.window_ms * NS_PER_MS
        update = {"type": "presence", **self._update(user), "time": self._domain.time_ms()}
        packets: dict[int, bytes] = {}
        for session in subscribers:
            window = self._windows.get(session)
            if window is not None and (window.until_ns > now_ns or window.pending):
                window.pending.pop(user.id, None)
                window.pending[user.id] = update
                continue
            self._windows[session] = _Window(until_ns)
            encoding = session.encoding
            if encoding not in packets:
                packets[encoding] = encode_packet("state_batch", {"updates": [update]}, Encoding(encoding))
            session.hub.send(session.handle, packets[encoding], Lane.LOW)

    # -- subscriptions

    async def subscribe_users(self, session: Session, users: list[str]) -> dict[str, Any]:
        """Subscribe to users and tell where they stand.

        Those one shares no conversation with are left out as if they did not exist; if that leaves nobody,
        the answer is ``forbidden``.
        """
        wanted = list(dict.fromkeys(users))
        if self._domain.options.presence_shared_only:
            allowed = await self._allowed(session, wanted)
            if wanted and not allowed:
                raise RequestError(ErrorCode.FORBIDDEN, "users: none that shares a conversation with you")
            wanted = [user_id for user_id in wanted if user_id in allowed]
        watched = self._watch(session, len(wanted))
        if watched is not None:
            for user_id in wanted:
                watched.users.add(user_id)
                self._watchers.setdefault(user_id, set()).add(session)
        return {"users": [self._snapshot(user_id) for user_id in wanted]}

    async def subscribe_conversation(self, session: Session, conversation: Conversation) -> dict[str, Any]:
        """Subscribe to all members, later ones too; the answer holds the first 500, present ones first."""
        roster = await self._roster(conversation)
        self._domain.member_of(session, conversation.id)  # the roster took its time
        watched = self._watch(session, 1)
        if watched is not None:
            watched.conversations.add(conversation)
            conversation.more().watchers.add(session)
        loaded = self._domain.users
        ordered = sorted(roster, key=lambda user_id: (user_id not in loaded, user_id))
        return {"users": [self._snapshot(user_id) for user_id in ordered[:MAX_USERS]]}

    def unsubscribe_users(self, session: Session, users: list[str]) -> dict[str, Any]:
        """Take subscriptions to users back."""
        watched = self._watched.get(session)
        if watched is not None:
            for user_id in users:
                watched.users.discard(user_id)
                self._unwatch(session, user_id)
            self._forget_if_empty(session, watched)
        return {"users": []}

    def unsubscribe_conversation(self, session: Session, conversation: Conversation) -> dict[str, Any]:
        """Take the subscription to a conversation's members back."""
        watched = self._watched.get(session)
        if watched is not None:
            watched.conversations.discard(conversation)
            if conversation.rare is not None:
                conversation.rare.watchers.discard(session)
            self._forget_if_empty(session, watched)
        return {"users": []}

    def _snapshot(self, user_id: str) -> dict[str, Any]:
        user = self._domain.users.get(user_id)
        if user is not None:
            return self._update(user)
        last_seen = self._last_seen.get(user_id)
        return {"user": user_id, "status": "offline", "last_seen": last_seen, "metadata": None}

    def _watch(self, session: Session, count: int) -> _Watched | None:
        """What the session watches, with room for more; None if it has gone meanwhile."""
        if session.user is None or session not in session.user.sessions:
            return None
        watched = self._watched.setdefault(session, _Watched())
        if len(watched.users) + len(watched.conversations) + count > MAX_WATCHED:
            raise RequestError(ErrorCode.BAD_REQUEST, f"users: more than {MAX_WATCHED} subscriptions")
        return watched

    def _unwatch(self, session: Session, user_id: str) -> None:
        watchers = self._watchers.get(user_id)
        if watchers is not None:
            watchers.discard(session)
            if not watchers:
                del self._watchers[user_id]

    def _forget_if_empty(self, session: Session, watched: _Watched) -> None:
        if not watched.users and not watched.conversations:
            del self._watched[session]
            self._windows.pop(session, None)

    def _unwatch_all(self, session: Session) -> None:
        self._windows.pop(session, None)
        watched = self._watched.pop(session, None)
        if watched is None:
            return
        for user_id in watched.users:
            self._unwatch(session, user_id)
        for conversation in watched.conversations:
            if conversation.rare is not None:
                conversation.rare.watchers.discard(session)

    # -- who shares a conversation

    async def _allowed(self, session: Session, users: list[str]) -> set[str]:
        """Those of the users the session's user shares a conversation with.

        Loaded users and direct conversations answer from memory; for the rest the rosters of the groups are
        read, each once until it changes, and at most MAX_ROSTERS for a request.
        """
        me = session.user
        if me is None:
            return set()
        allowed: set[str] = set()
        missing: set[str] = set()
        loaded = self._domain.users
        for user_id in users:
            user = loaded.get(user_id)
            if user is None:
                missing.add(user_id)
            elif me.shares_with(user):
                allowed.add(user_id)
        groups: list[Conversation] = []
        for membership in me.memberships() if missing else ():
            conversation = membership.conversation
            if conversation.peers is None:
                groups.append(conversation)
            else:
                allowed |= missing.intersection(conversation.peers)
        missing -= allowed
        groups.sort(key=lambda conversation: conversation.member_count)
        for conversation in groups[:MAX_ROSTERS]:
            if not missing:
                break
            found = missing & await self._roster(conversation)
            allowed |= found
            missing -= found
        return allowed

    async def _roster(self, conversation: Conversation) -> frozenset[str]:
        """User ids of all members, read once until they change."""
        known = self._rosters.get(conversation)
        version = conversation.more().version
        if known is not None and known[0] == version:
            self._rosters.move_to_end(conversation)
            return known[1]
        self._drop_roster(conversation)
        limit = self._domain.options.max_members or NO_LIMIT
        roster = frozenset([m.user for m in await self._domain.store.member_records(conversation.key, limit)])
        if conversation.loaded_members and conversation.more().version == version:
            self._drop_roster(conversation)
            self._rosters[conversation] = (version, roster)
            self._roster_users += len(roster)
            while self._roster_users > MAX_ROSTER_USERS:
                self._drop_roster(next(iter(self._rosters)))
        return roster

    def _drop_roster(self, conversation: Conversation) -> None:
        known = self._rosters.pop(conversation, None)
        if known is not None:
            self._roster_users -= len(known[1])

    def remove_member(self, user: User, conversation: Conversation) -> None:
        """The user is no member any more; subscriptions to users end where none is shared any more."""
        for session in user.sessions:
            if session in self._watched:
                self.unsubscribe_conversation(session, conversation)

    def stats(self) -> dict[str, int]:
        return {"presence_watchers": len(self._watched), "users_leaving": len(self._leaving)}
