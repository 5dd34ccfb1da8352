"""The plain options of Socket.IO."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SocketIOOptions"]

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SocketIOOptions:
    """Plain options of Socket.IO, filled from the settings.

    Attributes:
        parser: What clients speak, of ``Encoding``; None: what each speaks first.
        connect_timeout_ns: From the opening of a transport until its client is in a namespace.
        attachments_timeout_ns: From a packet's text to the last of its attachments.
        max_attachments: Of a packet.
        max_packet_bytes: Of a packet with its attachments; 0: no bound but a message's for each of them.
        max_namespaces: That a client may be in at a time; 0: no bound.
    """

    parser: int | None = None
    connect_timeout_ns: int = 5 * NS_PER_S
    attachments_timeout_ns: int = 10 * NS_PER_S
    max_attachments: int = 10
    max_packet_bytes: int = 1_000_000
    max_namespaces: int = 16
