"""Engine.IO: what Socket.IO clients connect by."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from fastim.server.sections.base import MAX_COUNT, MAX_S, Section, split_list

__all__ = ["EngineIOSettings", "PingPreset", "Transport"]

MAX_PING_S: Final = 86_400


class PingPreset(StrEnum):
    DEFAULT = "default"
    MOBILE = "mobile"


class Transport(StrEnum):
    POLLING = "polling"
    WEBSOCKET = "websocket"


PRESETS: Final = {PingPreset.DEFAULT: (15.0, 10.0), PingPreset.MOBILE: (25.0, 20.0)}


def check_transports(value: tuple[Transport, ...]) -> tuple[Transport, ...]:
    if not value:
        raise ValueError("names no transport; engineio.enabled switches Engine.IO off")
    return tuple(dict.fromkeys(value))


TransportList = Annotated[
    tuple[Transport, ...], NoDecode, BeforeValidator(split_list), AfterValidator(check_transports)
]


class EngineIOSettings(Section):
    """Engine.IO, revision 4: what Socket.IO clients connect by. Sizes of WebSocket messages and their
    compression are those of `limits.max_message_bytes` and `deflate`, for every protocol.
    """

    enabled: bool = Field(default=True, description="Whether it is spoken at `engineio.path`.")
    path: str = Field(
        default="/socket.io/",
        pattern=r"^/[!-~]*$",
        description="Path of the endpoint, with a slash at its end or without. Socket.IO's `path`.",
    )
    transports: TransportList = Field(
        default=(Transport.POLLING, Transport.WEBSOCKET),
        description="Transports that are spoken, of `polling` and `websocket`. `websocket` alone spares a "
        "session's first requests, where every client is known to get through by it. Socket.IO's "
        "`transports`.",
    )
    preset: PingPreset = Field(
        default=PingPreset.DEFAULT,
        description="What the two settings below are where they are unset: `default` 15 s and 10 s, which "
        "finds lost clients fast; `mobile` 25 s and 20 s, for browsers and phones, whose background tabs are "
        "not woken in time for shorter ones.",
    )
    ping_interval_s: float | None = Field(
        default=None,
        ge=0.05,
        le=MAX_PING_S,
        description="The longest time between two pings, as clients are told it; seconds. Pings to a slow "
        "client come more often. Unset: what `engineio.preset` says. Socket.IO's `pingInterval`.",
    )
    ping_timeout_s: float | None = Field(
        default=None,
        ge=0.05,
        le=MAX_PING_S,
        description="A client that answers no ping for so long is gone; seconds. Unset: what "
        "`engineio.preset` says. Socket.IO's `pingTimeout`.",
    )
    ping_min_s: float = Field(
        default=5.0,
        ge=0.05,
        le=MAX_PING_S,
        description="The interval adapts down to this; seconds. Longer than the interval: it does not adapt.",
    )
    max_payload_bytes: int = Field(
        default=0,
        ge=0,
        le=67_108_864,
        description="Size of what a polling client may post at once, as clients are told it; bytes. 0: as "
        "`limits.max_message_bytes`. The two together are Socket.IO's `maxHttpBufferSize`.",
    )
    upgrade_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=MAX_S,
        description="Time a polling client has to go over to WebSocket once it has opened one; seconds. It "
        "goes on polling otherwise. Socket.IO's `upgradeTimeout`.",
    )
    polling_sessions: int = Field(
        default=50_000,
        ge=0,
        le=MAX_COUNT,
        description="Sessions that poll at a time; count. More are answered 503. 0: no limit.",
    )
    cookie: str = Field(
        default="",
        max_length=64,
        pattern=r"^[A-Za-z0-9_.-]*$",
        description="Name of a cookie (HttpOnly, SameSite=Lax, Path=/) that carries the session's id, for "
        "load balancers that need one. Empty: none is set. Socket.IO's `cookie`.",
    )
    credentials: bool = Field(
        default=False,
        description="Whether pages of other origins may send cookies along; only those that "
        "`server.allowed_origins` names, not those that `*` lets in. Socket.IO's `cors.credentials`.",
    )

    @model_validator(mode="after")
    def _check_path(self) -> EngineIOSettings:
        if not self.path.strip("/"):
            raise ValueError("engineio.path must name more than the root")
        if "?" in self.path or "#" in self.path:
            raise ValueError("engineio.path must be a path alone")
        return self

    @property
    def interval_s(self) -> float:
        """``ping_interval_s``, or the preset's."""
        return PRESETS[self.preset][0] if self.ping_interval_s is None else self.ping_interval_s

    @property
    def timeout_s(self) -> float:
        """``ping_timeout_s``, or the preset's."""
        return PRESETS[self.preset][1] if self.ping_timeout_s is None else self.ping_timeout_s
