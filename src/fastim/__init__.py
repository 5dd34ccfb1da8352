"""fastim: a real-time messaging server for teams who write Python.

``from fastim import FastIM`` is what an application needs; it is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fastim._version import __version__

if TYPE_CHECKING:
    from fastim.errors import ConnectionRefused, ErrorCode, RequestError
    from fastim.server.application.app import (
        NO_ACK,
        Answers,
        Context,
        DisconnectReason,
        EndedSession,
        EngineConnection,
        FastIM,
        Handshake,
        Identity,
    )

__all__ = [
    "NO_ACK",
    "Answers",
    "ConnectionRefused",
    "Context",
    "DisconnectReason",
    "EndedSession",
    "EngineConnection",
    "ErrorCode",
    "FastIM",
    "Handshake",
    "Identity",
    "RequestError",
    "__version__",
]


_ERRORS = ("ConnectionRefused", "ErrorCode", "RequestError")


def __getattr__(name: str) -> Any:
    if name in _ERRORS:
        from fastim import errors

        return getattr(errors, name)
    if name in __all__:
        from fastim.server.application import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
