"""What an application's context does: events, topics and questions to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final

from fastim._core.hub import Encoding, Hub, Lane
from fastim.errors import ErrorCode, RequestError
from fastim.server.connection import Connection, Phase, Topic, Work
from fastim.wire.native import decode_value, encode_packet

__all__ = ["Runtime"]

MAX_OPEN_ASKS: Final = 64
_CODES: Final = frozenset(ErrorCode)


class Runtime:
    """Carries out what handlers ask for.

    A value that the protocol cannot carry raises ValueError, in the handler that sends it.

    **Thread**: the loop's, but for ``on_loop`` and ``ask_blocking``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: Hub, clock_ns: Callable[[], int]) -> None:
        self.loop = loop
        self.clock_ns = clock_ns
        self.hub = hub
        self.topics: dict[str, Topic] = {}
        self.codes: dict[str, int] = {}
        self._thread = get_ident()

    def _encode(self, event: str, body: Any, encoding: int, ref: int | None = None) -> bytes:
        name = self.codes.get(event, event) if encoding == Encoding.MSGPACK and self.codes else event
        return encode_packet(name, body, encoding, ref)

    def on_loop(self, call: Callable[..., object], *arguments: Any) -> None:
        """Call on the loop's thread: at once if this is it, else soon."""
        if get_ident() == self._thread:
            call(*arguments)
        else:
            self.loop.call_soon_threadsafe(call, *arguments)

    def emit(self, connection: Connection, event: str, body: Any) -> None:
        """Send an event to a connection; nothing happens if it is gone."""
        self.hub.send(connection.handle, self._encode(event, body, connection.encoding), Lane.NORMAL)

    def close(self, connection: Connection, code: int, reason: str) -> None:
        """Close a connection after what was sent to it before."""
        self.hub.close(connection.handle, code, reason, self.clock_ns())

    # -- topics

    def join(self, connection: Connection, name: str) -> None:
        """Subscribe a connection to a topic."""
        if connection.phase == Phase.CLOSED or any(topic.name == name for topic in connection.topics):
            return
        topic = self.topics.get(name)
        if topic is None:
            topic = self.topics[name] = Topic(name, self.hub.create_topic())
        if self.hub.subscribe(topic.number, connection.handle):
            topic.count += 1
            connection.topics = (*connection.topics, topic)
        elif not topic.count:
            self._drop(topic)

    def leave(self, connection: Connection, name: str) -> None:
        """Take a connection out of a topic."""
        for topic in connection.topics:
            if topic.name == name:
                connection.topics = tuple(other for other in connection.topics if other is not topic)
                self.hub.unsubscribe(topic.number, connection.handle)
                self._left(topic)
                return

    def leave_all(self, connection: Connection) -> None:
        """Forget the topics of a connection that is gone; the hub has forgotten it already."""
        topics, connection.topics = connection.topics, ()
        for topic in topics:
            self._left(topic)

    def _left(self, topic: Topic) -> None:
        topic.count -= 1
        if not topic.count:
            self._drop(topic)

    def _drop(self, topic: Topic) -> None:
        del self.topics[topic.name]
        self.hub.drop_topic(topic.number)

    def broadcast(self, name: str, event: str, body: Any, exclude: Connection | None) -> None:
        """Send an event to a topic's connections, encoded once for each encoding that is needed."""
        topic = self.topics.get(name)
        if topic is None:
            return
        number = topic.number
        json_count, msgpack_count = self.hub.topic_members(number)
        json = self._encode(event, body, Encoding.JSON) if json_count else None
        msgpack = self._encode(event, body, Encoding.MSGPACK) if msgpack_count else None
        self.hub.publish(number, json, msgpack, exclude.handle if exclude is not None else 0)

    # -- questions to clients

    async def ask(self, connection: Connection, event: str, body: Any, timeout_s: float) -> Any:
        """Send a request and wait for its answer; see ``Context.ask``."""
        if connection.phase == Phase.CLOSED:
            raise ConnectionError("the connection is gone")
        work = connection.work
        if work is None:
            work = connection.work = Work()
        if len(work.asks) >= MAX_OPEN_ASKS:
            raise RequestError(ErrorCode.UNAVAILABLE, "the client has too many questions to answer")
        work.last_ref = ref = work.last_ref + 1
        packet = self._encode(event, body, connection.encoding, ref)
        future = work.asks[ref] = self.loop.create_future()
        self.hub.send(connection.handle, packet, Lane.NORMAL)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        finally:
            del work.asks[ref]

    def ask_blocking(self, connection: Connection, event: str, body: Any, timeout_s: float) -> Any:
        """Ask from a handler's thread."""
        if get_ident() == self._thread:
            raise RuntimeError("ask_blocking would block the loop; await ctx.ask(...) here")
        return asyncio.run_coroutine_threadsafe(
            self.ask(connection, event, body, timeout_s), self.loop
        ).result()

    def answered(self, connection: Connection, body: Any, ref: int | None, event: str) -> None:
        """Take a client's ``ok`` or ``error``; an answer to nothing we asked is ignored."""
        future = connection.work.asks.get(ref) if connection.work is not None and ref is not None else None
        if future is None or future.done():
            return
        value = decode_value(body, connection.encoding)
        if event == "ok":
            future.set_result(value)
        else:
            future.set_exception(_client_error(value))


def _client_error(value: Any) -> RequestError:
    fields = value if isinstance(value, dict) else {}
    code = fields.get("code")
    known = ErrorCode(code) if isinstance(code, str) and code in _CODES else ErrorCode.BAD_REQUEST
    return RequestError(known, str(fields.get("message", "the client answered with an error")))
