"""Where the server listens, and where its data lies."""

from __future__ import annotations

import ipaddress
from enum import StrEnum
from pathlib import Path

from pydantic import Field, model_validator

from fastim.guard.proxies import ForwardedHeader
from fastim.server.sections.base import MAX_COUNT, Folder, NetworkList, OriginList, Section

__all__ = ["LogLevel", "ServerSettings"]


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


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
    trusted_proxies: NetworkList = Field(
        default=(),
        description="Addresses and CIDR ranges of the proxies in front, whose word about a client's "
        "address is "
        "taken. Empty: nobody's.",
    )
    forwarded_header: ForwardedHeader = Field(
        default=ForwardedHeader.X_FORWARDED_FOR,
        description="The header field in which those proxies name the client: `x-forwarded-for` or "
        "`forwarded` (RFC 7239). The other one is not looked at: clients may have written it.",
    )
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
