"""What ``connect`` was asked for, checked."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

__all__ = ["EncodingName", "Options", "Token", "read_token", "websocket_url"]

EncodingName = Literal["json", "msgpack"]
Token = str | Callable[[], str | Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of ``connect``; each is described there."""

    url: str
    token: Token
    device: str | None = None
    encoding: EncodingName = "json"
    batch: bool = True
    acks: bool = False
    auto_ack: bool = True
    ack_delay_s: float = 0.1
    fill_gaps: bool = True
    compression: bool = True
    reconnect: bool = True
    open_timeout_s: float = 10.0
    call_timeout_s: float = 30.0
    backoff_base_s: float = 0.5
    backoff_cap_s: float = 30.0
    max_queue: int = 1_024
    max_in_flight: int = 1_000
    max_message_bytes: int = 16 * 1024 * 1024

    def __post_init__(self) -> None:
        if self.encoding not in ("json", "msgpack"):
            raise ValueError('encoding must be "json" or "msgpack"')
        if self.max_in_flight < 1 or self.max_queue < 1:
            raise ValueError("max_in_flight and max_queue must be positive")
        if not 0 <= self.backoff_base_s <= self.backoff_cap_s:
            raise ValueError("0 <= backoff_base_s <= backoff_cap_s must hold")


def websocket_url(url: str) -> str:
    """Return ``url`` as a WebSocket address: http becomes ws, https wss, and no path ``/ws``.

    Raises:
        ValueError: The scheme is another one, there is no host, or the port is none.
    """
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ValueError(f"not an http, https, ws or wss address: {url!r} ({error})") from None
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not usable:
        raise ValueError(f"not an http, https, ws or wss address: {url!r}")
    path = "/ws" if parts.path in ("", "/") else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


async def read_token(token: Token) -> str:
    """Return the token; a callable, plain or async, is asked for a fresh one."""
    if isinstance(token, str):
        return token
    answer = token()
    return await answer if inspect.isawaitable(answer) else answer
