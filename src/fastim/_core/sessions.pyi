"""The session table: who is connected or may come back."""

from enum import IntEnum
from typing import Self, final

from fastim._core.keytable import KeyTable

class EndReason(IntEnum):
    """Why the table gave up a session."""

    EVICTED = 1  # the longest detached one made room for another
    EXPIRED = 2  # its life was over

@final
class SessionTable(KeyTable):
    """Sessions by key: live ones, and detached ones in LRU order, bounded in number and time.

    A session is put or attached live. Detaching it starts its life; from then on it counts against the
    capacity, and ends when its life is over or when it is the longest unused of too many. What ended that way
    is kept until `expire` hands it out, so the caller learns of each, once.

    Each change of a session's data or attachment gives it a version that no session of the table ever had: a
    version of one that was removed never fits another, whatever its key. The version that `put` and `attach`
    return is also the lease that `detach` asks for: a connection that was replaced cannot detach the session
    of its successor.

    Time comes in as `now_ns`; one that is earlier than the last counts as the last.

    **Thread**: not synchronized; belongs to whoever calls it.
    **Lifetime**: key and data are held by reference until the session was removed or handed out.
    **Cost**: O(1) for each method but `expire` and `clear`; 48 bytes a session, 18 for the two references and
    at most 11 of index.
    """

    def __new__(cls, capacity: int, life_ns: int, *, hash_key: bytes | None = None) -> Self:
        """Make an empty table.

        Args:
            capacity: Detached sessions it holds; 0: no limit.
            life_ns: How long a session lives detached, in nanoseconds; 0: until it is evicted.
            hash_key: 16 bytes that key the digests; None: random ones.

        Raises:
            ValueError: hash_key is not 16 bytes.
        """
    @property
    def live_count(self) -> int:
        """How many sessions are live."""
    @property
    def detached_count(self) -> int:
        """How many sessions are detached and not yet known to have expired."""
    @property
    def data_bytes(self) -> int:
        """The sum of what the callers declared as their data's size, of live and detached sessions."""
    def put(self, key: str, data: object, now_ns: int, data_bytes: int = 0) -> int:
        """Make a live session, in the place of one of the same key if there is one, and return its version.

        Raises:
            MemoryError: There is none; nothing has changed.
        """
    def get(self, key: str, now_ns: int) -> tuple[object, int] | None:
        """Return a session's data and version, None if there is none. Does not count as use."""
    def is_live(self, key: str, now_ns: int) -> bool:
        """Return whether there is a session and it is live."""
    def replace(self, key: str, data: object, version: int, now_ns: int, data_bytes: int = 0) -> int:
        """Set the data if the version still is `version`, and return the new one.

        Returns:
            0 if there is no such session, or its version is another: nothing has changed.
        """
    def attach(self, key: str, now_ns: int) -> tuple[object, int] | None:
        """Make a session live, or take over a live one, and return its data and new version.

        Returns:
            None if there is no such session.
        """
    def detach(self, key: str, lease: int, now_ns: int) -> bool:
        """Begin the life of a live session; False if it is not live or attached under another lease."""
    def touch(self, key: str, now_ns: int) -> bool:
        """Begin a detached session's life anew, as the most recently used.

        Returns:
            Whether there is such a session; a live one stays as it is.
        """
    def remove(self, key: str, now_ns: int) -> bool:
        """Remove a session, live or not, without handing it out, and return whether there was one."""
    def evict(self) -> bool:
        """End the longest unused of the detached sessions; False if there is none."""
    def expire(self, now_ns: int, at_most: int = 0) -> list[tuple[str, object, EndReason]]:
        """End the sessions whose life is over and hand out all that have ended since the last call.

        Args:
            now_ns: The time.
            at_most: How many to end now, the longest unused first; 0: all. What ended before comes besides.
        """
    def next_expiry_ns(self) -> int:
        """Return when `expire` has something to do next, 0 if nothing is in sight."""
    def clear(self) -> None:
        """Remove all sessions without handing them out. Versions go on."""
