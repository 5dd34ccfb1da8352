"""Namespaces: what an application registers for one of them, or for all that a pattern covers."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias, TypeVar

from fastim.server.application.handlers import CATCH_ALL, MANY, Handler, check_event, make_handler
from fastim.wire.events import FIRST_APPLICATION_CODE, SOCKETIO_OWN

__all__ = ["ROOT", "Namespace", "Parser", "Pattern"]

log = logging.getLogger("fastim.dispatch")

ROOT: Final = "/"
MAX_NAME_BYTES: Final = 256
# Names that only native packets give a meaning to; there are none of those outside of the root.
NATIVE_NAMES: Final = frozenset({"hello", "ok", "error"})
# What who comes from elsewhere looks for under these names.
_INSTEAD: Final = {
    "connect": "; use @app.on_connect",
    "connect_error": "; clients get it when @app.middleware or @app.authenticate refuses them",
    "disconnect": "; use @app.on_disconnect",
    "disconnecting": "; use @app.on_disconnect, which still knows the rooms",
}

Pattern: TypeAlias = "str | re.Pattern[str] | Callable[[str], bool]"
"""Which namespaces: the name of one, an expression that whole names match, or what is asked about a name."""

Parser: TypeAlias = Literal["json", "msgpack"]
F = TypeVar("F", bound=Callable[..., Any])


class Namespace:
    """The handlers and the options of a namespace.

    Args:
        pattern: See ``Pattern``.

    Attributes:
        messaging: Whether the built-in events are served; False: they are not, whatever the setting says.
        parser: What its clients have to speak; None: what each speaks first.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self.messaging = True
        self.parser: Parser | None = None
        self.handlers: dict[str, Handler] = {}
        self.catch_all: Handler | None = None
        self.codes: dict[int, str] = {}
        self.connect_handlers: list[Handler] = []
        self.disconnect_handlers: list[Handler] = []
        self.middlewares: list[Handler] = []

    def __repr__(self) -> str:
        return f"<Namespace {self.title}>"

    @property
    def title(self) -> str:
        """What it is called in errors."""
        if isinstance(self.pattern, str):
            return self.pattern
        return self.pattern.pattern if isinstance(self.pattern, re.Pattern) else repr(self.pattern)

    def covers(self, name: str) -> bool:
        """Whether a name is one of this namespace's."""
        pattern = self.pattern
        if isinstance(pattern, str):
            return name == pattern
        if isinstance(pattern, re.Pattern):
            return pattern.fullmatch(name) is not None
        try:
            return bool(pattern(name))
        except Exception:  # the application's mistake, which does not speak against the client
            log.exception("the pattern %s fails for the namespace %r", self.title, name)
            return False

    def configure(self, messaging: bool | None, parser: Parser | None) -> None:
        """Set options; None leaves one as it is.

        Raises:
            ValueError: There is no such parser.
        """
        if parser not in (None, "json", "msgpack"):
            raise ValueError(f"parser: 'json' or 'msgpack', not {parser!r}")
        if messaging is not None:
            self.messaging = messaging
        if parser is not None:
            self.parser = parser

    def on(self, event: str, *, thread: bool = False, code: int | None = None) -> Callable[[F], F]:
        """Register the handler of an event; see ``FastIM.on``."""
        if event == CATCH_ALL:
            return self._on_any(thread, code)
        if event in SOCKETIO_OWN:
            raise ValueError(f"{event!r} is no event that clients can send{_INSTEAD.get(event, '')}")
        if self.pattern == ROOT or event not in NATIVE_NAMES:
            check_event(event)
        self._check_code(event, code)
        if event in self.handlers:
            raise ValueError(f"the event {event!r} has a handler already{self._where()}")

        def register(call: F) -> F:
            self.handlers[event] = make_handler(event, call, (0, MANY), "(ctx, body)", thread=thread)
            return call

        return register

    def _on_any(self, thread: bool, code: int | None) -> Callable[[F], F]:
        if code is not None:
            raise ValueError("a catch-all has no code")
        if self.catch_all is not None:
            raise ValueError(f"there is a catch-all already{self._where()}")

        def register(call: F) -> F:
            self.catch_all = make_handler(CATCH_ALL, call, (1, MANY), "(ctx, event, *args)", thread=thread)
            return call

        return register

    def on_connect(self, call: F) -> F:
        """Register a handler; see ``FastIM.on_connect``."""
        self.connect_handlers.append(make_handler("connect", call, (0, 0), "(ctx)"))
        return call

    def on_disconnect(self, call: F) -> F:
        """Register a handler; see ``FastIM.on_disconnect``."""
        self.disconnect_handlers.append(make_handler("disconnect", call, (0, 1), "(ctx) or (ctx, reason)"))
        return call

    def middleware(self, call: F) -> F:
        """Register what is asked before a client is let in; see ``FastIM.middleware``."""
        self.middlewares.append(make_handler("middleware", call, (0, 0), "(ctx)"))
        return call

    def _check_code(self, event: str, code: int | None) -> None:
        if code is None:
            return
        if self.pattern != ROOT:
            raise ValueError("codes are of native connections, which are in the namespace '/'")
        if code < FIRST_APPLICATION_CODE:
            raise ValueError(f"an application's event codes begin at {FIRST_APPLICATION_CODE}, not {code}")
        if self.codes.setdefault(code, event) != event:
            raise ValueError(f"the event code {code} is taken by {self.codes[code]!r}")

    def _where(self) -> str:
        return "" if self.pattern == ROOT else f" in {self.title}"


def check_pattern(pattern: object) -> None:
    """Refuse what names no namespace.

    Raises:
        ValueError: A name that clients cannot send.
        TypeError: It is something else.
    """
    if isinstance(pattern, str):
        if not pattern.startswith("/") or "," in pattern or len(pattern.encode()) > MAX_NAME_BYTES:
            raise ValueError(
                f"a namespace's name begins with '/', has no comma and at most {MAX_NAME_BYTES} bytes, "
                f"not {pattern[:40]!r}"
            )
    elif not isinstance(pattern, re.Pattern) and not callable(pattern):
        raise TypeError(
            f"a namespace is a name, a compiled expression or a function, not {type(pattern).__name__}"
        )
