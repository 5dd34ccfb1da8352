"""A client's connection: calls, events in order, and coming back after its socket broke."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Generator
from types import TracebackType
from typing import Any, Self

from fastim.client.backoff import Backoff
from fastim.client.calls import Call, CallTable
from fastim.client.codec import Codec
from fastim.client.errors import CallTimeout, ClientError, ConnectionClosed, ConnectionLost
from fastim.client.events import Event, EventQueue, Sent
from fastim.client.handlers import Handler, Handlers
from fastim.client.identifiers import uuid7
from fastim.client.inbox import Inbox
from fastim.client.link import Ended, Link, Welcome
from fastim.client.move import Move
from fastim.client.options import EncodingName, Options, Token, read_token, websocket_url
from fastim.client.policy import After
from fastim.client.requests import Requests
from fastim.errors import CloseCode, ErrorCode, RequestError
from fastim.wire.peer import ServerPacket, error_of

__all__ = ["Connection", "connect"]

log = logging.getLogger("fastim.client")

STABLE_S = 10.0  # a connection that held this long lets the backoff begin again
EXPIRED_TOKENS = 3  # fresh tokens refused as expired, one after the other, before we give up
LEAVE_S = 1.0  # that a connection which goes on elsewhere waits for answers
UNAVAILABLE_PAUSE_S = 0.25  # the first pause before a message that the store did not take is sent again


class Connection(Requests):
    """A connection to a fastim server that outlives its sockets; made by ``connect``.

    Use it as an async context manager, or ``await`` it and ``close`` it. Iterating yields ``Event``s.

    **Delivery**: a conversation's messages come in the order of ``seq``, each once, without holes. If the
    application falls behind by more than ``max_queue`` events, messages are fetched from history once there
    is room; other events that find no room are dropped and counted in ``dropped_events``.

    **Thread**: belongs to the event loop it was started on.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._codec = Codec(options.encoding)
        self._calls = CallTable()
        self._queue = EventQueue(options.max_queue)
        self._inbox = Inbox(self._queue, self.history, fill_gaps=options.fill_gaps, auto_ack=options.auto_ack)
        self._handlers = Handlers(self._write_now, self._codec)
        self._slots = asyncio.Semaphore(options.max_in_flight)
        self._link: Link | None = None
        self._online = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._over: ClientError | None = None
        self._why: Ended | None = None
        self._not_before_s = 0.0  # of the loop's clock; from when on the server wants to see us again
        self._stay_away = False
        self._url = websocket_url(options.url)
        self._move: Move | None = None
        self.welcome: Welcome | None = None

    # -- beginning and end

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.start().__await__()

    async def start(self) -> Self:
        """Connect and say hello; a server that is not there yet is waited for.

        Raises:
            ConnectionClosed: The server turned us away for good, or none answered within ``open_timeout_s``.
        """
        if self._runner is not None:
            raise RuntimeError("a connection is started once")
        self._runner = asyncio.create_task(self._run(), name="fastim-client")
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                await self.wait_online()
        except TimeoutError:
            await self.close()
            reason = f"no connection in time ({self._why or 'no answer'})"
            raise ConnectionClosed(CloseCode.ABNORMAL, reason) from self._why
        except BaseException:
            await self.close()
            raise
        return self

    async def close(self) -> None:
        """Send the acknowledgements that are due, and close.

        Calls that still wait, and ``receive`` once the queue is empty, raise ConnectionClosed.
        """
        link = self._link
        if link is not None and self.is_online:
            await self._send_acks(link)
        self._finish(ConnectionClosed(CloseCode.NORMAL, "closed by the caller"))
        if link is not None:
            await link.close()
        await self._handlers.stop()
        await self._inbox.stop()
        if self._runner is not None and self._runner is not asyncio.current_task():
            self._runner.cancel()
            await asyncio.wait([self._runner])

    def _finish(self, error: ClientError) -> None:
        """Nothing comes any more: tell all who wait."""
        if self._over is None:
            self._over = error
        self._online.set()  # wakes wait_online, which looks at _over first
        self._calls.fail_all(self._over)
        self._queue.close(self._over)

    @property
    def is_online(self) -> bool:
        """Whether a socket is open and its hello was answered."""
        return self._online.is_set() and self._over is None

    @property
    def user(self) -> str:
        """The user that the server took us for; "" before the first hello."""
        return self.welcome.user if self.welcome else ""

    @property
    def dropped_events(self) -> int:
        """Events other than messages for which the queue had no room."""
        return self._inbox.dropped

    async def wait_online(self) -> None:
        """Wait until the server can be talked to; raise ConnectionClosed if it never will be again."""
        if self._over is None:
            await self._online.wait()
        if self._over is not None:
            raise self._over

    # -- sockets, one after the other

    async def _run(self) -> None:
        try:
            await self._run_links()
        except Exception as error:
            log.exception("the client failed")
            self._finish(ConnectionClosed(CloseCode.INTERNAL_ERROR, repr(error)))

    async def _run_links(self) -> None:
        """Open a socket, and the next one when it is gone, until that is forbidden or no use."""
        backoff = Backoff(self._options.backoff_base_s, self._options.backoff_cap_s)
        expired = 0
        while self._over is None:
            self._why = ended = await self._one_link()
            expired = expired + 1 if ended.after is After.FRESH_TOKEN else 0
            static = isinstance(self._options.token, str)
            hopeless = expired and (static or expired >= EXPIRED_TOKENS)
            if ended.after is After.STOP or hopeless or self._stay_away or not self._options.reconnect:
                self._finish(ConnectionClosed(ended.code, ended.reason))
                return
            if ended.online_s >= STABLE_S:
                backoff.reset()
                expired = min(expired, 1)
            if self._move is not None:
                pause_s = max(0.0, self._move.at_s - asyncio.get_running_loop().time())
            else:
                told_ms = int((self._not_before_s - asyncio.get_running_loop().time()) * 1000)
                pause_s = backoff.next_s(max(ended.retry_after_ms, told_ms))
            log.info("connection ended (%s); the next attempt in %.1f s", ended, pause_s)
            await asyncio.sleep(pause_s)

    async def _one_link(self) -> Ended:
        """Open a socket, serve it until it is gone, and return why it went."""
        self._inbox.restart()
        move, self._move = self._move, None
        try:
            hello = await self._hello(move)
        except Exception as error:  # the callable is the application's
            log.warning("no token: %r", error)
            return Ended(CloseCode.ABNORMAL, f"no token: {error!r}", After.RECONNECT)
        url = (move.url if move is not None else None) or self._url
        link = Link(self._options, self._codec, url)
        try:
            before, self.welcome = self.welcome, await self._open(link, hello, url, moving=move is not None)
            if before is not None:
                self._inbox.event(Event("fastim.connected", {"resumed": self.welcome.resumed}))
            await self._serve(link)
        except Ended as ended:
            self._calls.interrupted(ConnectionLost(ended.code, ended.reason), refused=ended.refused)
            return ended
        finally:
            await link.abort("")
        raise AssertionError("a link ends with Ended")

    async def _open(self, link: Link, hello: dict[str, Any], url: str, *, moving: bool) -> Welcome:
        """Open a socket at an address, which is then ours; one that fails leads back to the first.

        Raises:
            Ended: It did not come to an ``ok``. A ticket that is not taken is no reason to give up: there is
                the token.
        """
        try:
            welcome = await link.open(hello)
        except Ended as ended:
            self._url = websocket_url(self._options.url)
            if moving:
                ended.after = After.RECONNECT
            raise
        self._url = url
        return welcome

    async def _serve(self, link: Link) -> None:
        """Take what arrives until the socket is gone; raises Ended."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        self._link = link
        jobs = (self._catch_up(link), link.watch(), self._ack_loop(link))
        helpers = [asyncio.create_task(job) for job in jobs]
        try:
            async for packet in link.packets():
                self._dispatch(packet)
        except Ended as ended:
            ended.online_s = loop.time() - began_s
            self._inbox.event(Event("fastim.disconnected", {"code": ended.code, "reason": ended.reason}))
            raise
        finally:
            self._link = None
            self._online.clear()
            for helper in helpers:
                helper.cancel()
            await asyncio.wait(helpers)

    async def _hello(self, move: Move | None) -> dict[str, Any]:
        body: dict[str, Any] = {
            "token": move.token if move is not None else await read_token(self._options.token),
            "batch": self._options.batch,
            "acks": self._options.acks,
        }
        before = self.welcome
        if device := (before.device if before else self._options.device):
            body["device"] = device
        if before is not None:
            body["resume"] = {"session": before.session, "seen": self._inbox.seen()}
        return body

    async def _catch_up(self, link: Link) -> None:
        """Write what has no answer yet; then everybody may write."""
        for call in self._calls.unwritten():
            self._calls.wrote(call)
            if not await link.write(call.packet):
                return
        if self._over is None:
            self._online.set()

    # -- what arrives

    def _dispatch(self, packet: ServerPacket) -> None:
        try:
            self._take(packet)
        except (KeyError, TypeError, AttributeError):
            log.exception("%s from the server lacks what the protocol promises", packet.event)

    def _take(self, packet: ServerPacket) -> None:
        event, body, ref = packet
        if event in ("ok", "error"):
            if ref is not None:
                self._answered(ref, event, body)
            else:
                log.warning("the server could not serve %s: %s", body.get("event"), body.get("message"))
                self._inbox.event(Event(event, body))
        elif ref is not None:
            self._handlers.request(event, body, ref)
        elif event == "new_message":
            if body["sender"] == self.user and self._calls.is_sending(body.get("client_id")):
                self._inbox.own(body["conversation"], body["seq"])
            else:
                self._inbox.message(body)
        elif event == "migrate":
            self._prepare_move(body)
            self._inbox.event(Event(event, {name: body[name] for name in body if name != "token"}))
        else:
            self._note(event, body)
            self._inbox.event(Event(event, body))

    def _note(self, event: str | int, body: Any) -> None:
        """Heed what concerns the connection itself."""
        if event == "server_shutdown":
            # It counts from here: when the server closes is its own affair, and may be much later.
            self._not_before_s = asyncio.get_running_loop().time() + body.get("retry_after_ms", 0) / 1000
            self._stay_away = not body.get("reconnect", True)
        elif event == "forced_disconnect":
            self._not_before_s = asyncio.get_running_loop().time() + body.get("retry_after_ms", 0) / 1000
        elif event == "token_expiring" and not isinstance(self._options.token, str):
            self._handlers.spawn(self._refresh())

    def _prepare_move(self, body: dict[str, Any]) -> None:
        """The server wants us elsewhere: go there when it says so, or when it closes before."""
        try:
            self._move = Move.parse(body, asyncio.get_running_loop().time())
        except ValueError as error:
            log.warning("the server named an address to go to that cannot be used: %s", error)
            return
        if self._link is not None:
            self._handlers.spawn(self._leave(self._link, self._move))

    async def _leave(self, link: Link, move: Move) -> None:
        """Close a connection that goes on elsewhere, once what it was asked is answered."""
        await asyncio.sleep(max(0.0, move.at_s - asyncio.get_running_loop().time()))
        if self._link is not link or self._move is not move:
            return
        self._online.clear()  # what is asked from now on is asked there
        if waiting := [call.answer for call in self._calls.in_flight()]:
            await asyncio.wait(waiting, timeout=LEAVE_S)
        await self._send_acks(link)
        await link.close()

    async def _refresh(self) -> None:
        try:
            await self.request("refresh", {"token": await read_token(self._options.token)})
        except Exception as error:  # the callable is the application's; the close with 4002 follows anyway
            log.warning("the token could not be refreshed: %s", error)

    def _answered(self, ref: int, event: str, body: Any) -> None:
        call = self._calls.get(ref)
        if call is None:
            return  # it timed out, or was cancelled
        self._calls.remove(call)
        if event == "ok":
            if call.event in ("message", "binary"):
                # Here, not where the caller awaits it: a message behind this ok may come in the same turn.
                self._inbox.own(body["conversation"], body["seq"])
            if not call.answer.done():
                call.answer.set_result(body)
        else:
            call.fail(error_of(body))

    # -- calls

    async def request(
        self, event: str, body: Any = None, *, timeout_s: float | None = None, retry: bool = False
    ) -> Any:
        """Send a request and return the body of its answer.

        Args:
            event: The event's name.
            body: Its body; None: an empty one.
            timeout_s: Seconds to wait, for a connection included; None: ``call_timeout_s``.
            retry: Carrying it out twice is harmless: ask again on the next connection if this one breaks.

        Raises:
            RequestError: The server's ``error``; a LimitExceeded says when to come back.
            ConnectionLost: The connection broke first (``retry`` False), or the server could not read it.
            CallTimeout: No answer in time.
            ConnectionClosed: The connection is over for good.
        """
        return await self._call(event, {} if body is None else body, timeout_s, retry=retry)

    async def _call(
        self,
        event: str,
        body: Any,
        timeout_s: float | None,
        *,
        retry: bool,
        client_id: str | None = None,
    ) -> Any:
        if self._over is not None:
            raise self._over
        ref = self._calls.next_ref()
        packet = self._codec.encode(event, body, ref)
        self._check_size(packet)
        call = Call(ref, event, packet, retry=retry, client_id=client_id)
        try:
            async with asyncio.timeout(self._options.call_timeout_s if timeout_s is None else timeout_s):
                async with self._slots:
                    if self._over is not None:
                        raise self._over
                    self._calls.add(call)
                    await self._write_now(packet, call)
                    return await call.answer
        except TimeoutError:
            raise CallTimeout(event, client_id) from None
        finally:
            self._calls.remove(call)

    def _check_size(self, packet: bytes) -> None:
        limit = self.welcome.limits.get("max_message_bytes", 0) if self.welcome else 0
        if limit and len(packet) > limit:
            raise RequestError(ErrorCode.TOO_LARGE, f"{len(packet)} bytes, the server takes {limit}")

    async def _write_now(self, packet: bytes, call: Call | None = None) -> bool:
        """Write a packet if we are online; a call that is not written now is when we are again."""
        link = self._link
        if link is None or not self.is_online:
            return False
        self._calls.wrote(call)
        return await link.write(packet)

    async def emit(self, event: str, body: Any = None) -> bool:
        """Send a packet that wants no answer; return False if there is no connection to send it on."""
        packet = self._codec.encode(event, {} if body is None else body, None)
        self._check_size(packet)
        return await self._write_now(packet)

    async def send(
        self,
        conversation: str,
        content: Any,
        *,
        kind: str | None = None,
        reply_to: int | None = None,
        client_id: str | None = None,
        timeout_s: float | None = None,
    ) -> Sent:
        """Send a message and return once it is durable.

        Until it is answered it is sent again, with the same ``client_id``, on each new connection and when
        the store was not available; the server stores it once.

        Args:
            conversation: Its id.
            content: A string, or any other value of the protocol.
            kind: None: ``text`` for a string, ``binary`` for bytes, else ``data``.
            reply_to: The seq of the message that this one answers.
            client_id: At most 64 bytes; None: a new UUIDv7.
            timeout_s: Seconds to wait, for connections included; None: ``call_timeout_s``.

        Raises:
            RequestError: The server did not take it (``forbidden``, ``rate_limited``, ``conflict`` …).
            CallTimeout: Not known to be stored; its ``client_id`` sends it again without a duplicate.
            ConnectionLost: The server could not read it.
            ConnectionClosed: The connection is over for good.
        """
        client_id = client_id or uuid7()
        body: dict[str, Any] = {
            "conversation": conversation,
            "content": content,
            "client_id": client_id,
        }
        if kind is not None:
            body["kind"] = kind
        if reply_to is not None:
            body["reply_to"] = reply_to
        timeout_s = self._options.call_timeout_s if timeout_s is None else timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._send_until_taken(body, client_id, timeout_s)
        except TimeoutError:
            raise CallTimeout("message", client_id) from None
        return Sent(
            answer["id"],
            conversation,
            answer["seq"],
            answer["time"],
            client_id,
            answer.get("duplicate", False),
        )

    async def _send_until_taken(self, body: Any, client_id: str, timeout_s: float) -> Any:
        pauses = Backoff(UNAVAILABLE_PAUSE_S, 5.0)
        while True:
            try:
                return await self._call("message", body, timeout_s, retry=True, client_id=client_id)
            except RequestError as error:
                if error.code != ErrorCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(UNAVAILABLE_PAUSE_S + pauses.next_s())

    # -- events

    def on_request(self, event: str | int) -> Callable[[Handler], Handler]:
        """Decorate the function, plain or async, that answers the server's request ``event``.

        It is given the body and returns the answer; a RequestError it raises becomes the ``error``.
        """
        return self._handlers.register(event)

    async def receive(self, timeout_s: float | None = None) -> Event:
        """Return the next event.

        Args:
            timeout_s: Seconds to wait; None: as long as it takes.

        Raises:
            TimeoutError: There was none in time.
            ConnectionClosed: The connection is over for good, and all that came was taken.
        """
        async with asyncio.timeout(timeout_s):
            event = await self._queue.get()
        if event.name == "new_message":
            self._inbox.taken(event.body)
        return event

    async def __aiter__(self) -> AsyncIterator[Event]:
        while True:
            try:
                yield await self.receive()
            except ConnectionClosed as closed:
                if closed.code == CloseCode.NORMAL:
                    return
                raise

    async def ack(self, conversation: str, seq: int) -> None:
        """Acknowledge that all up to ``seq`` arrived; needed only with ``auto_ack=False``."""
        self._inbox.acks.add(conversation, seq)

    async def _ack_loop(self, link: Link) -> None:
        while True:
            await self._inbox.acks.wanted.wait()
            await asyncio.sleep(self._options.ack_delay_s)
            if not await self._send_acks(link):
                return

    async def _send_acks(self, link: Link) -> bool:
        acks = self._inbox.acks
        for conversation, seq in acks.drain():
            packet = self._codec.encode("ack", {"conversation": conversation, "seq": seq}, None)
            if not await link.write(packet):
                acks.add(conversation, seq)
                return False
        return True


def connect(
    url: str,
    *,
    token: Token,
    device: str | None = None,
    encoding: EncodingName = "json",
    batch: bool = True,
    acks: bool = False,
    auto_ack: bool = True,
    fill_gaps: bool = True,
    compression: bool = True,
    reconnect: bool = True,
    open_timeout_s: float = 10.0,
    call_timeout_s: float = 30.0,
    backoff_base_s: float = 0.5,
    backoff_cap_s: float = 30.0,
    max_queue: int = 1_024,
    max_in_flight: int = 1_000,
) -> Connection:
    """Return a connection to a fastim server; ``async with`` or ``await`` opens it.

    Args:
        url: ``http://``, ``https://``, ``ws://`` or ``wss://``; without a path ``/ws``.
        token: A JWT, or a function, plain or async, that returns a fresh one whenever we connect.
        device: The device's name, where the token names none; None: the server makes one up.
        encoding: ``json`` or ``msgpack``.
        batch: Let the server send several packets in one message.
        acks: Let the server send again what was not acknowledged in time.
        auto_ack: Acknowledge messages when ``receive`` hands them out; False: with ``ack``.
        fill_gaps: Fetch what a ``gap`` names from history; False: hand the ``gap`` on.
        compression: Offer permessage-deflate.
        reconnect: Come back after the socket broke; False: that is the end.
        open_timeout_s: Seconds for the first connection, later for each attempt.
        call_timeout_s: Seconds that calls wait for their answer where they do not say.
        backoff_base_s: Ceiling of the first pause before coming back, in seconds; it doubles each time.
        backoff_cap_s: Ceiling of all pauses, in seconds.
        max_queue: Events that wait for ``receive``.
        max_in_flight: Calls without an answer; further ones wait.

    Raises:
        ValueError: An argument cannot be used.
    """
    return Connection(
        Options(
            url=websocket_url(url),
            token=token,
            device=device,
            encoding=encoding,
            batch=batch,
            acks=acks,
            auto_ack=auto_ack,
            fill_gaps=fill_gaps,
            compression=compression,
            reconnect=reconnect,
            open_timeout_s=open_timeout_s,
            call_timeout_s=call_timeout_s,
            backoff_base_s=backoff_base_s,
            backoff_cap_s=backoff_cap_s,
            max_queue=max_queue,
            max_in_flight=max_in_flight,
        )
    )
