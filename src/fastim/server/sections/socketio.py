"""Socket.IO: packets, attachments and namespaces."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from fastim.server.sections.base import MAX_BYTES, MAX_COUNT, MAX_S, Section

__all__ = ["ParserChoice", "SocketIOSettings"]

MAX_ATTACHMENTS = 1_000


class ParserChoice(StrEnum):
    AUTO = "auto"
    JSON = "json"
    MSGPACK = "msgpack"


class SocketIOSettings(Section):
    """Socket.IO, protocol 5, over `engineio`: packets, attachments and namespaces."""

    parser: ParserChoice = Field(
        default=ParserChoice.AUTO,
        description="What clients speak: `auto`: what each speaks first; `json`: the default parser; "
        "`msgpack`: socket.io-msgpack-parser. Socket.IO's `parser`.",
    )
    connect_timeout_s: float = Field(
        default=5.0,
        gt=0,
        le=MAX_S,
        description="Time from the opening of a transport until its client is in a namespace; seconds. "
        "Socket.IO's `connectTimeout`, which is 45 s there.",
    )
    attachments_timeout_s: float = Field(
        default=10.0,
        gt=0,
        le=MAX_S,
        description="Time from a packet to the last of its attachments, which come behind it; seconds.",
    )
    max_attachments: int = Field(
        default=10,
        ge=0,
        le=MAX_ATTACHMENTS,
        description="Attachments of a packet; count. 0: none, bytes cannot be sent with the default parser.",
    )
    max_packet_bytes: int = Field(
        default=1_000_000,
        ge=0,
        le=MAX_BYTES,
        description="Size of a packet with its attachments; bytes. 0: no bound but "
        "`limits.max_message_bytes` for each of them.",
    )
    max_namespaces: int = Field(
        default=16,
        ge=0,
        le=MAX_COUNT,
        description="Namespaces that a client may be in at a time, each with a place of its own; count. "
        "0: no limit.",
    )
    recovery_s: float = Field(
        default=0.0,
        ge=0,
        le=MAX_S,
        description="Time after its end in which a connection can be recovered: the client has its sid, its "
        "rooms and its session data back and gets what it missed; seconds; 120 is usual. 0: none is, as in "
        "Socket.IO; each event gets an offset as one more argument, which not every handler of a client "
        "expects. Socket.IO's `connectionStateRecovery.maxDisconnectionDuration`.",
    )
    recovery_skips_middleware: bool = Field(
        default=True,
        description="Whether a connection that is recovered is not shown to the middleware again; tokens, "
        "bans and revocations are looked at all the same. Socket.IO's `skipMiddlewares`.",
    )
    recovery_records: int = Field(
        default=100_000,
        ge=1,
        le=MAX_COUNT,
        description="Connections that are gone and can be recovered; who left first goes first; count.",
    )
    recovery_bytes: int = Field(
        default=134_217_728,
        ge=0,
        le=MAX_BYTES,
        description="Memory that they may hold, about, with their session data; likewise; bytes. "
        "0: no bound.",
    )
    recovery_log_bytes: int = Field(
        default=67_108_864,
        ge=1,
        le=MAX_BYTES,
        description="Memory of the events that somebody may have missed, in all; the oldest go first; bytes. "
        "Messages of conversations are not among them.",
    )
    recovery_room_bytes: int = Field(
        default=4_194_304,
        ge=1,
        le=MAX_BYTES,
        description="The same of one room; bytes.",
    )
    recovery_messages: int = Field(
        default=500,
        ge=1,
        le=MAX_COUNT,
        description="Messages of conversations, of all of a user's together, that a recovered connection is "
        "sent; who missed more gets a new connection; count.",
    )
    recovery_replay_bytes: int = Field(
        default=262_144,
        ge=1,
        le=MAX_BYTES,
        description="The same of all that it missed, and at most half of its outbox; bytes.",
    )
