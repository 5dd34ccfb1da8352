"""Sids of sockets, made from their handles: neither they nor a way from them to the sockets have to be kept.

A sid is public: clients show it to each other. It proves nothing, but it tells nobody another's: beside the
handle stands a keyed hash of it, by a key that the process makes at its start.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import blake2b
from typing import Final

__all__ = ["SID_CHARS", "handle_of", "sid_of"]

SID_CHARS: Final = 20

_HANDLE_BYTES: Final = 8
_HASH_BYTES: Final = 7
_KEY: Final = secrets.token_bytes(32)


def _digest(handle: bytes) -> bytes:
    return blake2b(handle, digest_size=_HASH_BYTES, key=_KEY).digest()


def sid_of(handle: int) -> str:
    """Return the sid of a hub's handle: 20 characters that are safe in URLs."""
    data = handle.to_bytes(_HANDLE_BYTES)
    return urlsafe_b64encode(_digest(data) + data).decode()


def handle_of(sid: str) -> int | None:
    """Return the handle that a sid was made from; None: this process has not made it."""
    if len(sid) != SID_CHARS or not sid.isascii():
        return None
    try:
        data = urlsafe_b64decode(sid)
    except ValueError:
        return None
    if len(data) != _HASH_BYTES + _HANDLE_BYTES or _digest(data[_HASH_BYTES:]) != data[:_HASH_BYTES]:
        return None
    return int.from_bytes(data[_HASH_BYTES:])
