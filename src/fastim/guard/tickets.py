"""Migration tickets: what lets a session go on at another server of the same secret and store.

A ticket stands for the token that its session came in with, for one session of one device, a minute, once.
It is signed with a key that is derived from the secret for this purpose alone: no token is a ticket, and no
ticket a token.
"""

from __future__ import annotations

import secrets as random
from collections.abc import Sequence
from typing import Final

import msgspec

from fastim.guard.seals import Seal
from fastim.guard.tokens import (
    MAX_TOKEN_BYTES,
    Claims,
    DeviceClass,
    Tier,
    TokenError,
)

__all__ = ["LIFE_MS", "Ticket", "Tickets"]

LIFE_MS: Final = 60_000
PREFIX: Final = "fastim-ticket."
PURPOSE: Final = b"fastim migration ticket, version 1"


class Ticket(msgspec.Struct, frozen=True, gc=False):
    """What a ticket says.

    Attributes:
        id: Random; it is good once.
        expires: Milliseconds since the epoch.
        session: The session that goes on.
        user, device, device_class, tier, scope, exp, jti, iat: Of the token that the session came in by; the
            device as it was named in the end.
        status, metadata, encoding: The device's presence; metadata is an encoded value or None.
    """

    id: str
    expires: int
    session: str
    user: str
    device: str
    device_class: str
    tier: str
    scope: list[str]
    exp: int
    jti: str | None
    iat: int | None
    status: int
    metadata: bytes | None
    encoding: int

    def claims(self) -> Claims:
        """What the token said, with the device that the session has."""
        return Claims(
            self.user,
            self.device,
            DeviceClass(self.device_class) if self.device_class else None,
            Tier(self.tier),
            frozenset(self.scope),
            self.exp,
            self.jti,
            self.iat,
        )


class Tickets:
    """Signs tickets, and checks them.

    Args:
        secrets: As the server's tokens have them: the first signs, all are accepted.
    """

    __slots__ = ("_decode", "_encode", "_seal")

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._seal = Seal(secrets, PURPOSE)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Ticket).decode

    @staticmethod
    def new_id() -> str:
        """128 random bits."""
        return random.token_hex(16)

    @staticmethod
    def is_ticket(token: str) -> bool:
        """Whether a text means to be a ticket, and not a token."""
        return token.startswith(PREFIX)

    def sign(self, ticket: Ticket) -> str | None:
        """Return the ticket's text; None if it would be longer than a hello may bring."""
        text = PREFIX + self._seal.sign(self._encode(ticket))
        return text if len(text) <= MAX_TOKEN_BYTES else None

    def open(self, text: str, now_ms: int) -> Ticket:
        """Return what a ticket says.

        Raises:
            TokenError: It is none of ours, or its time is over.
        """
        if len(text) > MAX_TOKEN_BYTES or not text.isascii():
            raise TokenError("it is no ticket")
        try:
            ticket = self._decode(self._seal.open(text.removeprefix(PREFIX)))
        except msgspec.DecodeError:
            raise TokenError("the ticket is of another version") from None
        if now_ms >= ticket.expires:
            raise TokenError("the ticket has expired", expired=True)
        return ticket
