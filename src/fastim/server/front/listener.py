"""The listening socket."""

from __future__ import annotations

import contextlib
import errno
import socket

from fastim.errors import ConfigError

__all__ = ["format_url", "open_listener"]


def open_listener(host: str, port: int, backlog: int = 4096) -> socket.socket:
    """Bind and listen; accepted sockets inherit the options set here.

    Args:
        host: A name or an address, IPv4 or IPv6 (``::`` takes IPv4 too).
        port: 0: the system picks one.
        backlog: Connections that may wait for an accept; asyncio's 100 makes a connect storm crawl.

    Raises:
        ConfigError: naming ``server.host`` or ``server.port``.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
        )
    except OSError as error:
        raise ConfigError(
            "server.host", f"{host!r} is no address of this machine: {error.strerror}"
        ) from None
    # A name that stands for both families is served on IPv4: port 0 would pick two ports.
    family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        _set_options(listener)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        reason = f"cannot listen on {host}:{port}: {(error.strerror or str(error)).lower()}"
        blamed = "server.port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "server.host"
        raise ConfigError(blamed, reason) from None
    listener.setblocking(False)
    return listener


def _set_options(listener: socket.socket) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if listener.family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if hasattr(socket, "TCP_CONGESTION"):
        # The machine's default may be bbr, which collapses when the processor is busy.
        with contextlib.suppress(OSError):  # not in this kernel
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")


def format_url(listener: socket.socket, host: str, secure: bool) -> str:
    """Write the URL that reaches a listener, by the host it was asked for and the port it has."""
    name = host.strip("[]")
    shown = f"[{name}]" if ":" in name else name
    return f"{'https' if secure else 'http'}://{shown}:{listener.getsockname()[1]}"
