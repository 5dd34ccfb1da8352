"""Tables: how each event of a namespace is served, and which namespaces there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fastim.server.application.handlers import HandlerMode
from fastim.server.application.namespaces import ROOT, Namespace

if TYPE_CHECKING:
    from fastim.im.messaging import Builtin
    from fastim.server.application.app import FastIM
    from fastim.server.application.handlers import Handler

__all__ = ["Call", "Entry", "Event", "Mode", "Table", "Tables"]

Call: TypeAlias = Callable[..., Any]
Event: TypeAlias = str | int | None
"""An int is a code without a name; None: it could not be read."""

Entry: TypeAlias = tuple[int, Call, Any]
"""The mode, what is called, and the type of a built-in's body or an application's ``Handler``."""


class Mode(IntEnum):
    """How an event is served."""

    PLAIN = 0  # an application's plain handler
    BUILTIN = 1
    ASYNC = 2
    THREAD = 3
    SERVICE = 4  # (connection, encoded body, ref); hello, refresh and the answers to our questions
    REFUSE = 5  # the server is ending


_MODES: Final = {
    HandlerMode.PLAIN: Mode.PLAIN,
    HandlerMode.ASYNC: Mode.ASYNC,
    HandlerMode.THREAD: Mode.THREAD,
}
_NOWHERE: Final = Namespace(ROOT)  # without handlers
_WHILE_DRAINING: Final = frozenset({"ok", "error", "ack", "read_receipt", "ping"})


def _entry(handler: Handler) -> Entry:
    return _MODES[handler.mode], handler.with_body, handler


class Table:
    """The events of a namespace.

    Args:
        namespace: What the application has registered for it.

    Attributes:
        entries: By name or code; an application's own come before built-in ones of the same name.
    """

    __slots__ = ("_refuses", "entries", "namespace")

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.entries: dict[Event, Entry] = {
            event: _entry(handler) for event, handler in namespace.handlers.items()
        }
        for code, event in namespace.codes.items():
            if event in self.entries:
                self.entries[code] = self.entries[event]
        self._refuses = False

    def add(self, event: Event, entry: Entry) -> None:
        """Serve an event, unless the application does."""
        self.entries.setdefault(event, entry)

    def find(self, event: Event) -> Entry | None:
        """Return how an event is served; None: not at all."""
        entry = self.entries.get(event)
        catch_all = self.namespace.catch_all
        if entry is not None or catch_all is None or not isinstance(event, str):
            return entry
        entry = _entry(catch_all.for_event(event))
        return (Mode.REFUSE, *entry[1:]) if self._refuses else entry

    def refuse_work(self) -> None:
        """Refuse from now on what asks for work."""
        self._refuses = True
        for event, entry in self.entries.items():
            if event not in _WHILE_DRAINING:
                self.entries[event] = (Mode.REFUSE, *entry[1:])


class Tables:
    """The tables of all namespaces.

    Namespaces that a pattern covers exist while somebody is in them.

    Args:
        application: Its handlers; None: there is none.
        max_dynamic: How many namespaces patterns may make at a time; 0: no bound.
        messaging: Whether the built-in events are served where a namespace does not say otherwise.

    Attributes:
        native: The root's table as native connections see it.
    """

    def __init__(self, application: FastIM | None, max_dynamic: int = 1_000, messaging: bool = True) -> None:
        self._messaging = messaging
        namespaces = list(application.namespaces.values()) if application is not None else [Namespace(ROOT)]
        tables = [Table(namespace) for namespace in namespaces]
        self._named: dict[str, Table] = {
            table.namespace.pattern: table for table in tables if isinstance(table.namespace.pattern, str)
        }
        self._patterns = [table for table in tables if not isinstance(table.namespace.pattern, str)]
        self._dynamic: dict[str, tuple[Table, int]] = {}  # and how many are in it
        self._max_dynamic = max_dynamic
        self.native = Table(self._named[ROOT].namespace)

    def _all(self) -> list[Table]:
        return [*self._named.values(), *self._patterns, self.native]

    def add_builtins(self, builtins: Mapping[str, Builtin]) -> None:
        """Serve the domain's events, where the namespace wants them."""
        for table in self._all():
            if self._messaging and table.namespace.messaging:
                for event, builtin in builtins.items():
                    table.add(event, (Mode.BUILTIN, builtin.handler, builtin.body))

    def add_service(self, event: str, call: Call, *, native: bool = False) -> None:
        """Serve an event by ``call(connection, encoded body, ref)``.

        Args:
            native: Of native connections only.
        """
        for table in (self.native,) if native else self._all():
            table.entries[event] = (Mode.SERVICE, call, None)

    def refuse_work(self) -> None:
        """Refuse from now on what asks for work: the server is ending."""
        for table in self._all():
            table.refuse_work()

    # -- namespaces

    @property
    def is_single(self) -> bool:
        """Whether there is one namespace only."""
        return len(self._named) == 1 and not self._patterns

    def is_named(self, name: str) -> bool:
        """Whether a namespace is there by its name, not by a pattern."""
        return name in self._named

    def serves_messaging(self, name: str) -> bool:
        """Whether the built-in events are served in a namespace."""
        table = self.get(name)
        return self._messaging and table is not None and table.namespace.messaging

    def get(self, name: str) -> Table | None:
        """Return the table of a namespace that exists."""
        found = self._named.get(name)
        if found is None and name in self._dynamic:
            found = self._dynamic[name][0]
        return found

    def namespace_of(self, name: str) -> Namespace:
        """Return what the application has registered for where somebody is."""
        table = self.get(name)
        return table.namespace if table is not None else _NOWHERE

    def open(self, name: str) -> Table | None:
        """Return the table of the namespace that somebody goes to; None: there is none, or no room for it.

        Each call that returned a table is followed by one of ``close``.
        """
        found = self._named.get(name)
        if found is not None:
            return found
        dynamic = self._dynamic.get(name)
        if dynamic is None:
            if 0 < self._max_dynamic <= len(self._dynamic):
                return None
            table = next((table for table in self._patterns if table.namespace.covers(name)), None)
            if table is None:
                return None
            dynamic = (table, 0)
        self._dynamic[name] = (dynamic[0], dynamic[1] + 1)
        return dynamic[0]

    def close(self, name: str) -> None:
        """Somebody has left a namespace, or did not get in."""
        dynamic = self._dynamic.get(name)
        if dynamic is None:
            return
        table, count = dynamic
        if count > 1:
            self._dynamic[name] = (table, count - 1)
        else:
            del self._dynamic[name]
