"""The offset: up to where a client has got everything, as text that its events carry."""

from __future__ import annotations

import re
import secrets
from typing import Final, NamedTuple

__all__ = ["Offset", "new_epoch", "offset_text", "parse_offset"]

_OFFSET: Final = re.compile(r"([0-9a-f]{12})-([0-9a-f]{1,15})-([0-9a-f]{1,15})-([0-9a-f]{1,15})")


class Offset(NamedTuple):
    """A place in what a server sends: everything up to it was sent before.

    Attributes:
        epoch: Whose count ``number`` is: another server counts anew.
        number: Of the application's events that can be replayed, as the server counts them.
        key: Of the messages of all conversations, as the store counts them; each process on a store goes on.
        change: Of the changes of conversations and of their members, likewise.
    """

    epoch: str
    number: int
    key: int
    change: int


def new_epoch() -> str:
    """48 random bits, for a server's life."""
    return secrets.token_hex(6)


def offset_text(epoch: str, number: int, key: int, change: int) -> str:
    """Write an offset; the numbers in hexadecimal, which is short and quickly made."""
    return f"{epoch}-{number:x}-{key:x}-{change:x}"


def parse_offset(text: object) -> Offset | None:
    """Read what a client says is its offset; None if it is none."""
    match = _OFFSET.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    epoch, *counts = match.groups()
    return Offset(epoch, *(int(count, 16) for count in counts))
