"""Deficit round robin as its paper has it, over whole lists."""

from __future__ import annotations

from collections.abc import Sequence


def deficit_round_robin(
    queues: Sequence[tuple[str, Sequence[tuple[str, int]]]], quantum: int, count: int
) -> list[str]:
    """Return the first `count` packets that backlogged queues send.

    Args:
        queues: In the order of their first packets: a name, and each packet's name and size.
        quantum: What a queue may send more in each round.
        count: Packets that may go in all.
    """
    left = [[list(packets), 0] for _, packets in queues]
    sent: list[str] = []
    while any(packets for packets, _ in left):  # type: ignore[misc]
        for queue in left:
            packets: list[tuple[str, int]] = queue[0]  # type: ignore[assignment]
            if not packets:
                continue
            queue[1] += quantum  # type: ignore[operator]
            while packets and packets[0][1] <= queue[1]:  # type: ignore[operator]
                if len(sent) == count:
                    return sent
                name, size = packets.pop(0)
                queue[1] -= size  # type: ignore[operator]
                sent.append(name)
    return sent
