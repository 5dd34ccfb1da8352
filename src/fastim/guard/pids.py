"""Private ids of connections: what lets a client of Socket.IO have its connection back.

A pid is signed with a key that is derived from the secret for this purpose alone, so that it can be believed
by a server that has forgotten the connection, or never had it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from fastim.guard.seals import Seal
from fastim.guard.tokens import MAX_TOKEN_BYTES, TokenError

__all__ = ["Pid", "Pids"]

PURPOSE: Final = b"fastim private id of a connection, version 1"
SIGNATURE_BYTES: Final = 16  # 128 bits: nobody can try out more than a few


class Pid(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a private id says.

    Attributes:
        sid: The public id of the connection.
        namespace: Where it is.
        user, device: Whose it is; empty for an anonymous one.
        session: Its messaging session; empty: it has none.
        epoch, number, key, change: The offset at its beginning; see ``server.recovery.offsets``.
        complete: At its beginning nothing was missing that was still to come.
        expires: Milliseconds since the epoch.
    """

    sid: str
    namespace: str
    user: str
    device: str
    session: str
    epoch: str
    number: int
    key: int
    change: int
    complete: bool
    expires: int


class Pids:
    """Signs private ids, and checks them.

    Args:
        secrets: As the server's tokens have them: the first signs, all are accepted.
    """

    __slots__ = ("_decode", "_encode", "_seal")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._seal = Seal(secrets, PURPOSE, SIGNATURE_BYTES)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Pid).decode

    def sign(self, pid: Pid) -> str:
        """Return its text."""
        return self._seal.sign(self._encode(pid))

    def open(self, text: str, now_ms: int) -> Pid:
        """Return what a private id says.

        Raises:
            TokenError: It is none of ours, or its time is over (``expired``).
        """
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            raise TokenError("it is no private id")
        try:
            pid = self._decode(self._seal.open(text))
        except msgspec.DecodeError:
            raise TokenError("the private id is of another version") from None
        if now_ms >= pid.expires:
            raise TokenError("the private id has expired", expired=True)
        return pid
