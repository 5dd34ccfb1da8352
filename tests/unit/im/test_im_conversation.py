"""Rings: the latest messages, bounded each and in all."""

from __future__ import annotations

import pytest

from fastim.im.conversation import Conversation, Ring, Rings, cost
from fastim.store.base import ConversationRecord, MessageRecord


def conversation(key: int = 1) -> Conversation:
    return Conversation(ConversationRecord(key, f"c{key}", "group", "", "", 2, 0, 0, None), key)


def entry(seq: int, size: int = 10) -> tuple[MessageRecord, bytes | None, bytes | None]:
    return (
        MessageRecord(f"m{seq}", seq, "u", "d", "text", b"x" * size, 0, 0, None, None, seq, None),
        b"j",
        None,
    )


def seqs(ring: Ring | None) -> list[int]:
    return [message.seq for message, _, _ in ring.entries] if ring is not None else []


def fill(rings: Rings, target: Conversation, last: int, first: int = 1, size: int = 10) -> None:
    for seq in range(first, last + 1):
        rings.append(target, entry(seq, size), seq)


def test_ring_when_over_its_bytes_then_the_oldest_go() -> None:
    rings, target = Rings(3 * cost(entry(1)), 1 << 30), conversation()
    fill(rings, target, 10)
    assert seqs(target.ring) == [8, 9, 10]
    assert target.ring is not None
    assert (target.ring.first, target.ring.end) == (8, 11)
    assert rings.bytes == target.ring.bytes == 3 * cost(entry(1))


def test_ring_when_one_message_is_larger_than_all_then_it_alone_stays() -> None:
    rings, target = Rings(1000, 1 << 30), conversation()
    fill(rings, target, 2)
    rings.append(target, entry(3, 5000), 3)
    assert seqs(target.ring) == [3]


def test_ring_when_a_seq_is_missing_then_it_starts_anew() -> None:
    rings, target = Rings(1 << 20, 1 << 30), conversation()
    fill(rings, target, 3)
    rings.append(target, entry(7), 7)
    assert seqs(target.ring) == [7]
    assert rings.bytes == cost(entry(7))


def test_ring_when_switched_off_then_nothing_is_kept() -> None:
    rings, target = Rings(0, 1 << 30), conversation()
    fill(rings, target, 3)
    assert target.ring is None
    assert (rings.bytes, len(rings)) == (0, 0)


def test_rings_when_over_the_total_then_the_longest_unused_goes() -> None:
    rings = Rings(1 << 20, 4 * cost(entry(1)))
    one, two, three = conversation(1), conversation(2), conversation(3)
    fill(rings, one, 2)
    fill(rings, two, 1)
    rings.append(one, entry(3), 3)
    fill(rings, three, 1)
    assert (seqs(one.ring), seqs(two.ring), seqs(three.ring)) == ([1, 2, 3], [], [1])
    assert rings.bytes == 4 * cost(entry(1))


@pytest.mark.parametrize(
    ("after", "up_to", "found"),
    [(0, 9, [5, 6, 7]), (5, 6, [6]), (7, 9, []), (4, 4, []), (6, 7, [7]), (9, 12, [])],
)
def test_between_when_asked_then_after_is_exclusive(after: int, up_to: int, found: list[int]) -> None:
    rings, target = Rings(1 << 20, 1 << 30), conversation()
    fill(rings, target, 7, first=5)
    assert target.ring is not None
    assert [item[0].seq for item in target.ring.between(after, up_to)] == found


def test_replace_when_the_entry_has_gone_then_ignored_and_counted_otherwise() -> None:
    rings, target = Rings(1 << 20, 1 << 30), conversation()
    fill(rings, target, 2)
    before = rings.bytes
    message, json, _ = entry(2)
    rings.replace(target, 2, (message, json, b"12345"))
    rings.replace(target, 9, (message, json, b"12345"))
    assert rings.bytes == before + 5
    rings.drop(target)
    rings.replace(target, 2, (message, json, b"12345"))
    assert (rings.bytes, len(rings), target.ring) == (0, 0, None)
