"""Engine.IO by hand, over raw sockets: packets and requests as one likes."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from typing import NamedTuple, Self

from tests.compliance.raw_websocket import Opcode, RawWebSocket, frame

__all__ = ["Answer", "RawHttp", "RawPolling", "RawSocketIO", "request"]

ENDPOINT = "/socket.io/?EIO=4"
CONNECT = b'40{"token":"lab-token"}'
WAIT_S = 20.0


class RawSocketIO(RawWebSocket):
    """Engine.IO over WebSocket.

    Args:
        enter: Go into the namespace ``/`` and take the welcome.
        sid: Of a session that is to be upgraded; then nothing is waited for.
    """

    def __init__(self, port: int, *, enter: bool = True, sid: str = "") -> None:
        path = f"{ENDPOINT}&transport=websocket" + (f"&sid={sid}" if sid else "")
        super().__init__(port, path=path)
        self._asked = 0
        if not sid:
            self.opened = json.loads(self.read_text()[1:])
        if enter and not sid:
            self.say(CONNECT)
            self.read_until(b"40{")
            self.read_until(b'42["welcome",')

    def say(self, *packets: bytes) -> None:
        """Send text messages."""
        self.send_until_refused(*(frame(Opcode.TEXT, packet) for packet in packets))

    def read_text(self) -> bytes:
        """Return the next message; pings are answered. EOFError: the server has closed."""
        while True:
            got = self.read_frame()
            if got.opcode == Opcode.CLOSE:
                raise EOFError(got.payload)
            if got.payload == b"2":
                self.say(b"3")
            elif got.opcode == Opcode.TEXT:
                return got.payload

    def read_until(self, mark: bytes) -> bytes:
        """Return the first message that begins so; others are dropped."""
        while not (packet := self.read_text()).startswith(mark):
            pass
        return packet

    send_at_once = say

    def take_arrived(self) -> list[bytes]:
        """Return the messages that have come by now."""
        found = []
        while self._buffer or select.select([self._socket], [], [], 0)[0]:
            found.append(self.read_text())
        return found

    def echo(self) -> None:
        """Go to the server and back; nothing else may have been said meanwhile."""
        self._asked += 1
        self.say(b'42%d["echo","alive?"]' % self._asked)
        assert self.read_text() == b'43%d["alive?"]' % self._asked

    def is_alive(self) -> bool:
        """Whether an event is still acknowledged; what else was said is dropped."""
        try:
            self.say(b'42777["echo","alive?"]')
            self.read_until(b'43777["alive?"]')
        except (EOFError, ConnectionError):
            return False
        return True


class Answer(NamedTuple):
    """A response; ``status`` 0: the server closed without one."""

    status: int
    body: bytes

    @property
    def code(self) -> int:
        """Engine.IO's number of the error."""
        return int(json.loads(self.body)["code"])


def request(
    method: str, path: str, body: bytes | None = None, *fields: str, size: int | None = None
) -> bytes:
    """Build a request; ``size``: what its Content-Length claims."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *fields]
    if body is not None or size is not None:
        lines.append(f"Content-Length: {len(body or b'') if size is None else size}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


class RawHttp:
    """A connection for requests, kept alive."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), WAIT_S)
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(data)

    def is_answered(self) -> bool:
        """Whether something came that was not taken yet."""
        return bool(self._buffer or select.select([self._socket], [], [], 0)[0])

    def read(self) -> Answer:
        """Take the next response."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._more():
                return Answer(0, b"")
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        size = int(fields.get("content-length", "0"))
        while len(self._buffer) < size and self._more():
            pass
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(lines[0].split()[1]), body)

    def ask(self, method: str, path: str, body: bytes | None = None, *fields: str) -> Answer:
        self.send(request(method, path, body, *fields))
        return self.read()

    def _more(self) -> bool:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)


class RawPolling:
    """Engine.IO over polling, on one connection.

    Args:
        enter: Go into the namespace ``/`` and take the welcome.
    """

    def __init__(self, port: int, *, enter: bool = True) -> None:
        self.http = RawHttp(port)
        answer = self.http.ask("GET", f"{ENDPOINT}&transport=polling")
        assert answer.status == 200, answer
        self.sid: str = json.loads(answer.body[1:])["sid"]
        self.path = f"{ENDPOINT}&transport=polling&sid={self.sid}"
        self._waiting: list[bytes] = []
        if enter:
            assert self.post(CONNECT) == Answer(200, b"ok")
            self.read_until(b'42["welcome",')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def get(self) -> Answer:
        return self.http.ask("GET", self.path)

    def post(self, *packets: bytes) -> Answer:
        return self.http.ask("POST", self.path, b"\x1e".join(packets))

    def read_until(self, mark: bytes) -> bytes:
        """Poll for the first packet that begins so; others are dropped, pings answered."""
        while True:
            while self._waiting:
                packet = self._waiting.pop(0)
                if packet == b"2":
                    assert self.post(b"3").status == 200
                elif packet.startswith(mark):
                    return packet
            answer = self.get()
            if answer.status != 200 or answer.body == b"1":
                raise EOFError(answer)
            self._waiting += answer.body.split(b"\x1e")

    def send_at_once(self, *packets: bytes) -> None:
        """Post packets and do not wait for the answer."""
        self.http.send(request("POST", self.path, b"\x1e".join(packets)))

    def take_arrived(self) -> list[bytes]:
        """Return the answers to posts that have come by now."""
        return [self.http.read().body] if self.http.is_answered() else []

    def echo(self) -> None:
        assert self.post(b'421["echo","alive?"]') == Answer(200, b"ok")
        assert self.read_until(b"43") == b'431["alive?"]'

    def is_alive(self) -> bool:
        """Whether the session still is: an event is acknowledged."""
        try:
            if self.post(b'42777["echo","alive?"]').status != 200:
                return False
            self.read_until(b'43777["alive?"]')
        except EOFError:
            return False
        return True
