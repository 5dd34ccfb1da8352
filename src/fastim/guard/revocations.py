"""Revocations: tokens that are refused before their time, by their id, their user or their device."""

from __future__ import annotations

import heapq
from enum import StrEnum
from typing import Final, NamedTuple

__all__ = ["Key", "Revocation", "RevocationKind", "Revocations", "covers", "key_of"]

MS_PER_S: Final = 1_000


class RevocationKind(StrEnum):
    TOKEN = "token"
    USER = "user"
    DEVICE = "device"


class Revocation(NamedTuple):
    """What is refused, and until when anybody has to remember it.

    Attributes:
        kind: Of what.
        subject: The token's ``jti``, or the user's id.
        device: Of a user's device; else empty.
        before: Tokens issued before this are refused, and those that do not say when they were; milliseconds
            since the epoch. 0 for a single token.
        until: By then all tokens that it is about have expired; milliseconds since the epoch.
        reason: For operators.
        created: Milliseconds since the epoch.
    """

    kind: str
    subject: str
    device: str
    before: int
    until: int
    reason: str
    created: int


Key = tuple[str, str, str]
"""Kind, subject and device: a later revocation of the same takes the place of the earlier."""


def key_of(record: Revocation) -> Key:
    return record.kind, record.subject, record.device


def covers(record: Revocation, iat: int | None) -> bool:
    """Whether a token of the record's subject is refused; one that does not say its age might be any."""
    if record.kind == RevocationKind.TOKEN:
        return True
    return iat is None or iat * MS_PER_S < record.before


class Revocations:
    """The revocations in force. **Cost**: O(1) to check a token, O(log n) to add one."""

    __slots__ = ("_due", "_records")

    def __init__(self) -> None:
        self._records: dict[Key, Revocation] = {}
        self._due: list[tuple[int, Key]] = []  # heap by until

    def __len__(self) -> int:
        return len(self._records)

    def records(self) -> list[Revocation]:
        """All of them, the oldest first."""
        return sorted(self._records.values(), key=lambda record: (record.created, key_of(record)))

    def add(self, record: Revocation) -> Revocation:
        """Put a revocation in force; it never weakens one of the same key.

        Returns:
            What is in force now: the later ``before`` and the later ``until`` of both.
        """
        known = self._records.get(key_of(record))
        if known is not None:
            record = record._replace(
                before=max(record.before, known.before), until=max(record.until, known.until)
            )
        self._records[key_of(record)] = record
        heapq.heappush(self._due, (record.until, key_of(record)))
        return record

    def lift(self, kind: str, subject: str, device: str = "") -> bool:
        """Take a revocation back; False if there is none."""
        return self._records.pop((kind, subject, device), None) is not None

    def find(self, user: str, device: str | None, jti: str | None, iat: int | None) -> Revocation | None:
        """The revocation that refuses a token, None if it is good.

        Args:
            device: Which one its bearer is, by the token or by the hello; None: not known yet.
        """
        records = self._records
        if not records:
            return None
        keys: list[Key] = [(RevocationKind.USER, user, "")]
        if jti is not None:
            keys.append((RevocationKind.TOKEN, jti, ""))
        if device is not None:
            keys.append((RevocationKind.DEVICE, user, device))
        for key in keys:
            record = records.get(key)
            if record is not None and covers(record, iat):
                return record
        return None

    def prune(self, now_ms: int) -> None:
        """Forget those whose tokens have expired. **Cost**: O(log n) for each of them."""
        while self._due and self._due[0][0] <= now_ms:
            until, key = heapq.heappop(self._due)
            record = self._records.get(key)
            if record is not None and record.until == until:
                del self._records[key]
