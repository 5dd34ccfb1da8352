"""How much one client, and all of them, may ask for."""

from __future__ import annotations

from pydantic import Field

from fastim.server.sections.base import MAX_COUNT, MAX_S, Section

__all__ = ["LimitsSettings"]


class LimitsSettings(Section):
    """How much one client, and all of them, may ask for."""

    messages_per_minute: int = Field(
        default=120,
        ge=0,
        le=100_000_000,
        description="Messages of one user in 60 s, all devices together, averaged, with bursts of that many; "
        "count. 0: no limit.",
    )
    packets_per_second: int = Field(
        default=200,
        ge=0,
        le=MAX_COUNT,
        description="Packets of any kind of one connection, averaged, with bursts of twice that; count. "
        "Who is "
        "over is read more slowly, nothing is refused. 0: no limit (the tick's budgets still protect the "
        "neighbours).",
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
        description="New connections in any 60 s, all addresses together; count. One that resumes a session "
        "does not count. 0: no limit.",
    )
    connects_per_minute_per_address: int = Field(
        default=300,
        ge=0,
        le=100_000_000,
        description="New connections of one address (IPv6: a /64 network) in any 60 s; count. One that shows "
        "a valid token does not count, and addresses of `bans.allow` are exempt. 0: no limit.",
    )
    pending_connections: int = Field(
        default=20_000,
        ge=0,
        le=MAX_COUNT,
        description="Connections at a time whose user is not known yet, from accept (TLS handshakes "
        "included) "
        "to the ok of `hello`; count. More are answered 503. 0: no limit.",
    )
    pending_connections_per_address: int = Field(
        default=256,
        ge=0,
        le=MAX_COUNT,
        description="The same of one address (IPv6: a /64 network); count. More are answered 429. "
        "Addresses of "
        "`bans.allow` are exempt. 0: no limit.",
    )
    hello_packets: int = Field(
        default=32,
        ge=0,
        le=MAX_COUNT,
        description="Packets and frames of one connection from the upgrade to the ok of `hello`; count. "
        "More: "
        "it is closed with 4011. 0: no limit.",
    )
    hello_bytes: int = Field(
        default=131_072,
        ge=0,
        le=MAX_COUNT,
        description="Size of all that one connection sends from the upgrade to the ok of `hello`; "
        "bytes. More: "
        "it is closed with 4011. 0: no limit.",
    )
    max_connections: int = Field(
        default=150_000,
        ge=0,
        le=MAX_COUNT,
        description="Connections of all tiers that have a place; count. When all are taken, the longest idle "
        "one of the lowest tier gives way to one that gets a higher tier. 0: as many as the descriptor limit "
        "allows; there are never more.",
    )
    entering_connections: int = Field(
        default=1_024,
        ge=1,
        le=MAX_COUNT,
        description="Connections beside them that have no place yet (before the `ok` of `hello`) or close; "
        "count. Up to a thirty-second of what the descriptor limit allows is kept free for them; more are "
        "refused at accept.",
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
    body_timeout_s: float = Field(
        default=30.0,
        ge=0,
        le=MAX_S,
        description="Time a client has to send the whole body of an HTTP request; seconds. 0: no limit.",
    )
    keep_alive_s: float = Field(
        default=30.0,
        ge=0,
        le=MAX_S,
        description="Time an HTTP connection is kept after an answer for the client to ask for more; "
        "seconds. Clients that poll are silent between two pings; a shorter time than that costs them new "
        "connections. When connections run out, kept ones give way, the longest idle first. 0: each is "
        "closed with the answer.",
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
        "More of a native connection are answered `rate_limited`; one of Socket.IO is read no further until "
        "a handler returns.",
    )
    dynamic_namespaces: int = Field(
        default=1_000,
        ge=0,
        le=MAX_COUNT,
        description="Namespaces that an application's patterns have made and somebody is in; count. Who asks "
        "for one more is told that it does not exist. 0: no bound.",
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
