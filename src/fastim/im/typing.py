"""Who is typing: state, not events. The latest of each user and window, and it ends by itself."""

from __future__ import annotations

from typing import Any, Final

from fastim._core.hub import Lane
from fastim.im.conversation import Conversation
from fastim.im.domain import NS_PER_MS, Domain, state_key
from fastim.im.session import Session

__all__ = ["MAX_NAMED", "Typing"]

MAX_NAMED: Final = 20  # typists named at a time; the rest is counted


class _Room:
    """The typists of a conversation, while there are any or a window is open.

    Attributes:
        typists: User id → (the end of the state, the connection it came from).
        named: Those the members have been told of.
        touched: Whose state changed since the last event, the latest change last.
        until_ns: The open window's end.
        origin: The one connection all changes came from; 0: several.
    """

    __slots__ = ("conversation", "named", "origin", "touched", "typists", "until_ns")

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.typists: dict[str, tuple[int, Session]] = {}
        self.named: set[str] = set()
        self.touched: dict[str, None] = {}
        self.until_ns = 0
        self.origin = 0

    def touch(self, user_id: str, handle: int) -> None:
        self.origin = handle if not self.touched or self.origin == handle else 0
        self.touched.pop(user_id, None)
        self.touched[user_id] = None


class Typing:
    """Typing states of all conversations.

    Attributes:
        change_count, frame_count: Changes of states, and events that told of them.
    """

    __slots__ = ("_domain", "_rooms", "_rooms_of", "change_count", "frame_count")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._rooms: dict[Conversation, _Room] = {}
        self._rooms_of: dict[Session, set[_Room]] = {}  # where a connection types
        self.change_count = 0
        self.frame_count = 0

    def change(self, session: Session, conversation: Conversation, typing: bool) -> None:
        """Take a member's state; a repeated start only lives longer."""
        user_id = session.user_id
        room = self._rooms.get(conversation)
        if room is None:
            if not typing:
                return
            room = self._rooms[conversation] = _Room(conversation)
        now_ns = self._domain.clock_ns()
        if typing:
            end_ns = now_ns + self._domain.options.typing_timeout_ms * NS_PER_MS
            before = room.typists.get(user_id)
            if before is not None and before[1] is not session:
                self._unlink(before[1], room)
            room.typists[user_id] = (end_ns, session)
            self._rooms_of.setdefault(session, set()).add(room)
            if before is not None:
                return
        elif not self._remove(room, user_id):
            return
        self._touch(room, user_id, session.handle)
        if now_ns >= room.until_ns:
            self._tell(room, now_ns)

    def leave(self, session: Session) -> None:
        """The connection is gone: what it typed ends."""
        rooms = self._rooms_of.pop(session, None)
        if rooms:
            now_ns = self._domain.clock_ns()
            for room in rooms:
                self._end(room, session.user_id, session, now_ns)

    def remove_member(self, user_id: str, conversation: Conversation) -> None:
        """The user is no member any more."""
        room = self._rooms.get(conversation)
        if room is not None and user_id in room.typists:
            self._end(room, user_id, room.typists[user_id][1], self._domain.clock_ns())

    def tick(self, now_ns: int) -> None:
        """End what timed out, and close windows. O(conversations somebody types in)."""
        for room in list(self._rooms.values()):
            for user_id in [user_id for user_id, (end_ns, _) in room.typists.items() if end_ns <= now_ns]:
                self._remove(room, user_id)
                self._touch(room, user_id, 0)
            if now_ns < room.until_ns:
                continue
            if room.touched:
                self._tell(room, now_ns)
            elif not room.typists:
                del self._rooms[room.conversation]

    def __len__(self) -> int:
        return len(self._rooms)

    def _touch(self, room: _Room, user_id: str, handle: int) -> None:
        self.change_count += 1
        room.touch(user_id, handle)

    def _end(self, room: _Room, user_id: str, session: Session, now_ns: int) -> None:
        if self._remove(room, user_id):
            self._touch(room, user_id, session.handle)
            if now_ns >= room.until_ns:
                self._tell(room, now_ns)

    def _remove(self, room: _Room, user_id: str) -> bool:
        state = room.typists.pop(user_id, None)
        if state is None:
            return False
        self._unlink(state[1], room)
        return True

    def _unlink(self, session: Session, room: _Room) -> None:
        rooms = self._rooms_of.get(session)
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                del self._rooms_of[session]

    def _tell(self, room: _Room, now_ns: int) -> None:
        """Send one event with the latest state of everyone touched, and open the next window."""
        touched, room.touched = room.touched, {}
        room.until_ns = now_ns + self._domain.options.window_ms * NS_PER_MS
        origin, time = room.origin, self._domain.time_ms()
        updates: list[dict[str, Any]] = []
        for user_id in touched:
            if user_id in room.typists:
                continue
            # One who was never named started and stopped within a window: the stop is the latest value.
            if user_id in room.named or len(updates) < MAX_NAMED:
                room.named.discard(user_id)
                updates.append({"type": "typing", "user": user_id, "typing": False, "time": time})
        if len(room.named) < min(len(room.typists), MAX_NAMED):
            for user_id in room.typists:
                if user_id not in room.named:
                    room.named.add(user_id)
                    if user_id not in touched:
                        origin = 0  # whose change it was does not know of this one yet
                    updates.append({"type": "typing", "user": user_id, "typing": True, "time": time})
                    if len(room.named) == MAX_NAMED:
                        break
        body: dict[str, Any] = {"conversation": room.conversation.id, "updates": updates}
        unnamed = len(room.typists) - len(room.named)
        if unnamed > 0:
            body["more"] = unnamed
        elif not updates:
            return
        self.frame_count += 1
        key = state_key("typing", room.conversation.key, updates[0]["user"]) if len(updates) == 1 else 0
        self._domain.publish(room.conversation, "state_batch", body, Lane.LOW, origin, key)
