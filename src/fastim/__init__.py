"""fastim: a real-time messaging server for teams who write Python.

``from fastim import FastIM`` is what an application needs; it is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from fastim._version import __version__

if TYPE_CHECKING:
    from fastim.server.app import Context, FastIM

__all__ = ["Context", "FastIM", "__version__"]


def __getattr__(name: str) -> Any:
    if name in ("FastIM", "Context"):
        from fastim.server import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
