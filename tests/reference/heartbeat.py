"""The rules of the heartbeat as one would write them in Python, for one connection."""

from __future__ import annotations

from dataclasses import dataclass, field

TICK_NS = 10_000_000  # of the timing wheel
SECOND_LOOK_NS = 100_000_000
NS_PER_MS = 1_000_000
GOLDEN = 2_654_435_769
REMEMBERED = 3  # pings whose pong still is a round trip


@dataclass
class Rules:
    """What holds for all connections."""

    min_ms: int = 10_000
    max_ms: int = 60_000
    timeout_ns: int = 10_000_000_000
    misses: int = 3
    fast_ns: int = 50_000_000
    slow_ns: int = 200_000_000


@dataclass
class Heartbeat:
    """One connection's heartbeat; the caller tells it what happens and when."""

    rules: Rules
    slot: int
    interval_ms: int
    began_ns: int
    heard_ns: int
    slow: bool = False
    held: bool = False
    misses: int = 0
    number: int = 0
    judged: bool = True  # the verdict on the latest ping is spoken
    doubted: bool = False
    open: bool = True
    round_trip_ns: int = 0
    round_trips: list[int] = field(default_factory=list)
    sent_ns: dict[int, int] = field(default_factory=dict)  # of pings whose pong is awaited, by number
    due_ns: int = 0
    fires_ns: int = 0

    def __post_init__(self) -> None:
        self.pinged_ns = self.began_ns
        self.interval_ms = self.clamp(self.interval_ms)
        self.schedule(self.next_ping_ns(), self.began_ns)

    def clamp(self, interval_ms: int) -> int:
        return min(max(interval_ms, self.rules.min_ms), self.rules.max_ms)

    def schedule(self, due_ns: int, now_ns: int) -> None:
        """A deadline fires when the whole of its tick has passed; one in the past at the next poll."""
        self.due_ns = due_ns
        self.fires_ns = 0 if due_ns <= now_ns else -(-due_ns // TICK_NS) * TICK_NS

    def next_ping_ns(self) -> int:
        wait_ms = self.rules.max_ms if self.slow else self.interval_ms
        share = self.slot * GOLDEN % 2**32
        wait_ms -= (wait_ms * share // 2**32) // (8 if self.number else 2)
        quiet_from_ns = self.pinged_ns if self.misses else self.heard_ns
        return min(quiet_from_ns + wait_ms * NS_PER_MS, self.pinged_ns + self.rules.max_ms * NS_PER_MS)

    def set_interval(self, interval_ms: int, now_ns: int) -> None:
        self.interval_ms = self.clamp(interval_ms)
        if self.judged:
            self.schedule(self.next_ping_ns(), now_ns)

    def set_slow(self, slow: bool, now_ns: int) -> None:
        self.slow = slow
        if self.judged:
            self.schedule(self.next_ping_ns(), now_ns)

    def hold(self) -> None:
        """It is not read from here on: a pong would tell how long we did not look."""
        self.held = True
        self.forget()

    def forget(self) -> None:
        self.judged = True
        self.sent_ns.clear()

    def poll(self, now_ns: int) -> None:
        """Do what is due."""
        if not self.open or now_ns < self.fires_ns:
            return
        if self.held:
            longest_ns = self.rules.max_ms * NS_PER_MS
            if now_ns >= self.pinged_ns + longest_ns:
                self.ping(now_ns)
            self.forget()
            self.schedule(min(now_ns + self.rules.timeout_ns, self.pinged_ns + longest_ns), now_ns)
            return
        if self.heard_ns >= self.pinged_ns:
            self.judged = True
            self.misses = 0
        if not self.judged and not self.judge(now_ns):
            return
        due_ns = self.next_ping_ns()
        if now_ns >= due_ns:
            self.ping(now_ns)
        else:
            self.schedule(due_ns, now_ns)

    def judge(self, now_ns: int) -> bool:
        """Speak the verdict on a ping that nothing followed; False if it has to wait, or was the last."""
        if now_ns < self.pinged_ns + self.rules.timeout_ns:
            self.schedule(self.pinged_ns + self.rules.timeout_ns, now_ns)
            return False
        if not self.doubted:
            self.doubted = True
            self.schedule(now_ns + SECOND_LOOK_NS, now_ns)
            return False
        self.judged = True
        self.misses += 1
        if self.misses == self.rules.misses:
            self.open = False
            return False
        self.interval_ms = self.clamp(self.interval_ms // 2)
        return True

    def ping(self, now_ns: int) -> None:
        self.number += 1
        self.pinged_ns = self.sent_ns[self.number] = now_ns
        self.sent_ns = {n: at for n, at in self.sent_ns.items() if n > self.number - REMEMBERED}
        self.judged = self.doubted = False
        self.schedule(now_ns + self.rules.timeout_ns, now_ns)

    def pong(self, number: int, now_ns: int) -> None:
        """Take a pong, after its bytes were counted in ``heard_ns``."""
        if number not in self.sent_ns:
            return
        round_trip_ns = now_ns - self.sent_ns.pop(number)
        self.round_trip_ns = max(round_trip_ns // 1000, 1) * 1000
        self.round_trips.append(round_trip_ns)
        self.misses = 0
        if number != self.number:
            return
        if not self.judged:
            if round_trip_ns < self.rules.fast_ns:
                self.interval_ms = self.clamp(self.interval_ms * 6 // 5)
            elif round_trip_ns >= self.rules.slow_ns:
                self.interval_ms = self.clamp(self.interval_ms * 4 // 5)
        self.forget()
        self.schedule(self.next_ping_ns(), now_ns)
