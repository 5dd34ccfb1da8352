"""The twin of the bound on packets: the generic cell rate algorithm (ITU-T I.371), by its definition."""

from __future__ import annotations


class PacketMeter:
    """Serves packets of a queue as long as they are not ahead of their rate by more than a burst.

    Args:
        packet_ns: Between packets that come evenly.
        burst_ns: So far ahead one may be.
    """

    def __init__(self, packet_ns: int, burst_ns: int) -> None:
        self.packet_ns = packet_ns
        self.burst_ns = burst_ns
        self.due_ns = 0  # when the next one would come if all came evenly

    def is_held(self, now_ns: int) -> bool:
        return self.due_ns - now_ns > self.burst_ns

    def count(self, packets: int, now_ns: int) -> None:
        self.due_ns = max(self.due_ns, now_ns) + packets * self.packet_ns

    def serve(self, waiting: int, now_ns: int) -> int:
        """Count packets one by one until it is held, or there are no more; return how many."""
        served = 0
        while served < waiting and not self.is_held(now_ns):
            self.count(1, now_ns)
            served += 1
        return served
