"""What has arrived of each conversation: drops what came twice, notices what is missing."""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto

__all__ = ["Cursor", "Tracker", "Verdict"]

SEEN_LIMIT = 1_000  # conversations that a hello may name


class Verdict(Enum):
    """What to do with a message that has arrived."""

    DELIVER = auto()
    DROP = auto()  # it came before, or history will bring it again
    FILL = auto()  # something before it is missing, or there is no room: let history bring both


class Cursor:
    """One conversation.

    Attributes:
        last: Everything up to this seq was put into the queue or answered to the sender.
        queued: Messages in the queue that the application has not taken.
        filling: History is being fetched; what arrives live only moves ``target``.
        target: The seq that history has to reach.
        ahead: Own messages past ``last``, known from their ``ok``.
    """

    __slots__ = ("ahead", "filling", "last", "queued", "target")

    def __init__(self, last: int) -> None:
        self.last = last
        self.queued = 0
        self.filling = False
        self.target = 0
        self.ahead: set[int] = set()

    def absorb(self) -> None:
        """Move ``last`` over the own messages that follow it."""
        while self.last + 1 in self.ahead:
            self.last += 1
            self.ahead.discard(self.last)


class Tracker:
    """The cursors of the conversations that were active last.

    Args:
        limit: Cursors kept; of a conversation beyond, the next message is taken as it comes.
    """

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._cursors: OrderedDict[str, Cursor] = OrderedDict()

    def get(self, conversation: str) -> Cursor | None:
        return self._cursors.get(conversation)

    def _touch(self, conversation: str, last: int) -> Cursor:
        cursor = self._cursors.get(conversation)
        if cursor is None:
            cursor = self._cursors[conversation] = Cursor(last)
            if len(self._cursors) > self._limit:
                self._cursors.popitem(last=False)
        else:
            self._cursors.move_to_end(conversation)
        return cursor

    def arrived(self, conversation: str, seq: int, *, room: bool) -> Verdict:
        """Judge a ``new_message``; on DELIVER it counts as queued, on FILL the caller starts to fill."""
        cursor = self._touch(conversation, seq - 1)
        if seq <= cursor.last or seq in cursor.ahead:
            return Verdict.DROP
        if cursor.filling:
            cursor.target = max(cursor.target, seq)
            return Verdict.DROP
        if seq == cursor.last + 1 and room:
            cursor.last = seq
            cursor.queued += 1
            cursor.absorb()
            return Verdict.DELIVER
        cursor.filling = True
        cursor.target = seq
        return Verdict.FILL

    def sent(self, conversation: str, seq: int) -> None:
        """Note an own message: its ``ok`` has arrived, or it came back in a replay."""
        cursor = self._touch(conversation, seq)
        if seq <= cursor.last:
            return
        # Past a hole (the ok of a message that was sent again may overtake the replay) it must not hide what
        # is missing before it.
        cursor.ahead.add(seq)
        cursor.absorb()

    def gap(self, conversation: str, have: int, last: int) -> bool:
        """Note a ``gap``; return True if the caller has to start to fill."""
        cursor = self._touch(conversation, have)
        if last <= cursor.last:
            return False
        cursor.target = max(cursor.target, last)
        started, cursor.filling = not cursor.filling, True
        return started

    def skip(self, conversation: str, last: int) -> None:
        """Give up what is missing up to ``last``."""
        cursor = self._touch(conversation, last)
        if cursor.last < last:
            cursor.last = last
            cursor.ahead = {seq for seq in cursor.ahead if seq > last}
            cursor.absorb()

    def filled(self, conversation: str, seq: int) -> bool:
        """Take a message of a history page in; return True if it is to be delivered (it counts as queued)."""
        cursor = self._cursors.get(conversation)
        if cursor is None or seq <= cursor.last:
            return False
        own = seq in cursor.ahead
        cursor.ahead.discard(seq)
        cursor.last = seq
        cursor.absorb()
        if not own:
            cursor.queued += 1
        return not own

    def fill_finished(self, conversation: str) -> bool:
        """Return True, and go back to live delivery, if history has reached the target."""
        cursor = self._cursors.get(conversation)
        if cursor is None:
            return True
        if cursor.last < cursor.target:
            return False
        cursor.filling = False
        return True

    def taken(self, conversation: str, seq: int) -> int:
        """Note that the application took a message; return the seq up to which all has arrived."""
        cursor = self._cursors.get(conversation)
        if cursor is None:
            return seq
        cursor.queued = max(cursor.queued - 1, 0)
        return self.acknowledgeable(conversation) or seq

    def acknowledgeable(self, conversation: str) -> int:
        """Return the last seq if nothing before it still waits for the application, else 0."""
        cursor = self._cursors.get(conversation)
        if cursor is None or cursor.queued or cursor.filling or cursor.ahead:
            return 0
        return cursor.last

    def forget(self, conversation: str) -> None:
        """Drop a conversation one is no longer in."""
        self._cursors.pop(conversation, None)

    def restart(self) -> None:
        """End all fills: on the new connection the server sends what comes after ``seen``."""
        for cursor in self._cursors.values():
            cursor.filling = False

    def seen(self) -> dict[str, int]:
        """Return the ``seen`` of a hello: the conversations active last."""
        latest = list(self._cursors.items())[-SEEN_LIMIT:]
        return {conversation: cursor.last for conversation, cursor in latest}
