"""The session table as one would write it in Python: two dictionaries, the detached one in order of use."""

from collections import OrderedDict
from dataclasses import dataclass

from fastim._core.sessions import EndReason


@dataclass(slots=True)
class Session:
    """What the table knows of a session."""

    data: object
    version: int
    lease: int
    data_bytes: int
    deadline_ns: int = 0


class SessionTable:
    """Live sessions, and detached ones with a deadline each."""

    def __init__(self, capacity: int, life_ns: int) -> None:
        self.capacity = capacity
        self.life_ns = life_ns
        self.now_ns = 0
        self.version = 0
        self.live: dict[str, Session] = {}
        self.detached: OrderedDict[str, Session] = OrderedDict()
        self.ended: list[tuple[str, object, EndReason]] = []

    def __len__(self) -> int:
        return len(self.live) + len(self.detached)

    @property
    def data_bytes(self) -> int:
        """The sum of the declared sizes."""
        sessions = [*self.live.values(), *self.detached.values()]
        return sum(session.data_bytes for session in sessions)

    def put(self, key: str, data: object, now_ns: int, data_bytes: int = 0) -> int:
        """Make a live session."""
        self.find(key, now_ns)
        self.detached.pop(key, None)
        self.version += 1
        self.live[key] = Session(data, self.version, self.version, data_bytes)
        return self.version

    def get(self, key: str, now_ns: int) -> tuple[object, int] | None:
        """Return data and version."""
        session = self.find(key, now_ns)
        return (session.data, session.version) if session else None

    def is_live(self, key: str, now_ns: int) -> bool:
        """Return whether the session is live."""
        return self.find(key, now_ns) is not None and key in self.live

    def replace(self, key: str, data: object, version: int, now_ns: int, data_bytes: int = 0) -> int:
        """Set the data if the version fits."""
        session = self.find(key, now_ns)
        if session is None or session.version != version:
            return 0
        self.version += 1
        session.data, session.version, session.data_bytes = data, self.version, data_bytes
        return self.version

    def attach(self, key: str, now_ns: int) -> tuple[object, int] | None:
        """Make the session live."""
        session = self.find(key, now_ns)
        if session is None:
            return None
        self.detached.pop(key, None)
        self.live[key] = session
        self.version += 1
        session.version = session.lease = self.version
        return session.data, self.version

    def detach(self, key: str, lease: int, now_ns: int) -> bool:
        """Begin the session's life; the oldest of too many is evicted."""
        session = self.find(key, now_ns)
        if session is None or key not in self.live or session.lease != lease:
            return False
        del self.live[key]
        self.detached[key] = session
        session.deadline_ns = self.now_ns + self.life_ns
        if self.capacity and len(self.detached) > self.capacity:
            self.end(next(iter(self.detached)))
        return True

    def touch(self, key: str, now_ns: int) -> bool:
        """Begin a detached session's life anew."""
        session = self.find(key, now_ns)
        if session is not None and key in self.detached:
            session.deadline_ns = self.now_ns + self.life_ns
            self.detached.move_to_end(key)
        return session is not None

    def remove(self, key: str, now_ns: int) -> bool:
        """Forget the session."""
        found = self.find(key, now_ns) is not None
        self.live.pop(key, None)
        self.detached.pop(key, None)
        return found

    def evict(self) -> bool:
        """End the longest unused detached session."""
        if not self.detached:
            return False
        self.end(next(iter(self.detached)))
        return True

    def expire(self, now_ns: int, at_most: int = 0) -> list[tuple[str, object, EndReason]]:
        """End what has expired and hand out all that have ended."""
        self.now_ns = max(self.now_ns, now_ns)
        left = at_most or len(self.detached)
        while left and self.detached and self.expired(oldest := next(iter(self.detached))):
            left -= 1
            self.end(oldest)
        ended, self.ended = self.ended, []
        return ended

    def find(self, key: str, now_ns: int) -> Session | None:
        self.now_ns = max(self.now_ns, now_ns)
        if key in self.detached and self.expired(key):
            self.end(key)
        return self.live.get(key) or self.detached.get(key)

    def expired(self, key: str) -> bool:
        return bool(self.life_ns) and self.detached[key].deadline_ns <= self.now_ns

    def end(self, key: str) -> None:
        reason = EndReason.EXPIRED if self.expired(key) else EndReason.EVICTED
        self.ended.append((key, self.detached.pop(key).data, reason))
