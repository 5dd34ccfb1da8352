"""Who watches whose presence, and what they are told: one frame for all who get the same.

Subscribers of a conversation's members are a topic of the hub: a change is one publish, whatever their
number. Subscribers of single users have windows of their own. Windows that opened together are kept as one
set of connections, so that set operations find out who is told now and who later, and no loop over the
subscribers of a change runs in Python.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from fastim._core.hub import Encoding, Lane
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain, state_key
from fastim.im.session import Session
from fastim.wire.native import Encoded, encode_packet, encode_value

__all__ = ["PAIRS_A_WINDOW", "Feed", "Update", "Watchers"]

PAIRS_A_WINDOW: Final = 50_000  # subscriber and changed user; about 5 ms of work when a window closes
FRAME_BYTES: Final = 40  # what stands around the updates of a frame
PARTS_OF_A_WINDOW: Final = 4  # windows that open within such a part of one end together
EMPTY: Final[frozenset[int]] = frozenset()


class Update:
    """What is told of a user: encoded once for each encoding, whoever gets it."""

    __slots__ = ("_encoded", "body", "user_id")

    def __init__(self, user_id: str, body: dict[str, Any]) -> None:
        self.user_id = user_id
        self.body = body
        self._encoded: list[Encoded | None] = [None, None]

    def encoded(self, encoding: int) -> Encoded:
        found = self._encoded[encoding]
        if found is None:
            found = Encoded(encode_value(self.body, Encoding(encoding)), encoding)
            self._encoded[encoding] = found
        return found

    @property
    def size(self) -> int:
        """Bytes in JSON, the longer of the two encodings."""
        return len(self.encoded(Encoding.JSON).data)


def frame(updates: Iterable[Update], encoding: int) -> bytes:
    """Make a ``state_batch`` packet of updates."""
    body = {"updates": [update.encoded(encoding) for update in updates]}
    return encode_packet("state_batch", body, Encoding(encoding))


def key_of(updates: Sequence[Update]) -> int:
    return state_key("presence", updates[0].user_id) if len(updates) == 1 else 0


def first_that_fit(pending: dict[str, Update], max_bytes: int) -> list[Update]:
    """Take the oldest updates that fit into a frame, at least one, out of those that wait."""
    taken: list[Update] = []
    left = max_bytes - FRAME_BYTES
    for update in pending.values():
        left -= update.size + 1
        if left < 0 and taken:
            break
        taken.append(update)
    for update in taken:
        del pending[update.user_id]
    return taken


class Feed:
    """The subscribers of a conversation's members: a topic, and what waits for the end of its window."""

    __slots__ = ("pending", "topic", "until_ns")

    def __init__(self, topic: int) -> None:
        self.topic = topic
        self.until_ns = 0
        self.pending: dict[str, Update] = {}


class _Window:
    """Connections that were told of something together.

    Attributes:
        handles: They; no connection is in two windows.
        pending: The latest state of each user that changed since and that some of them watch.
    """

    __slots__ = ("handles", "pending", "until_ns")

    def __init__(self, until_ns: int, handles: set[int], pending: dict[str, Update]) -> None:
        self.until_ns = until_ns
        self.handles = handles
        self.pending = pending


class Watchers:
    """The subscriptions of all connections, by what they watch.

    Args:
        domain: The shared state.
    """

    __slots__ = ("_domain", "_feeds", "_msgpack", "_of_user", "_windows", "frame_count", "update_count")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._of_user: dict[str, set[int]] = {}  # user id → handles
        self._msgpack: set[int] = set()  # those of them that want msgpack
        self._windows: deque[_Window] = deque()  # open ones, the earliest end first
        self._feeds: dict[Feed, None] = {}  # with an open window
        self.frame_count = 0
        self.update_count = 0

    # -- who watches

    def add(self, user_id: str, session: Session) -> None:
        """Let a connection watch a user."""
        self._of_user.setdefault(user_id, set()).add(session.handle)
        if session.encoding == Encoding.MSGPACK:
            self._msgpack.add(session.handle)

    def remove(self, user_id: str, handle: int) -> None:
        """Take that back."""
        handles = self._of_user.get(user_id)
        if handles is not None:
            handles.discard(handle)
            if not handles:
                del self._of_user[user_id]

    def of(self, user_id: str) -> Collection[int]:
        """The connections that watch a user as such."""
        return self._of_user.get(user_id, EMPTY)

    def enter(self, conversation: Conversation, handle: int) -> None:
        """Let a connection watch a conversation's members."""
        rare = conversation.more()
        if rare.feed is None:
            rare.feed = Feed(self._domain.hub.create_topic())
        self._domain.hub.subscribe(rare.feed.topic, handle)

    def leave(self, conversation: Conversation, handle: int) -> None:
        """Take that back; the last one takes the topic along."""
        rare = conversation.rare
        if rare is None or rare.feed is None:
            return
        hub, feed = self._domain.hub, rare.feed
        hub.unsubscribe(feed.topic, handle)
        if hub.topic_members(feed.topic) == (0, 0):
            hub.drop_topic(feed.topic)
            self._feeds.pop(feed, None)
            rare.feed = None

    def forget(self, session: Session) -> None:
        """The connection watches nothing any more."""
        self._msgpack.discard(session.handle)

    # -- telling

    def tell(self, update: Update, feeds: Iterable[Feed], now_ns: int) -> None:
        """Tell of a change: at once whom nothing was told of within the window, the others at its end."""
        for feed in feeds:
            if feed.until_ns > now_ns or feed.pending:
                feed.pending[update.user_id] = update
            else:
                self._publish(feed, [update], now_ns)
        told = self._of_user.get(update.user_id)
        if not told:
            return
        for window in self._windows:
            if not window.handles.isdisjoint(told):
                window.pending[update.user_id] = update
                told = told - window.handles
        if told:
            self._send(told, [update])
            self._open(set(told), now_ns)

    def tick(self, now_ns: int) -> None:
        """Close the windows that are over."""
        if self._feeds:
            for feed in [feed for feed in self._feeds if feed.until_ns <= now_ns]:
                del self._feeds[feed]
                if feed.pending:
                    updates = first_that_fit(feed.pending, self._domain.options.state_bytes)
                    self._publish(feed, updates, now_ns)
        while self._windows and self._windows[0].until_ns <= now_ns:
            self._close(self._windows.popleft(), now_ns)

    def _window_ns(self) -> int:
        return self._domain.options.window_ms * NS_PER_MS

    def _publish(self, feed: Feed, updates: list[Update], now_ns: int) -> None:
        feed.until_ns = now_ns + self._window_ns()
        self._feeds[feed] = None
        hub = self._domain.hub
        json_count, msgpack_count = hub.topic_members(feed.topic)
        self.frame_count += json_count + msgpack_count
        self.update_count += (json_count + msgpack_count) * len(updates)
        hub.publish(
            feed.topic,
            frame(updates, Encoding.JSON) if json_count else None,
            frame(updates, Encoding.MSGPACK) if msgpack_count else None,
            0,
            Lane.LOW,
            key_of(updates),
        )

    def _send(self, handles: Collection[int], updates: list[Update]) -> None:
        """Send one frame to connections of either encoding."""
        self.frame_count += len(handles)
        self.update_count += len(handles) * len(updates)
        self._domain.hub.send_many(
            handles,
            None if self._msgpack.issuperset(handles) else frame(updates, Encoding.JSON),
            None if self._msgpack.isdisjoint(handles) else frame(updates, Encoding.MSGPACK),
            Lane.LOW,
            key_of(updates),
        )

    def _open(self, handles: set[int], now_ns: int) -> None:
        """Begin a window for connections that are in none."""
        until_ns = self._end_ns(now_ns)
        if self._windows and self._windows[-1].until_ns == until_ns:
            self._windows[-1].handles |= handles
        else:
            self._windows.append(_Window(until_ns, handles, {}))

    def _end_ns(self, now_ns: int) -> int:
        part_ns = max(1, self._window_ns() // PARTS_OF_A_WINDOW)
        return -(-(now_ns + self._window_ns()) // part_ns) * part_ns

    def _close(self, window: _Window, now_ns: int) -> None:
        """Tell what has come together, connections with the same updates by one frame; open the next window.

        What does not fit into a frame, or would take long, waits for the next.
        """
        pending = window.pending
        if not pending:
            return
        wanted: defaultdict[int, list[int]] = defaultdict(list)
        updates = first_that_fit(pending, self._domain.options.state_bytes)
        pairs = 0
        for number, update in enumerate(updates):
            if pairs > PAIRS_A_WINDOW:
                later = {update.user_id: update for update in updates[number:]}
                pending = {**later, **pending}
                break
            told = window.handles & self._of_user.get(update.user_id, EMPTY)
            pairs += len(told)
            for handle in told:
                wanted[handle].append(number)
        alike: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        for handle, numbers in wanted.items():
            alike[tuple(numbers)].append(handle)
        for same, handles in alike.items():
            self._send(handles, [updates[number] for number in same])
        if pending:
            # A window of its own: what waits for these was told to those of another already.
            self._windows.append(_Window(self._end_ns(now_ns), window.handles, pending))
        elif wanted:
            self._open(set(wanted), now_ns)
