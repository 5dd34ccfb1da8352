"""RFC 6455 as one would write it in Python: frames out, and the receiving half of a server's connection."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MAX_CONTROL_BYTES = 125  # section 5.5
# Section 7.4.1, the IANA registry, and the ranges of section 7.4.2
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}

Item = tuple[object, ...]


def encode_header(
    length: int, opcode: int, fin: bool = True, rsv: int = 0, key: bytes | None = None
) -> bytes:
    """Return a frame's header (section 5.2)."""
    marker = 0x80 if key is not None else 0
    if length < 126:
        size = bytes([marker | length])
    elif length < 1 << 16:
        size = bytes([marker | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([marker | 127]) + length.to_bytes(8, "big")
    return bytes([fin << 7 | rsv << 4 | opcode]) + size + (key or b"")


def encode_frame(
    opcode: int, payload: bytes, fin: bool = True, rsv: int = 0, key: bytes | None = None
) -> bytes:
    """Return a frame; a client's has a masking key."""
    header = encode_header(len(payload), opcode, fin, rsv, key)
    return header + (apply_mask(payload, key) if key is not None else payload)


def apply_mask(data: bytes, key: bytes) -> bytes:
    """XOR data with the repeated key (section 5.3)."""
    return bytes(byte ^ mask for byte, mask in zip(data, cycle(key), strict=False))


def is_utf8(data: bytes, final: bool = True) -> bool:
    """Whether data is UTF-8, or (not final) can become it by what follows."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(data, final)
    except UnicodeDecodeError:
        return False
    pending = decoder.getstate()[0]
    # The decoder puts off its judgement of half a surrogate, so look for an end that makes a character of it.
    return not pending or any(is_utf8(pending + end * n) for end in (b"\x80", b"\xbf") for n in (1, 2, 3))


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Return what a close frame carries; without a code, nothing."""
    return b"" if code is None else code.to_bytes(2, "big") + reason.encode()


@dataclass
class Header:
    size: int
    fin: bool
    rsv: int
    opcode: int
    key: bytes | None
    length: int


def decode_header(data: bytes) -> Header | None:
    """Return the header that data begins with; None if it is cut off."""
    if len(data) < 2:
        return None
    wide = {126: 2, 127: 8}.get(data[1] & 0x7F, 0)
    masked = data[1] >> 7
    size = 2 + wide + 4 * masked
    if len(data) < size:
        return None
    length = int.from_bytes(data[2 : 2 + wide], "big") if wide else data[1] & 0x7F
    key = data[size - 4 : size] if masked else None
    return Header(size, bool(data[0] >> 7), data[0] >> 4 & 7, data[0] & 15, key, length)


class Failed(Exception):
    """The connection cannot go on: code, why."""


class FrameReader:
    """A byte stream to items; see fastim._core.inbound.FrameReader, whose twin this is."""

    def __init__(
        self, *, max_message_bytes: int = 102_400, max_fragments: int = 0, deflate: bool = False
    ) -> None:
        self._limit = max_message_bytes
        self._max_fragments = max_fragments
        self._rsv_allowed = 4 if deflate else 0
        self._buffer = b""
        self._frame: Header | None = None  # whose payload is awaited
        self._payload = b""  # of the frame, unmasked
        self._opcode = CONTINUATION  # of the message; CONTINUATION while none has begun
        self._message = b""
        self._compressed = False
        self._fragments = 0
        self._failed = False

    @property
    def idle(self) -> bool:
        """Whether nothing is unfinished."""
        return not self._buffer and self._frame is None and self._opcode == CONTINUATION

    def receive_data(self, data: bytes) -> list[Item]:
        """Return what is complete now; after a ("fail", code, why) nothing more comes."""
        if self._failed:
            return []
        self._buffer += data
        items: list[Item] = []
        try:
            items.extend(self._parse())  # keeps what came before a failure
        except Failed as failure:
            self._failed = True
            items.append(("fail", *failure.args))
        return items

    def _parse(self) -> Iterator[Item]:
        while True:
            if self._frame is None:
                self._frame = decode_header(self._buffer)
                if self._frame is None:
                    return
                self._buffer = self._buffer[self._frame.size :]
                self._check(self._frame)
                self._begin(self._frame)
            if not self._take_payload(self._frame):
                return
            frame, payload = self._frame, self._payload
            self._frame, self._payload = None, b""
            if frame.opcode >= CLOSE:
                yield self._control(frame.opcode, payload)
            elif frame.fin:
                yield self._end_message()

    def _check(self, frame: Header) -> None:
        control = frame.opcode >= CLOSE
        continued = self._opcode != CONTINUATION
        if frame.rsv & ~self._rsv_allowed:
            raise Failed(1002, "reserved bits set")
        if frame.opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Failed(1002, "unknown opcode")
        if frame.key is None:
            raise Failed(1002, "frame not masked")
        if control and (frame.length > MAX_CONTROL_BYTES or not frame.fin):
            raise Failed(1002, "control frame too long or fragmented")
        if frame.rsv and (control or frame.opcode == CONTINUATION):
            raise Failed(1002, "RSV1 outside a message's first frame")
        if frame.length >= 1 << 63:
            raise Failed(1002, "most significant bit of the length set")
        if control:
            return
        if (frame.opcode == CONTINUATION) != continued:
            raise Failed(1002, "continuation out of place")
        if len(self._message) + frame.length > self._limit:
            raise Failed(1009, "message too big")
        if continued and 0 < self._max_fragments <= self._fragments:
            raise Failed(1009, "too many fragments")

    def _begin(self, frame: Header) -> None:
        if frame.opcode >= CLOSE:
            return
        if frame.opcode != CONTINUATION:
            self._opcode, self._fragments = frame.opcode, 0
            self._compressed = frame.rsv != 0
        self._fragments += 1

    def _take_payload(self, frame: Header) -> bool:
        """Take what there is of the frame's payload; True once it is complete."""
        assert frame.key is not None
        start = len(self._payload)
        part = self._buffer[: frame.length - start]
        self._buffer = self._buffer[len(part) :]
        rotated = frame.key[start % 4 :] + frame.key[: start % 4]
        part = apply_mask(part, rotated)
        self._payload += part
        if frame.opcode < CLOSE:
            self._message += part
            if self._opcode == TEXT and not self._compressed and not is_utf8(self._message, final=False):
                raise Failed(1007, "text is not UTF-8")
        return len(self._payload) == frame.length

    def _end_message(self) -> Item:
        opcode, self._opcode = self._opcode, CONTINUATION
        message, self._message = self._message, b""
        if opcode == TEXT and not self._compressed and not is_utf8(message):
            raise Failed(1007, "text is not UTF-8")
        return "message", opcode, self._compressed, message

    def _control(self, opcode: int, payload: bytes) -> Item:
        if opcode != CLOSE:
            return "ping" if opcode == PING else "pong", payload
        if not payload:
            return "close", 1005, b""
        if len(payload) == 1:
            raise Failed(1002, "close code cut off")
        code, reason = int.from_bytes(payload[:2], "big"), payload[2:]
        if code not in CLOSE_CODES:
            raise Failed(1002, "invalid close code")
        if not is_utf8(reason):
            raise Failed(1007, "close reason is not UTF-8")
        return "close", code, reason
