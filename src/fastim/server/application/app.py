"""What an application is written with: ``FastIM`` and its decorators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from fastim._core.hub import Lane
from fastim.im.sessions import EndedSession
from fastim.server.application.context import DEFAULT_ASK_TIMEOUT_S, Context
from fastim.server.application.handlers import NO_ACK, Handler, make_handler, make_starter
from fastim.server.application.namespaces import ROOT, Namespace, Parser, Pattern, check_pattern
from fastim.server.application.notices import Notice
from fastim.server.application.outgoing import check_name
from fastim.server.application.questions import Answers
from fastim.server.application.reasons import DisconnectReason
from fastim.server.application.rooms import check_room
from fastim.server.engineio.hook import EngineConnection, EngineHook
from fastim.server.entrance.identity import Identity
from fastim.server.front.opening import Handshake

if TYPE_CHECKING:
    from fastim.server.application.runtime import Runtime

__all__ = [
    "NO_ACK",
    "Answers",
    "Context",
    "DisconnectReason",
    "EndedSession",
    "EngineConnection",
    "FastIM",
    "Handshake",
    "Identity",
]

F = TypeVar("F", bound=Callable[..., Any])


class FastIM:
    """An application: handlers for its own events.

    Handlers take the context and a packet's values: ``(ctx, body)``, ``(ctx, room, text)``, ``(ctx, *args)``.
    A native packet has one, its body; where a handler needs several, the body has to be a list of them. What
    they return answers the packet if it asked for an answer (None is ``null``, a tuple several values,
    ``NO_ACK`` no answer at all), a ``RequestError`` answers with its code, any other exception with
    ``internal`` and an id that stands in the log beside the traceback. Packets of a connection are started in
    the order they came; async and threaded handlers of one connection may overlap, so their answers may come
    in another order.

    Args:
        threads: Size of the pool for ``thread=True`` handlers; default 8.
    """

    def __init__(self, *, threads: int = 8) -> None:
        if threads < 1:
            raise ValueError("threads must be at least 1")
        self.threads = threads
        self.root = Namespace(ROOT)
        self.namespaces: dict[Pattern, Namespace] = {ROOT: self.root}
        self.authenticator: Handler | None = None
        self.start_handlers: list[Handler] = []
        self.undelivered_handlers: list[Handler] = []
        self.session_end_handlers: list[Handler] = []
        self.engine_hooks: list[EngineHook] = []
        self._runtime: Runtime | None = None

    # -- registering

    def namespace(
        self, pattern: Pattern, *, messaging: bool | None = None, parser: Parser | None = None
    ) -> Namespace:
        """Return a namespace, which is made at the first call, and set options of it.

        A client can go to a namespace that handlers were registered for, or that was named here. Native
        connections are in ``/``.

        Args:
            pattern: Its name; or a compiled expression that whole names have to match, or a function that is
                called with a name, for any number of them. A name comes before patterns, an earlier pattern
                before a later one.
            messaging: Whether the built-in events are served there, if at all; default: they are.
            parser: ``json`` or ``msgpack``: what clients have to speak there; default: what each speaks.

        Raises:
            ValueError: No client can send such a name, or there is no such parser.
            TypeError: The pattern is something else.
        """
        namespace = self.namespaces.get(pattern)
        if namespace is None:
            check_pattern(pattern)
            namespace = self.namespaces[pattern] = Namespace(pattern)
        namespace.configure(messaging, parser)
        return namespace

    def on(
        self, event: str, *, namespace: Pattern = ROOT, thread: bool = False, code: int | None = None
    ) -> Callable[[F], F]:
        """Register the handler of an event.

        Args:
            event: The event's name; not one of fastim's own, but for those that clients send: the built-in
                one is replaced. ``*``: what nothing else serves; the handler takes (ctx, event, *args).
            namespace: Where; see ``namespace``.
            thread: Run a blocking function in the thread pool; default: on the loop.
            code: The event's integer in msgpack, from 256; None: it has none.

        Raises:
            ValueError: The name or code is reserved or taken, or an async handler wants a thread.
            TypeError: The handler does not take (ctx, body).
        """
        return self.namespace(namespace).on(event, thread=thread, code=code)

    @overload
    def on_connect(self, call: F) -> F: ...
    @overload
    def on_connect(self, *, namespace: Pattern = ROOT) -> Callable[[F], F]: ...
    def on_connect(self, call: Any = None, *, namespace: Pattern = ROOT) -> Any:
        """Register a handler, called with ``(ctx)`` once a client is in: after its hello was answered.

        A ``RequestError`` it raises ends the connection with 4001, any other exception, which is logged, with
        1011. Packets wait until async ones are done.
        """
        register = self.namespace(namespace).on_connect
        return register if call is None else register(call)

    @overload
    def on_disconnect(self, call: F) -> F: ...
    @overload
    def on_disconnect(self, *, namespace: Pattern = ROOT) -> Callable[[F], F]: ...
    def on_disconnect(self, call: Any = None, *, namespace: Pattern = ROOT) -> Any:
        """Register a handler, called with ``(ctx)`` or ``(ctx, reason)`` once a client that was in is gone.

        ``reason`` is one of ``DisconnectReason``, which are strings.
        """
        register = self.namespace(namespace).on_disconnect
        return register if call is None else register(call)

    @overload
    def middleware(self, call: F) -> F: ...
    @overload
    def middleware(self, *, namespace: Pattern = ROOT) -> Callable[[F], F]: ...
    def middleware(self, call: Any = None, *, namespace: Pattern = ROOT) -> Any:
        """Register what is asked with ``(ctx)`` before a client is let in: the first registered first.

        It refuses by raising ``ConnectionRefused``, whose message and data the client is told, or Python's
        ``ConnectionRefusedError("why")``, or by returning False. ``ctx.user`` and ``ctx.handshake`` are
        there; nothing can be sent yet. It may be async; the setting ``auth.decision_timeout_s`` bounds it.
        """
        register = self.namespace(namespace).middleware
        return register if call is None else register(call)

    def authenticate(self, call: F) -> F:
        """Register what says who a client is, on every protocol, instead of the server's tokens.

        It is called with a ``Handshake`` and returns a user's id, an ``Identity``, or None: then the client
        is refused, or anonymous where ``auth.required`` is off. It may raise ``ConnectionRefused``, and be
        async; the setting ``auth.decision_timeout_s`` bounds it. A client's ``refresh`` asks it again, with
        nothing but the new token, in ``auth``.

        Raises:
            ValueError: There is one already.
        """
        if self.authenticator is not None:
            raise ValueError("there is a function that authenticates already")
        self.authenticator = make_handler("authenticate", call, (0, 0), "(handshake)")
        return call

    def on_start(self, call: F) -> F:
        """Register a function, called without arguments once the server listens.

        An async one runs beside the handlers for as long as it likes, and is cancelled when the server ends.
        """
        self.start_handlers.append(make_starter(call))
        return call

    def on_undelivered(self, call: F) -> F:
        """Register a handler of messages that are stored and did not arrive in time, called with ``(event)``.

        ``event`` is a dict of plain values, as a webhook would send it: ``docs/parts/delivery.md`` has its
        fields. Plain and async handlers are called one event after the other. Needs the setting
        ``messaging.undelivered_after_s``.
        """
        self.undelivered_handlers.append(make_handler("undelivered", call, (0, 0), "(event)"))
        return call

    def on_session_end(self, call: F) -> F:
        """Register a handler, called with an ``EndedSession`` once a session cannot come back any more.

        A session outlives its connections: it ends when its life without one is over, when others need its
        room, when another login takes its place, or when an operator ends it; ``reason`` says which. Each
        session is told once. What a server still has when it stops is not told.
        """
        self.session_end_handlers.append(make_handler("session_end", call, (0, 0), "(ended)"))
        return call

    def engineio(self, path: str) -> Callable[[F], F]:
        """Register the handler of a bare Engine.IO endpoint, with no protocol above it.

        It is called with ``(connection, data)`` for each message, ``data`` as it was sent: a str or bytes. A
        plain handler has returned before the next message is looked at; an async one has, too: the next
        messages of the same client wait for it. ``connection`` is an ``EngineConnection``:
        ``connection.send(data)`` answers. Who connects is not asked for a token. The settings are those of
        ``engineio``.

        Args:
            path: Of the endpoint, with a slash at its end or without; one path a handler.

        Raises:
            ValueError: The path is none, or has a handler already.
            TypeError: The handler does not take (connection, data).
        """

        def register(call: F) -> F:
            hook = EngineHook(path, call)
            if any(hook.path == other.path for other in self.engine_hooks):
                raise ValueError(f"the path {path} has a handler already")
            self.engine_hooks.append(hook)
            return call

        return register

    # -- being served

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        data: str | Path | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        """Serve this application until SIGTERM or SIGINT, as ``fastim serve`` does; it is the whole process.

        Prints ``fastim listening on http://HOST:PORT`` once it is ready; logs go to standard error. The
        settings are the defaults, changed by the environment and by what is given here.

        Args:
            host: Address to listen on; default 127.0.0.1.
            port: TCP port; default 8765. 0: a free one.
            data: The folder where everything is stored. None: the one that the environment names, else a
                temporary one, which is gone when this returns.
            sections: Any settings, by their section: ``limits={"packets_per_second": 0}``.

        Raises:
            ConfigError: A setting, the address or the data folder cannot be used.
        """
        from fastim.server.process.run import run_application

        run_application(self, host, port, data, sections)

    def bind(self, runtime: Runtime | None) -> None:
        """Tell the application who runs it; None when it ends."""
        self._runtime = runtime

    def _served(self) -> Runtime:
        if self._runtime is None:
            raise RuntimeError("the application is not being served")
        return self._runtime

    def _check_namespace(self, name: str) -> None:
        """Refuse a namespace that nobody can be in.

        Raises:
            TypeError: Its name is no string.
            ValueError: There is none of that name, nor a pattern that covers it.
        """
        if not isinstance(name, str):
            raise TypeError(f"namespace: a name, not {type(name).__name__}")
        if name in self.namespaces:
            return
        check_pattern(name)
        if not any(each.covers(name) for each in self.namespaces.values()):
            raise ValueError(f"namespace: there is no {name!r}")

    def emit(
        self,
        event: str,
        *args: Any,
        to: str | Iterable[str] | None = None,
        skip: str | Iterable[str] = (),
        namespace: str = ROOT,
        volatile: bool = False,
    ) -> None:
        """Send an event to those in a namespace: one call, encoded once for each encoding and protocol.

        **Thread**: any; from another than the loop's it is queued.

        Args:
            event: Its name.
            args: Any values; a native client gets one of them as the body, several as a list, none as null.
            to: A room, a sid, or several of them: each connection gets it once. None: everybody.
            skip: A sid or several: they do not get it.
            namespace: Where.
            volatile: Drop it for connections that are behind with what was sent before.

        Raises:
            TypeError: A name is no string.
            ValueError: The event's name is empty or one of Socket.IO's own (``connect``, ``disconnect``, …),
                there is no such namespace, or the protocol cannot carry a value.
            RuntimeError: The application is not being served.
        """
        runtime = self._served()
        self._check_namespace(namespace)
        lane = Lane.LOW if volatile else Lane.NORMAL
        names = None if to is None else _names("to", to)
        outgoing = runtime.outgoing(event, args)
        runtime.on_loop(runtime.emit_to, outgoing, namespace, names, _names("skip", skip), lane)

    async def call(
        self,
        event: str,
        *args: Any,
        to: str | Iterable[str] | None,
        skip: str | Iterable[str] = (),
        namespace: str = ROOT,
        timeout_s: float = DEFAULT_ASK_TIMEOUT_S,
    ) -> Any:
        """Send an event that clients are to acknowledge, and return what they acknowledge it with.

        **Thread**: the loop's; elsewhere use ``call_blocking``.

        Args:
            to: A sid or a room; several names in a list, or None for everybody.
            timeout_s: How long to wait.

        Returns:
            Of a sid, its answer, as ``Context.call`` returns it. Of a room, a list of names, be it of one,
            and everybody ``Answers``: those that came in time, and who is missing.

        Raises:
            TimeoutError: The one that was asked did not answer in time.
            RequestError: It answered with an error.
            ConnectionError: It is gone: ``to`` is neither the sid of somebody who is there nor a room that
                somebody is in. A list of names may reach nobody.
        """
        self._check_namespace(namespace)
        names = None if to is None else _names("to", to)
        return await self._served().call(
            event, args, namespace, names, _names("skip", skip), timeout_s, isinstance(to, str)
        )

    def call_blocking(
        self,
        event: str,
        *args: Any,
        to: str | Iterable[str] | None,
        skip: str | Iterable[str] = (),
        namespace: str = ROOT,
        timeout_s: float = DEFAULT_ASK_TIMEOUT_S,
    ) -> Any:
        """Do what ``call`` does for a handler that runs in a thread.

        Raises:
            RuntimeError: Called on the loop's thread, which it would block.
        """
        asking = self.call(event, *args, to=to, skip=skip, namespace=namespace, timeout_s=timeout_s)
        return self._served().blocking(asking, "await app.call(...)")

    # -- rooms

    def join(self, sid: str, room: str, *, namespace: str = ROOT) -> None:
        """Put a connection into a room, as its ``Context.join`` does.

        **Thread**: any; from another than the loop's it is queued.

        Args:
            sid: One that is not there is ignored.
            room: The room's name.
            namespace: Where both are.

        Raises:
            TypeError, ValueError: An argument is wrong.
            RuntimeError: The application is not being served.
        """
        self._in_room(self._served().join_sid, namespace, sid, room)

    def leave(self, sid: str, room: str, *, namespace: str = ROOT) -> None:
        """Take a join back; see ``join``."""
        self._in_room(self._served().leave_sid, namespace, sid, room)

    def close_room(self, room: str, *, namespace: str = ROOT) -> None:
        """Take everybody out of a room; who is in it stays connected. See ``join``."""
        self._in_room(self._served().close_room, namespace, room)

    def members(self, room: str, *, namespace: str = ROOT) -> list[str]:
        """Return the sids of who is in a room; empty if there is none of that name.

        **Thread**: any; another than the loop's waits for that. **Cost**: O(members).

        Raises:
            TypeError, ValueError: An argument is wrong.
            RuntimeError: The application is not being served.
        """
        self._check_namespace(namespace)
        runtime = self._served()
        return runtime.from_loop(runtime.members, namespace, check_room(room))

    def _in_room(self, call: Callable[..., object], namespace: str, *names: str) -> None:
        self._check_namespace(namespace)
        for name in names:
            check_room(name)
        self._served().on_loop(call, namespace, *names)

    # -- an end, and events to users

    def disconnect(self, sid: str, *, namespace: str = ROOT, close: bool = False) -> None:
        """End a connection for good: its client does not come back by itself.

        **Thread**: any; from another than the loop's it is queued.

        Args:
            sid: One that is not there is ignored; one that could come back cannot any more.
            namespace: Where it is.
            close: Of Socket.IO: close what all namespaces of the client share; default: it leaves this one.

        Raises:
            RuntimeError: The application is not being served.
        """
        runtime = self._served()
        runtime.on_loop(runtime.disconnect_sid, namespace, sid, close)

    def broadcast(self, topic: str, event: str, body: Any = None) -> None:
        """Send an event to each connection of the root that joined a room; see ``emit``.

        **Thread**: any; from another than the loop's it is queued.

        Raises:
            RuntimeError: The application is not being served.
        """
        check_name(event)
        runtime = self._served()
        runtime.on_loop(runtime.broadcast, topic, runtime.outgoing(event, (body,)), None)

    def send(
        self, event: str, body: Any = None, *, users: Iterable[str] = (), connections: Iterable[int] = ()
    ) -> None:
        """Send an event to users, on each of their devices, and to connections: one call, encoded once.

        A connection that is named twice, by itself or by its user, gets it once. Who is not connected gets
        nothing: it is not stored. What is sent to a connection within one turn of the loop goes out as one
        write, and as one batch to a client that takes batches.

        **Thread**: any; from another than the loop's it is queued.

        Args:
            users: Their ids.
            connections: Their numbers, as ``Context.connection`` tells them.

        Raises:
            TypeError: ``users`` is one string, or ``connections`` holds something else than numbers.
            RuntimeError: The application is not being served.
        """
        check_name(event)
        if isinstance(users, str | bytes):
            raise TypeError("users: a list of ids, not one string")
        named = tuple(connections)
        if not all(isinstance(number, int) and 0 <= number < 1 << 64 for number in named):
            raise TypeError("connections: a list of numbers, as Context.connection tells them")
        runtime = self._served()
        runtime.on_loop(runtime.send, runtime.outgoing(event, (body,)), tuple(users), named)

    def system(
        self, text: str, level: str = "info", *, user: str | None = None, conversation: str | None = None
    ) -> None:
        """Send the ``system`` event to everybody who is connected, to a user or to a conversation's members.

        It is not stored. **Thread**: any; it is sent in the next turn of the loop.

        Args:
            text: At most 4,096 bytes.
            level: ``info`` or ``warning``.
            user: Only to the connections of this user.
            conversation: Only to the members of this conversation; one that is not there is logged.

        Raises:
            RuntimeError: The application is not being served.
            ValueError: The text or the level cannot be sent, or it is for both a user and a conversation.
        """
        notice = Notice(text, level, user, conversation)
        notice.check()
        runtime = self._served()
        runtime.on_loop(runtime.system, notice)


def _names(argument: str, names: str | Iterable[str]) -> tuple[str, ...]:
    """Return one name or several as several.

    Raises:
        TypeError: One is no string.
    """
    if not isinstance(names, Iterable) or isinstance(names, bytes | Mapping):
        raise TypeError(f"{argument}: a name or several, not {type(names).__name__}")
    found = (names,) if isinstance(names, str) else tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise TypeError(f"{argument}: names, which are strings, not {type(name).__name__}")
    return found
