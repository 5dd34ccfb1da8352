"""Ids that clients make."""

from __future__ import annotations

import os
import time

__all__ = ["uuid7"]

_last = 0


def uuid7() -> str:
    """Return a new UUID of version 7 (RFC 9562, section 5.7), later than all that this process made before.

    Time-ordered ids keep the store's index of ``client_id``s growing at its end.
    """
    global _last
    # 48 bits of milliseconds, then the 12 bits of rand_a as a counter (method 1 of section 6.2): a clock that
    # stands still or goes back counts on from the last one.
    stamp = max((time.time_ns() // 1_000_000) << 12, _last + 1)
    _last = stamp
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | tail
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
