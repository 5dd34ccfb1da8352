"""The sections of the settings: each setting's name, default, unit and what 0 means.

``docs/settings.md`` is generated from here (``make docs``).
"""

from __future__ import annotations

import ipaddress
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

__all__ = [
    "AuthSettings",
    "BansSettings",
    "DeflateSettings",
    "DrainSettings",
    "HeartbeatSettings",
    "HistoryVisibility",
    "LimitsSettings",
    "LogLevel",
    "MessagingSettings",
    "MetricsSettings",
    "OutboxSettings",
    "PresenceSettings",
    "ServerSettings",
    "SessionSettings",
    "StoreSettings",
    "Synchronous",
]

MAX_S = 31_536_000  # a year: nanoseconds since the machine's start, plus this, still fit the core's integers
MAX_COUNT = 2_147_483_647  # so does this
MAX_BYTES = 1_099_511_627_776  # a tebibyte: of files, and of memory that all connections share
MIN_SECRET_BYTES = 32  # RFC 7518, section 3.2: no shorter than HS256's output


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Synchronous(StrEnum):
    FULL = "full"
    NORMAL = "normal"


class HistoryVisibility(StrEnum):
    ALL = "all"
    JOINED = "joined"


def split_list(value: object) -> object:
    """Take ``a,b`` or a JSON array where a list is wanted; flags and the environment have only strings."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"no JSON array: {error}") from None
    return tuple(part.strip() for part in value.split(",") if part.strip())


def check_secret(value: SecretStr) -> SecretStr:
    size = len(value.get_secret_value().encode())
    if size < MIN_SECRET_BYTES:
        raise ValueError(f"has {size} bytes, needs at least {MIN_SECRET_BYTES}")
    return value


def check_origin(value: str) -> str:
    if value in ("*", "null") or re.fullmatch(r"[A-Za-z][\w+.-]*://[^/\s]+/?", value):
        return value
    raise ValueError(f"{value!r} is no origin like https://chat.example.com")


def check_folder(value: object) -> object:
    if value == "":
        raise ValueError("must name a folder; '.' is the current one")
    return value


OriginList = Annotated[
    tuple[Annotated[str, AfterValidator(check_origin)], ...], NoDecode, BeforeValidator(split_list)
]
Folder = Annotated[Path, BeforeValidator(check_folder)]
SecretText = Annotated[SecretStr, AfterValidator(check_secret)]
SecretList = Annotated[tuple[SecretText, ...], NoDecode, BeforeValidator(split_list)]


class Section(BaseModel):
    """What all sections share: frozen, unknown names refused, finite numbers, no secret in an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True, validate_default=True
    )


class ServerSettings(Section):
    """Where the server listens and where its data lies."""

    host: str = Field(default="127.0.0.1", min_length=1, description="Address or host name to listen on.")
    port: int = Field(
        default=8765, ge=0, le=65535, description="TCP port to listen on. 0: the system picks a free one."
    )
    path: str = Field(default="/ws", pattern=r"^/[!-~]*$", description="Path of the WebSocket endpoint.")
    data: Folder = Field(
        default=Path("data"),
        description="Folder of the data: messages, secret, API key. Made when missing; one server at a time.",
    )
    allowed_origins: OriginList = Field(
        default=(),
        description="Origins of web pages that may connect, like `https://chat.example.com`; `*` allows all. "
        "Empty: only the server's own origin. A client that sends no Origin is no browser and is let in.",
    )
    tls_cert: Path | None = Field(
        default=None,
        description="PEM file with the certificate chain; needs `server.tls_key`. Unset: no TLS.",
    )
    tls_key: Path | None = Field(default=None, description="PEM file with the certificate's private key.")
    backlog: int = Field(
        default=4096,
        ge=1,
        le=MAX_COUNT,
        description="Connections the kernel keeps until they are accepted; count.",
    )
    node: str = Field(
        default="",
        max_length=64,
        pattern=r"^[ -~]*$",
        description="This server's name as clients are told it. Empty: made up at each start.",
    )
    log_level: LogLevel = Field(default=LogLevel.INFO, description="Least severe level that is logged.")

    @model_validator(mode="after")
    def _tls_in_pairs(self) -> ServerSettings:
        if self.tls_cert is not None and self.tls_key is None:
            raise ValueError("server.tls_key is needed beside server.tls_cert")
        if self.tls_key is not None and self.tls_cert is None:
            raise ValueError("server.tls_cert is needed beside server.tls_key")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


class AuthSettings(Section):
    """Who is let in."""

    secret: SecretText | None = Field(
        default=None,
        description=f"Secret that signs and checks tokens (HS256), at least {MIN_SECRET_BYTES} bytes. "
        "Unset: `auth.secrets`, or if they too are unset, one made in the data folder (`secret`, mode 0600).",
    )
    secrets: SecretList = Field(
        default=(),
        description="Several secrets, for rotation: the first signs, all are accepted. "
        "`auth.secret`, if set, comes before them.",
    )
    api_key: SecretText | None = Field(
        default=None,
        description=f"Key that the REST API under `/v1` asks for, at least {MIN_SECRET_BYTES} bytes. "
        "Unset: one is made in the data folder (`api_key`, mode 0600).",
    )
    dev_login: bool | None = Field(
        default=None,
        description="Whether conveniences for development are on, such as choosing a conversation's id "
        "without the scope for it. Unset: on if, and only if, `server.host` is a loopback address.",
    )
    token_in_url: bool = Field(
        default=False,
        description="Whether `?token=` is accepted; URLs end up in the logs of proxies and browsers.",
    )
    leeway_s: int = Field(
        default=10,
        ge=0,
        le=600,
        description="Difference of clocks that tokens are forgiven; seconds. 0: none.",
    )

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The configured secrets, the signing one first; empty if the data folder's is to be used."""
        first = () if self.secret is None else (self.secret,)
        return tuple(item.get_secret_value().encode() for item in (*first, *self.secrets))


class LimitsSettings(Section):
    """How much one client, and all of them, may ask for."""

    messages_per_minute: int = Field(
        default=600,
        ge=0,
        le=100_000_000,
        description="Messages of one user in any 60 s, all devices together; count. 0: no limit.",
    )
    packets_per_second: int = Field(
        default=0,
        ge=0,
        le=MAX_COUNT,
        description="Packets of one connection, averaged, with bursts of twice that; count. Who is over is "
        "read more slowly. 0: no limit (the tick's budgets still protect the neighbours).",
    )
    members_per_minute: int = Field(
        default=100_000,
        ge=0,
        le=100_000_000,
        description="Members that one user puts into conversations in 60 s, averaged, with bursts of that "
        "many; count. 0: no limit.",
    )
    connects_per_minute: int = Field(
        default=60_000,
        ge=0,
        le=100_000_000,
        description="New connections in any 60 s, all addresses together; count. 0: no limit.",
    )
    connects_per_minute_per_address: int = Field(
        default=300,
        ge=0,
        le=100_000_000,
        description="New connections of one address in any 60 s; count. 0: no limit.",
    )
    max_connections: int = Field(
        default=0,
        ge=0,
        le=MAX_COUNT,
        description="Open connections; count. 0: as many as the descriptor limit allows.",
    )
    max_message_bytes: int = Field(
        default=102_400,
        ge=1024,
        le=67_108_864,
        description="Size of a WebSocket message a client may send, after inflating; bytes.",
    )
    max_fragments: int = Field(
        default=0, ge=0, le=MAX_COUNT, description="Frames one message may be cut into; count. 0: no limit."
    )
    head_bytes: int = Field(
        default=16_384, ge=1024, le=1_048_576, description="Size of a request's head; bytes."
    )
    head_timeout_s: float = Field(
        default=5.0, gt=0, le=MAX_S, description="Time a client has to send the whole request head; seconds."
    )
    hello_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=MAX_S,
        description="Time a client has from the upgrade to a valid `hello`; seconds.",
    )
    close_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=MAX_S,
        description="Time a closing handshake may take before the connection is reset; seconds.",
    )
    conversation_members: int = Field(
        default=10_000, ge=2, le=MAX_COUNT, description="Members of one conversation; count."
    )
    unfinished_requests: int = Field(
        default=64,
        ge=1,
        le=MAX_COUNT,
        description="Requests of one connection that wait for an application's handler; count. "
        "More are answered `rate_limited`.",
    )
    read_budget_bytes: int = Field(
        default=65_536,
        ge=4096,
        le=65_536,
        description="What is read from one connection before the next one's turn; bytes.",
    )
    message_budget: int = Field(
        default=100,
        ge=1,
        le=MAX_COUNT,
        description="Messages taken from one connection before the next one's turn; a large one counts as "
        "many; count.",
    )
    tick_messages: int = Field(
        default=512,
        ge=2,
        le=MAX_COUNT,
        description="Frames of all connections served in one round, which bounds its length; a large one "
        "counts as many; count.",
    )


class BansSettings(Section):
    """Addresses that are shut out for a while."""

    automatic: bool = Field(
        default=True,
        description="Whether an address that keeps being refused is shut out for a while. Loopback addresses "
        "never are: behind a proxy on the same machine all clients have them.",
    )
    refusals_per_minute: int = Field(
        default=120,
        ge=1,
        le=1_000_000,
        description="Refusals in any 60 s (bad tokens, connect limit) that shut an address out; count.",
    )
    duration_s: float = Field(
        default=600.0, gt=0, le=MAX_S, description="How long an address stays shut out; seconds."
    )


class OutboxSettings(Section):
    """What may wait for a client that reads slowly; past it, it is closed with 4008 and resumes."""

    critical_bytes: int = Field(
        default=4_194_304, ge=65_536, le=MAX_COUNT, description="Bound for the tier `critical`; bytes."
    )
    standard_bytes: int = Field(
        default=1_048_576, ge=65_536, le=MAX_COUNT, description="Bound for the tier `standard`; bytes."
    )
    degraded_bytes: int = Field(
        default=262_144, ge=65_536, le=MAX_COUNT, description="Bound for the tier `degraded`; bytes."
    )


class HeartbeatSettings(Section):
    """How a connection is found to be gone."""

    interval_s: float = Field(
        default=30.0,
        ge=0,
        le=MAX_S,
        description="Silence after which a client is pinged; seconds. 0: never pinged.",
    )
    timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=MAX_S,
        description="Time for any sign of life after a ping, then close 4009; seconds.",
    )


class StoreSettings(Section):
    """How messages are kept."""

    synchronous: Synchronous = Field(
        default=Synchronous.FULL,
        description="`full`: an acknowledged message survives a power loss. `normal`: it survives a crash of "
        "the server, but the last ones may be lost with the power.",
    )
    max_batch: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Writes of one commit; count. 1: each write is committed by itself.",
    )
    max_queued: int = Field(
        default=50_000,
        ge=1,
        le=MAX_COUNT,
        description="Writes that may wait for the disk; count. "
        "More are answered `unavailable` until it catches up.",
    )
    busy_timeout_s: float = Field(
        default=5.0,
        ge=0,
        le=3600,
        description="How long a locked file is waited for; seconds. 0: not at all.",
    )
    wal_max_bytes: int = Field(
        default=67_108_864,
        ge=1_048_576,
        le=MAX_BYTES,
        description="Size at which the write-ahead log is moved into the file; bytes.",
    )
    client_id_life_s: int = Field(
        default=86_400,
        ge=86_400,
        le=MAX_S,
        description="How long a `client_id` is remembered, so that a repeated message is stored once; "
        "seconds.",
    )


class MessagingSettings(Section):
    """Delivery, receipts and history."""

    window_ms: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Typing, presence and receipts are gathered for this long; milliseconds.",
    )
    ack_timeout_s: float = Field(
        default=2.0,
        gt=0,
        le=MAX_S,
        description="Time to an `ack` before a message is sent again to whom asked for acks; seconds.",
    )
    ack_retries: int = Field(
        default=3, ge=0, le=MAX_COUNT, description="How often it is sent again; count. 0: never."
    )
    resume_messages: int = Field(
        default=500,
        ge=0,
        le=MAX_COUNT,
        description="Missed messages of a conversation that a resume sends before it says `gap`; count. "
        "0: always `gap`.",
    )
    history_bytes: int = Field(
        default=262_144, ge=4096, le=MAX_COUNT, description="Size of one answer to `history`; bytes."
    )
    ring_bytes: int = Field(
        default=262_144,
        ge=0,
        le=MAX_COUNT,
        description="Latest messages kept in memory for each conversation in use; bytes. 0: none.",
    )
    rings_total_bytes: int = Field(
        default=67_108_864,
        ge=0,
        le=MAX_BYTES,
        description="The same, all conversations together; bytes. 0: none.",
    )
    delivered_members: int = Field(
        default=32,
        ge=0,
        le=MAX_COUNT,
        description="Largest conversation that gets `delivered` receipts; members. 0: none does.",
    )
    read_members: int = Field(
        default=500,
        ge=0,
        le=MAX_COUNT,
        description="Largest conversation that gets `read` receipts; members. 0: none does.",
    )
    typing_timeout_s: float = Field(
        default=6.0, gt=0, le=MAX_S, description="Time after which a typing state ends by itself; seconds."
    )
    members_see: HistoryVisibility = Field(
        default=HistoryVisibility.ALL,
        description="What a new member may read: `all` or what came since it `joined`.",
    )
    members_may_leave: bool = Field(
        default=True, description="Whether members may take themselves out of a group."
    )


class PresenceSettings(Section):
    """Who is there."""

    grace_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time from the last device's leaving to `offline`; seconds. 0: at once.",
    )
    shared_only: bool = Field(
        default=True, description="Whether only users can be watched with whom one shares a conversation."
    )


class DeflateSettings(Section):
    """permessage-deflate (RFC 7692), without context takeover."""

    enabled: bool = Field(default=True, description="Whether compression is negotiated.")
    window_bits: int = Field(
        default=12,
        ge=9,
        le=15,
        description="Size of the window as a power of two; bits. One for all connections.",
    )
    min_bytes: int = Field(
        default=256,
        ge=0,
        le=MAX_COUNT,
        description="Smaller messages are sent uncompressed; bytes. 0: all are compressed.",
    )
    level: int = Field(
        default=1, ge=1, le=9, description="Effort of zlib, without unit: 1 is the fastest, 9 the smallest."
    )


class DrainSettings(Section):
    """How the server ends."""

    deadline_s: float = Field(
        default=10.0,
        ge=0,
        le=MAX_S,
        description="Time that SIGTERM leaves for answers and closing handshakes; seconds. 0: none.",
    )
    quick_deadline_s: float = Field(
        default=1.0, ge=0, le=MAX_S, description="The same for SIGINT; seconds. 0: none."
    )
    retry_after_ms: int = Field(
        default=1000,
        ge=0,
        le=MAX_COUNT,
        description="When clients are told to come back, at the earliest; milliseconds. 0: at once.",
    )


class SessionSettings(Section):
    """Resuming after a lost connection."""

    life_s: float = Field(
        default=3600.0,
        ge=0,
        le=MAX_S,
        description="Time after a connection's end in which it can be resumed; seconds. 0: never.",
    )
    max_count: int = Field(
        default=200_000,
        ge=1,
        le=MAX_COUNT,
        description="Sessions remembered; the longest unused is forgotten first; count.",
    )


class MetricsSettings(Section):
    """`/metrics`, in the format of Prometheus."""

    enabled: bool = Field(default=True, description="Whether `/metrics` exists.")
    key: SecretText | None = Field(
        default=None,
        description="Bearer token that `/metrics` asks from addresses other than loopback, at least "
        f"{MIN_SECRET_BYTES} bytes. Unset: the API key.",
    )
