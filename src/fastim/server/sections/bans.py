"""Who is shut out."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_S, NetworkList, Section

__all__ = ["BansSettings"]

MAX_KEYED_COUNT = 65_535  # of the core's windows by key


class BansSettings(Section):
    """Who is shut out, and what leads to it. Bans by hand: `fastim ban`, or `/v1/bans`."""

    allow: NetworkList = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Addresses and CIDR ranges that are never shut out, nor bounded by the limits of "
        "addresses.",
    )
    automatic: bool = Field(
        default=True,
        description="Whether anybody is banned for what is counted below. Bans by hand hold in any case.",
    )
    window_s: float = Field(
        default=60.0,
        ge=1,
        le=86_400,
        description="Window in which what leads to a ban is counted; seconds.",
    )
    address_offences: int = Field(
        default=120,
        ge=0,
        le=MAX_KEYED_COUNT,
        description="Bad tokens, and protocol errors before a token, within the window after which an "
        "address "
        "(IPv6: a /64 network) is banned; count. 0: never.",
    )
    address_refusals: int = Field(
        default=3_000,
        ge=0,
        le=MAX_KEYED_COUNT,
        description="Connects beyond `limits.connects_per_minute_per_address` within the window after "
        "which an "
        "address is banned; count. 0: never.",
    )
    address_s: float = Field(
        default=600.0, ge=0, le=MAX_S, description="How long it is banned then; seconds. 0: for ever."
    )
    user_violations: int = Field(
        default=200,
        ge=0,
        le=MAX_KEYED_COUNT,
        description="Packets of a user within the window that were unreadable, too large or over a "
        "limit, and "
        "protocol errors, after which the user is banned; count. What comes from `bans.allow` does not "
        "count. "
        "0: never.",
    )
    user_s: float = Field(
        default=600.0, ge=0, le=MAX_S, description="How long the user is banned then; seconds. 0: for ever."
    )
