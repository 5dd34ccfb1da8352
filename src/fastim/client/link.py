"""One socket of a client, from its opening to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.typing import Subprotocol

from fastim.client.codec import Codec
from fastim.client.options import Options
from fastim.client.policy import After, after_close, after_status, is_refusal, retry_after_ms_of
from fastim.errors import CloseCode, ErrorCode, ProtocolError
from fastim.wire.peer import ServerPacket

__all__ = ["Ended", "Link", "Welcome"]

HELLO_REF = (1 << 53) - 1  # a ref that calls, counted from 1, never reach
LEAST_PONG_WAIT_S = 5.0  # a phone's radio needs this long to wake up
CLOSE_TIMEOUT_S = 5.0
OWN_CODE_WAIT_S = 0.25  # a server that closes after a refused hello does it at once


class Ended(Exception):
    """Why a socket is gone, and what follows.

    Attributes:
        online_s: Seconds from the answer to hello to the end.
        refused: The server could not read what it was sent.
    """

    def __init__(self, code: int, reason: str, after: After, retry_after_ms: int = 0) -> None:
        super().__init__(f"{code} {reason}".strip())
        self.code = code
        self.reason = reason
        self.after = after
        self.retry_after_ms = retry_after_ms
        self.online_s = 0.0
        self.refused = is_refusal(code)


@dataclass(frozen=True, slots=True)
class Welcome:
    """The server's answer to ``hello``; fields it did not name keep their defaults."""

    session: str = ""
    user: str = ""
    device: str = ""
    tier: str = "standard"
    node: str = ""
    time: int = 0
    protocol: int = 1
    features: tuple[str, ...] = ()
    resumed: bool = False
    presence: bool = False
    heartbeat_ms: int = 0
    limits: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, body: Any) -> Welcome:
        known = {name: body[name] for name in cls.__slots__ if name in body}
        known["features"] = tuple(known.get("features", ()))
        return cls(**known)


class Link:
    """One WebSocket connection that speaks fastim's protocol; what it ends with is an ``Ended``."""

    def __init__(self, options: Options, codec: Codec, url: str) -> None:
        self._options = options
        self._url = url
        self._codec = codec
        self._socket: ClientConnection | None = None
        self._early: list[ServerPacket] = []
        self._lost: str = ""
        self._received_s = 0.0
        self.heartbeat_s = 0.0

    async def open(self, hello: dict[str, Any]) -> Welcome:
        """Connect and say ``hello``.

        Raises:
            Ended: It did not come to an ``ok``.
        """
        self._socket = await self._connect()
        try:
            async with asyncio.timeout(self._options.open_timeout_s):
                answer = await self._hello_answer(self._codec.encode("hello", hello, HELLO_REF))
        except (ConnectionClosed, ProtocolError):
            raise self._ended() from None
        except TimeoutError:
            await self.abort("no answer to hello in time")
            raise self._ended() from None
        if answer.event == "error":
            raise await self._turned_away(answer.body)
        welcome = Welcome.parse(answer.body)
        self.heartbeat_s = welcome.heartbeat_ms / 1000
        return welcome

    async def _connect(self) -> ClientConnection:
        options = self._options
        deflate = ClientPerMessageDeflateFactory(
            server_no_context_takeover=True, client_no_context_takeover=True, client_max_window_bits=True
        )
        try:
            return await connect(
                self._url,
                subprotocols=[Subprotocol(f"fastim.v1.{options.encoding}")],
                extensions=[deflate] if options.compression else None,
                compression=None,
                max_size=options.max_message_bytes,
                open_timeout=options.open_timeout_s,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,  # the watchdog below keeps to the server's heartbeat instead
            )
        except InvalidStatus as error:
            status = error.response.status_code
            reason = f"the server answered HTTP {status}"
            code = CloseCode.UNAUTHORIZED if status == 401 else CloseCode.ABNORMAL
            raise Ended(code, reason, after_status(status), retry_after_ms_of(error)) from error
        except (OSError, TimeoutError, InvalidHandshake, EOFError) as error:
            raise Ended(CloseCode.ABNORMAL, str(error) or "no connection", After.RECONNECT) from error

    async def _hello_answer(self, hello: bytes) -> ServerPacket:
        assert self._socket is not None
        if not await self.write(hello):
            raise self._ended()
        while True:
            packets = self._codec.decode(await self._socket.recv())
            for at, packet in enumerate(packets):
                if packet.ref == HELLO_REF and packet.event in ("ok", "error"):
                    self._early = packets[at + 1 :]
                    return packet

    async def _turned_away(self, error: Any) -> Ended:
        """The server answered hello with an error: see whether it closes with a code of its own."""
        assert self._socket is not None
        try:
            async with asyncio.timeout(OWN_CODE_WAIT_S):
                await self._socket.wait_closed()
        except TimeoutError:
            await self._socket.close(CloseCode.NORMAL)
        message = f"{error.get('code')}: {error.get('message', '')}"
        closed = self._socket.close_code or CloseCode.NO_STATUS
        if closed >= 4000:
            return Ended(closed, message, after_close(closed), error.get("retry_after_ms", 0))
        if error.get("code") in (ErrorCode.RATE_LIMITED, ErrorCode.UNAVAILABLE, ErrorCode.INTERNAL):
            return Ended(CloseCode.ABNORMAL, message, After.RECONNECT, error.get("retry_after_ms", 0))
        return Ended(CloseCode.UNAUTHORIZED, message, After.STOP)

    async def packets(self) -> AsyncIterator[ServerPacket]:
        """Yield what arrives until the socket is gone.

        Raises:
            Ended: Always, at the end.
        """
        assert self._socket is not None
        early, self._early = self._early, []
        for packet in early:
            yield packet
        try:
            while True:
                message = await self._socket.recv()
                self._received_s = asyncio.get_running_loop().time()
                for packet in self._codec.decode(message):
                    yield packet
        except ConnectionClosed:
            raise self._ended() from None
        except ProtocolError as error:
            await self._socket.close(error.code, error.reason)
            raise Ended(CloseCode.ABNORMAL, error.reason, After.RECONNECT) from None

    async def write(self, packet: bytes) -> bool:
        """Write an encoded packet; return False if the socket is gone (``packets`` says why)."""
        assert self._socket is not None
        try:
            await self._socket.send(packet if self._options.encoding == "msgpack" else packet.decode())
        except ConnectionClosed:
            return False
        return True

    async def watch(self) -> None:
        """Ping a server that has been silent for a heartbeat; end the socket if no pong comes.

        Never returns by itself but when the socket is given up; without a heartbeat at once.
        """
        if not self.heartbeat_s or self._socket is None:
            return
        loop = asyncio.get_running_loop()
        self._received_s = loop.time()
        while True:
            silent_s = loop.time() - self._received_s
            if silent_s < self.heartbeat_s:
                await asyncio.sleep(self.heartbeat_s - silent_s)
                continue
            try:
                pong = await self._socket.ping()
                async with asyncio.timeout(max(self.heartbeat_s, LEAST_PONG_WAIT_S)):
                    await pong
            except ConnectionClosed:
                return
            except TimeoutError:
                await self.abort("the server does not answer")
                return
            self._received_s = loop.time()

    async def close(self) -> None:
        """Close in order; at most 5 s."""
        if self._socket is not None:
            await self._socket.close(CloseCode.NORMAL)

    async def abort(self, reason: str) -> None:
        """Drop the socket at once: the other side does not answer."""
        self._lost = reason
        if self._socket is not None:
            self._socket.transport.abort()
            await self._socket.wait_closed()

    def _ended(self) -> Ended:
        assert self._socket is not None
        if self._lost:
            return Ended(CloseCode.ABNORMAL, self._lost, After.RECONNECT)
        code = self._socket.close_code or CloseCode.ABNORMAL
        return Ended(code, self._socket.close_reason or "", after_close(code))
