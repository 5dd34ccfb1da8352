"""Presence: the state of users over their devices, told to those who subscribed."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final, NamedTuple

from fastim._core.hub import Lane
from fastim.errors import ErrorCode, RequestError
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain
from fastim.im.rosters import Rosters
from fastim.im.session import Session, Status
from fastim.im.user import User
from fastim.im.watchers import Feed, Update, Watchers, first_that_fit, frame
from fastim.wire.native import Encoded

__all__ = ["MAX_KEPT", "MAX_LAST_SEEN", "MAX_MISSED", "MAX_USERS", "MAX_WATCHED", "STATUS_NAMES", "Presence"]

MAX_USERS: Final = 500  # of one request, and of one answer
MAX_WATCHED: Final = 10_000  # subscriptions of one connection
MAX_LAST_SEEN: Final = 100_000  # users remembered as seen
MAX_DOWN_MS: Final = 600_000  # a start so long after an end is no restart
MAX_ROSTERS: Final = 200  # conversations read to find out whether users share one, for one request
MAX_KEPT: Final = 500_000  # subscriptions of ended sessions, over all of them
LEAVING_A_TICK: Final = 1_000  # users who turn offline in one tick, some ms of work; the others in the next
MAX_MISSED: Final = 500  # changes of users while a session was away; with more its subscriptions have ended
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


class _Watched:
    """What a connection has subscribed to."""

    __slots__ = ("conversations", "users")

    def __init__(self) -> None:
        self.users: set[str] = set()
        self.conversations: set[Conversation] = set()

    def __len__(self) -> int:
        return len(self.users) + len(self.conversations)


class _Kept(NamedTuple):
    """The subscriptions of a session without a connection, for its resume.

    Conversations by id: they may be unloaded and loaded again meanwhile.
    """

    users: set[str]
    conversations: list[str]
    since_ns: int
    user_id: str

    @property
    def size(self) -> int:
        return len(self.users) + len(self.conversations)


class Presence:
    """Presence of all loaded users, and the subscriptions to it."""

    __slots__ = (
        "_changed",
        "_domain",
        "_doubtful",
        "_expected",
        "_expected_until_ns",
        "_kept",
        "_kept_count",
        "_last_seen",
        "_late",
        "_leaving",
        "_present",
        "_told",
        "_watched",
        "muted",
        "rosters",
        "watchers",
    )

    def __init__(self, domain: Domain, rosters: Rosters) -> None:
        self._domain = domain
        self.rosters = rosters
        self.watchers = Watchers(domain)
        self._leaving: OrderedDict[User, _Leaving] = OrderedDict()  # the earliest deadline first
        self._last_seen: OrderedDict[str, int] = OrderedDict()
        self._watched: dict[Session, _Watched] = {}
        self._doubtful: set[str] = set()  # users not loaded; who watches them may share nothing any more
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # by the session's id, the longest gone first
        self._kept_count = 0
        self._changed: OrderedDict[str, int] = OrderedDict()  # user id → when, the latest last
        self._told: dict[User, int] = {}  # users told of just now, and until when; the earliest first
        self._late: dict[User, None] = {}  # those of them who changed since
        self._expected: dict[str, int] = {}  # user id → status, of those who were here before a restart
        self._expected_until_ns = 0
        self._present: dict[str, int] = {}  # the same for the next start
        self.muted = False  # a server that goes tells nobody that everybody left

    # -- states

    def arrive(self, user: User, session: Session) -> None:
        """A connection of the user has come; ``user.sessions`` names it already."""
        expected = self._expected.pop(user.id, None) if self._expected else None
        if expected is not None and user.status == Status.OFFLINE:
            user.status = expected  # as everybody who asked was told
        self._leaving.pop(user, None)
        self._settle(user, session)

    def depart(self, user: User, session: Session) -> None:
        """A connection has gone, and left ``user.sessions``; with the last the grace time begins."""
        self._keep(session, self._unwatch_all(session))
        if user.sessions:
            self._settle(user, session)
            return
        domain = self._domain
        deadline_ns = domain.clock_ns() + domain.options.offline_grace_ms * NS_PER_MS
        self._leaving[user] = _Leaving(deadline_ns, domain.time_ms())

    def replace(self, session: Session) -> None:
        """A connection was replaced by another of the same session, which took its state over."""
        self._keep(session, self._unwatch_all(session))

    def change(self, session: Session, status: int, metadata: Encoded | None) -> None:
        """Take the state a device names."""
        user = session.user
        if user is None:
            return
        session.status = status
        session.metadata = metadata
        session.hub.set_slow_heartbeat(session.handle, status == Status.AWAY)
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

    def _snapshot(self, user_id: str) -> dict[str, Any]:
        user = self._domain.users.get(user_id)
        if user is not None:
            return self._update(user)
        status = STATUS_NAMES[self._expected.get(user_id, Status.OFFLINE)]
        last_seen = self._last_seen.get(user_id)
        return {"user": user_id, "status": status, "last_seen": last_seen, "metadata": None}

    # -- time

    def tick(self, now_ns: int) -> None:
        """End grace times and windows that are over."""
        for _ in range(min(LEAVING_A_TICK, len(self._leaving))):
            user, leaving = next(iter(self._leaving.items()))
            if leaving.deadline_ns > now_ns:
                break
            del self._leaving[user]
            self._remember(user.id, leaving.gone_ms)
            user.status = Status.OFFLINE
            user.metadata = None
            self._notify(user)
            self._domain.unload(user)
        while self._told:
            user, until_ns = next(iter(self._told.items()))
            if until_ns > now_ns:
                break
            del self._told[user]
            if user in self._late:
                del self._late[user]
                self._tell(user, now_ns)
        if self._expected and now_ns >= self._expected_until_ns:
            self._give_up_expected(now_ns)
        self.watchers.tick(now_ns)
        self._forget_kept(now_ns)

    def _remember(self, user_id: str, gone_ms: int) -> None:
        self._last_seen[user_id] = gone_ms
        self._last_seen.move_to_end(user_id)
        if len(self._last_seen) > MAX_LAST_SEEN:
            self._last_seen.popitem(last=False)

    # -- over a restart

    def mute(self) -> None:
        """The server is about to end: tell nobody of who leaves, and take note of who is here."""
        if not self.muted:
            self.muted = True
            self._present = {
                user.id: user.status for user in self._domain.users.values() if user.status != Status.OFFLINE
            }

    async def keep(self) -> None:
        """Keep who was here for the next start.

        Raises:
            StoreError: not kept.
        """
        if self._domain.options.restart_grace_ms:
            present = dict(islice(self._present.items(), MAX_LAST_SEEN))
            await self._domain.store.keep_present(present, self._domain.time_ms())

    async def expect(self) -> None:
        """Take those who were here at the last end for present until the time to come back is over."""
        grace_ms = self._domain.options.restart_grace_ms
        present, ended_ms = await self._domain.store.take_present()
        if present and grace_ms and self._domain.time_ms() < ended_ms + MAX_DOWN_MS:
            self._expected = present
            self._expected_until_ns = self._domain.clock_ns() + grace_ms * NS_PER_MS
            self._last_seen.update(dict.fromkeys(present, ended_ms))

    def _give_up_expected(self, now_ns: int) -> None:
        """Those who have not come back are gone, since the end: the next of them, as there may be very many.

        They are not loaded: rosters say where they are.
        """
        gone = set(islice(self._expected, LEAVING_A_TICK))
        feeds: defaultdict[str, list[Feed]] = defaultdict(list)
        for conversation in {each for watched in self._watched.values() for each in watched.conversations}:
            rare = conversation.rare
            if rare is not None and rare.feed is not None:
                for user_id in gone.intersection(self.rosters.known(conversation) or ()):
                    feeds[user_id].append(rare.feed)
        for user_id in gone:
            del self._expected[user_id]
            if self._watched or self._kept:
                self._note_change(user_id, now_ns)
            if user_id in feeds or self.watchers.of(user_id):
                self.watchers.tell(self._told_of(user_id), feeds[user_id], now_ns)

    # -- telling

    def _notify(self, user: User) -> None:
        """Tell the subscribers: at once, or at the window's end.

        A window of the user's own bounds what a flood of changes costs: finding the subscribers takes as long
        as the user has conversations.
        """
        now_ns = self._domain.clock_ns()
        if self._told.get(user, 0) > now_ns and user.status != Status.OFFLINE:
            self._late[user] = None
            return
        self._told.pop(user, None)
        self._late.pop(user, None)
        self._tell(user, now_ns)

    def _tell(self, user: User, now_ns: int) -> None:
        if self.muted or not (self._watched or self._kept):
            return
        self._told[user] = now_ns + self._domain.options.window_ms * NS_PER_MS
        self._note_change(user.id, now_ns)
        if user.id in self._doubtful:
            self._doubtful.discard(user.id)
            self._check_watchers(user)
        feeds = [
            rare.feed
            for membership in user.memberships()
            if (rare := membership.conversation.rare) is not None and rare.feed is not None
        ]
        if feeds or self.watchers.of(user.id):
            self.watchers.tell(self._told_of(user.id), feeds, now_ns)

    def _note_change(self, user_id: str, now_ns: int) -> None:
        """Keep in mind, for those who are away, that somebody's status has changed."""
        self._changed[user_id] = now_ns
        self._changed.move_to_end(user_id)
        if len(self._changed) > MAX_LAST_SEEN:
            self._changed.popitem(last=False)

    def _told_of(self, user_id: str) -> Update:
        body = {"type": "presence", **self._snapshot(user_id), "time": self._domain.time_ms()}
        return Update(user_id, body)

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
                self.watchers.add(user_id, session)
        return {"users": [self._snapshot(user_id) for user_id in wanted]}

    async def subscribe_conversation(self, session: Session, conversation: Conversation) -> dict[str, Any]:
        """Subscribe to all members, later ones too; the answer holds the first 500, present ones first."""
        roster = await self.rosters.of(conversation)
        self._domain.member_of(session, conversation.id)  # the roster took its time
        watched = self._watch(session, 1)
        if watched is not None:
            watched.conversations.add(conversation)
            self.watchers.enter(conversation, session.handle)
        ordered = sorted(roster, key=lambda user_id: (not self._is_present(user_id), user_id))
        return {"users": [self._snapshot(user_id) for user_id in ordered[:MAX_USERS]]}

    def unsubscribe_users(self, session: Session, users: list[str]) -> dict[str, Any]:
        """Take subscriptions to users back."""
        watched = self._watched.get(session)
        if watched is not None:
            for user_id in users:
                watched.users.discard(user_id)
                self._unwatch(user_id, session.handle)
            self._forget_if_empty(session, watched)
        return {"users": []}

    def unsubscribe_conversation(self, session: Session, conversation: Conversation) -> dict[str, Any]:
        """Take the subscription to a conversation's members back."""
        watched = self._watched.get(session)
        if watched is not None and conversation in watched.conversations:
            watched.conversations.discard(conversation)
            self.watchers.leave(conversation, session.handle)
            self._forget_if_empty(session, watched)
        return {"users": []}

    def _is_present(self, user_id: str) -> bool:
        user = self._domain.users.get(user_id)
        return user_id in self._expected or (user is not None and user.status != Status.OFFLINE)

    def _watch(self, session: Session, count: int) -> _Watched | None:
        """What the session watches, with room for more; None if it has gone meanwhile."""
        if session.user is None or session not in session.user.sessions:
            return None
        watched = self._watched.setdefault(session, _Watched())
        if len(watched) + count > MAX_WATCHED:
            raise RequestError(ErrorCode.BAD_REQUEST, f"users: more than {MAX_WATCHED} subscriptions")
        return watched

    def _unwatch(self, user_id: str, handle: int) -> None:
        self.watchers.remove(user_id, handle)
        if not self.watchers.of(user_id):
            self._doubtful.discard(user_id)

    def _forget_if_empty(self, session: Session, watched: _Watched) -> None:
        if not len(watched):
            self._watched.pop(session, None)
            self.watchers.forget(session)

    def _unwatch_all(self, session: Session) -> _Watched | None:
        watched = self._watched.pop(session, None)
        if watched is None:
            return None
        for user_id in watched.users:
            self._unwatch(user_id, session.handle)
        for conversation in watched.conversations:
            self.watchers.leave(conversation, session.handle)
        self.watchers.forget(session)
        return watched

    # -- across a resume

    def _keep(self, session: Session, watched: _Watched | None) -> None:
        """Keep the subscriptions of a connection that is gone, with its session."""
        if watched is None or not session.session_id or not self._domain.options.session_life_s:
            return
        self.forget(session.session_id)
        names = [conversation.id for conversation in watched.conversations]
        kept = _Kept(watched.users, names, self._domain.clock_ns(), session.user_id)
        self._kept[session.session_id] = kept
        self._kept_count += kept.size
        while self._kept_count > MAX_KEPT:
            self.forget(next(iter(self._kept)))

    def forget(self, session_id: str) -> None:
        """The session of this id cannot come back."""
        kept = self._kept.pop(session_id, None)
        if kept is not None:
            self._kept_count -= kept.size

    def _forget_kept(self, now_ns: int) -> None:
        life_ns = self._domain.options.session_life_s * 1_000 * NS_PER_MS
        while self._kept:
            session_id, kept = next(iter(self._kept.items()))
            if kept.since_ns + life_ns > now_ns:
                return
            self.forget(session_id)

    def can_restore(self, session: Session) -> bool:
        """Whether the subscriptions of a resumed session go on, with all that changed meanwhile.

        Where they do not, nothing is left of them and the client subscribes anew.
        """
        kept = self._kept.get(session.session_id)
        if kept is None:
            return False
        if kept.user_id == session.user_id and self._missed(kept) is not None:
            return True
        self.forget(session.session_id)
        return False

    def restore(self, session: Session) -> None:
        """Go on with the subscriptions of a resumed session; its ``ok`` has been queued."""
        kept = self._kept.get(session.session_id)
        missed = self._missed(kept) if kept is not None else None
        self.forget(session.session_id)
        if kept is None or missed is None or session.user is None:
            return
        watched = self._watched[session] = _Watched()
        for user_id in kept.users:
            watched.users.add(user_id)
            self.watchers.add(user_id, session)
        for name in kept.conversations:
            membership = session.user.membership(name)
            if membership is not None:
                watched.conversations.add(membership.conversation)
                self.watchers.enter(membership.conversation, session.handle)
        self._check_watched(session, session.user)
        allowed = {user_id: self._told_of(user_id) for user_id in missed if self._sees(watched, user_id)}
        while allowed:
            updates = first_that_fit(allowed, self._domain.options.state_bytes)
            session.hub.send(session.handle, frame(updates, session.encoding), Lane.NORMAL)
        self._forget_if_empty(session, watched)

    def _missed(self, kept: _Kept) -> list[str] | None:
        """Who changed since, the latest first; None where that is not known any more."""
        missed: list[str] = []
        for user_id, changed_ns in reversed(self._changed.items()):
            if changed_ns < kept.since_ns:
                return missed
            missed.append(user_id)
            if len(missed) > MAX_MISSED:
                return None
        return missed if len(self._changed) < MAX_LAST_SEEN else None

    def _sees(self, watched: _Watched, user_id: str) -> bool:
        """Whether subscriptions name a user, as far as the members are in memory."""
        if user_id in watched.users:
            return True
        user = self._domain.users.get(user_id)
        for conversation in watched.conversations:
            roster = self.rosters.known(conversation)
            if user.membership(conversation.id) if user is not None else roster and user_id in roster:
                return True
        return False

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
            found = missing & await self.rosters.of(conversation)
            allowed |= found
            missing -= found
        return allowed

    def remove_member(self, user: User, conversation: Conversation) -> None:
        """The user is about to be no member any more."""
        for session in user.sessions:
            if session in self._watched:
                self.unsubscribe_conversation(session, conversation)

    def members_left(self, users: Iterable[str]) -> None:
        """These are members of a conversation no more: end the subscriptions of those who share nothing now.

        Looked at here and not at each change of a state, which would cost a look for each subscriber.
        """
        if not self._domain.options.presence_shared_only or not self._watched:
            return
        for user_id in users:
            user = self._domain.users.get(user_id)
            if user is None:
                if self.watchers.of(user_id):
                    self._doubtful.add(user_id)
                continue
            self._check_watchers(user)
            for session in user.sessions:
                if session in self._watched:
                    self._check_watched(session, user)

    def _check_watchers(self, user: User) -> None:
        """End the subscriptions to a loaded user of those who share no conversation with it."""
        for handle in list(self.watchers.of(user.id)):
            session: Any = self._domain.hub.owner(handle)
            if session is None or session.user is None:
                self._unwatch(user.id, handle)
            elif not session.user.shares_with(user):
                self.unsubscribe_users(session, [user.id])

    def _check_watched(self, session: Session, me: User) -> None:
        """End a session's subscriptions to those its user shares no conversation with."""
        if not self._domain.options.presence_shared_only:
            return
        ended: list[str] = []
        for user_id in self._watched[session].users:
            user = self._domain.users.get(user_id)
            if user is None:
                self._doubtful.add(user_id)
            elif not me.shares_with(user):
                ended.append(user_id)
        self.unsubscribe_users(session, ended)

    def stats(self) -> dict[str, int]:
        return {
            "presence_watchers": len(self._watched),
            "presence_kept": self._kept_count,
            "presence_frames_total": self.watchers.frame_count,
            "presence_updates_total": self.watchers.update_count,
            "users_leaving": len(self._leaving),
            "users_expected": len(self._expected),
        }
