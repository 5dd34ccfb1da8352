"""Whatever a client sends: a clear answer, nothing lost, nobody else touched."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.serving import Client, ServerProcess, open_client, read_all, wait_until

HANDSHAKE = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)


class Raw:
    """A WebSocket by hand: frames as one likes."""

    def __init__(self, server: ServerProcess, more: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), 10)
        self.socket.sendall(HANDSHAKE.format(port=server.port, more=more).encode())
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(65536)
        self.head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")

    def send(
        self, first: int, payload: bytes = b"", *, masked: bool = True, length: int | None = None
    ) -> None:
        count = len(payload) if length is None else length
        mask_bit = 0x80 if masked else 0
        if count < 126:
            head = struct.pack("!BB", first, mask_bit | count)
        elif count < 65536:
            head = struct.pack("!BBH", first, mask_bit | 126, count)
        else:
            head = struct.pack("!BBQ", first, mask_bit | 127, count)
        mask = b"\x00\x00\x00\x00" if masked else b""
        self.socket.sendall(head + mask + payload)

    def receive(self) -> tuple[int, bytes]:
        """Return the next frame's first byte and payload."""
        while True:
            if len(self.buffer) >= 2:
                length, start = self.buffer[1] & 0x7F, 2
                if length == 126:
                    length, start = int.from_bytes(self.buffer[2:4], "big"), 4
                elif length == 127:
                    length, start = int.from_bytes(self.buffer[2:10], "big"), 10
                if len(self.buffer) >= start + length:
                    frame = self.buffer[0], self.buffer[start : start + length]
                    self.buffer = self.buffer[start + length :]
                    return frame
            data = self.socket.recv(65536)
            assert data, "the server closed without a close frame"
            self.buffer += data

    def close_code(self) -> int:
        while True:
            first, payload = self.receive()
            if first & 0x0F == 8:
                return int.from_bytes(payload[:2], "big")


@pytest.fixture(name="raw")
def connect_raw(shared: ServerProcess) -> Iterator[Raw]:
    raw = Raw(shared)
    yield raw
    raw.socket.close()


FRAMES: dict[str, tuple[list[tuple[tuple[Any, ...], dict[str, Any]]], int]] = {
    "unmasked": ([((0x81, b"[]"), {"masked": False})], 1002),
    "reserved bit": ([((0xC1, b"[]"), {})], 1002),
    "reserved opcode": ([((0x83, b""), {})], 1002),
    "reserved control opcode": ([((0x8B, b""), {})], 1002),
    "ping of 126 bytes": ([((0x89, b"x" * 126), {})], 1002),
    "fragmented ping": ([((0x09, b""), {})], 1002),
    "continuation of nothing": ([((0x80, b""), {})], 1002),
    "new message inside another": ([((0x01, b"["), {}), ((0x81, b"]"), {})], 1002),
    "bad UTF-8": ([((0x81, b'["\xff"]'), {})], 1007),
    "63-bit length": ([((0x81, b""), {"length": 2**63 - 1})], 1009),
    "64-bit length": ([((0x81, b""), {"length": 2**64 - 1})], 1002),
    "over the limit": ([((0x81, b""), {"length": 102_401})], 1009),
    "over the limit in fragments": ([((0x01, b"x" * 60_000), {}), ((0x80, b"x" * 60_000), {})], 1009),
    "close code 1005": ([((0x88, struct.pack("!H", 1005)), {})], 1002),
    "close with one byte": ([((0x88, b"x"), {})], 1002),
    "close with bad UTF-8": ([((0x88, struct.pack("!H", 1000) + b"\xff"), {})], 1007),
}


@pytest.mark.parametrize("name", FRAMES)
def test_frame_when_bad_then_closed_with_the_code(shared: ServerProcess, raw: Raw, name: str) -> None:
    frames, code = FRAMES[name]
    for arguments, options in frames:
        raw.send(*arguments, **options)
    got = raw.close_code()
    assert got == code or (name == "64-bit length" and got in (1002, 1009))
    assert not read_all(raw.socket)


def test_message_when_in_ten_thousand_fragments_then_served(shared: ServerProcess, raw: Raw) -> None:
    raw.send(0x81, json.dumps(["hello", {"token": shared.token("fragments")}, 1]).encode())
    assert json.loads(raw.receive()[1])[0] == "ok"
    raw.send(0x01, b"")
    for byte in b'["echo", "in pieces", 2]':
        raw.send(0x00, bytes([byte]))
    for _ in range(10_000):
        raw.send(0x00, b"")
    raw.send(0x80, b"")
    assert json.loads(raw.receive()[1]) == ["ok", "in pieces", 2]


async def expect_error(client: Client, data: str | bytes, code: str) -> None:
    await client.socket.send(data)
    event, body, *_ = await client.receive()
    assert (event, body["code"]) == ("error", code), (data[:60], body)
    assert await client.request("echo", "still here") == ["ok", "still here"]


JSON_MESSAGES = {
    "empty": ("", "bad_packet"),
    "no JSON": ("{", "bad_packet"),
    "a map": ("{}", "bad_packet"),
    "an empty batch": ("[]", "bad_packet"),
    "an empty packet": ("[[]]", "bad_packet"),
    "a nested batch": ('[[["echo",1]]]', "bad_packet"),
    "a number as event": ("[1.5, {}]", "bad_packet"),
    "an empty event": ('["", {}]', "bad_packet"),
    "no body": ('["echo"]', "bad_packet"),
    "ref 0": ('["echo", 1, 0]', "bad_packet"),
    "ref 2^53": ('["echo", 1, 9007199254740992]', "bad_packet"),
    "a fraction as ref": ('["echo", 1, 1.5]', "bad_packet"),
    "four elements": ('["echo", 1, 2, 3]', "bad_packet"),
    "NaN": ('["echo", NaN, 1]', "bad_packet"),
    "infinity": ('["echo", 1e999, 1]', "bad_request"),
    "a huge integer": (f'["echo", {"9" * 400}, 1]', "bad_request"),
    "2^64": ('["echo", 18446744073709551616, 1]', "bad_request"),
    "a lone surrogate": ('["echo", "\\ud800", 1]', "bad_request"),
    "bad base64": ('["echo", {"$bytes": "*"}, 1]', "bad_request"),
    "a bad escape of a key": ('["echo", {"$other": 1}, 1]', "bad_request"),
    "65 deep": (f'["echo", {"[" * 65}{"]" * 65}, 1]', "bad_request"),
    "50,000 deep": (f'["echo", {"[" * 50_000}{"]" * 50_000}, 1]', "bad_request"),
    "50,000 open": ("[" * 50_000, "bad_packet"),
    "unknown": ('["no.such", {}, 1]', "unknown_event"),
}


@pytest.mark.parametrize("name", JSON_MESSAGES)
async def test_json_when_bad_then_an_error_and_the_connection_stays(shared: ServerProcess, name: str) -> None:
    data, code = JSON_MESSAGES[name]
    async with open_client(shared, "eve") as client:
        await client.socket.send(data)
        event, body, *_ = await client.receive()
        # Which of the two names it is a matter of where the reader notices.
        assert event == "error"
        assert body["code"] in ({code, "bad_packet"} if code == "bad_request" else {code}), body
        assert await client.request("echo", "still here") == ["ok", "still here"]


MSGPACK_MESSAGES = {
    "empty": (b"", "bad_packet"),
    "half a packet": (b"\x93\xa4echo", "bad_packet"),
    "a reserved byte": (b"\xc1", "bad_packet"),
    "a declared array of 2^32": (b"\xdd\xff\xff\xff\xff", "bad_packet"),
    "a declared string of 2^32": (b"\x92\xdb\xff\xff\xff\xffx", "bad_packet"),
    "deep": (b"\x93\xa4echo" + b"\x91" * 60_000 + b"\x01\x01", "bad_request"),
    "NaN": (b"\x93\xa4echo\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\x01", "bad_request"),
    "an extension": (b"\x93\xa4echo\xd4\x01\x00\x01", "bad_request"),
    "bad UTF-8": (b"\x93\xa4echo\xa1\xff\x01", "bad_request"),
    "an integer as key": (b"\x93\xa4echo\x81\x01\x01\x01", "bad_request"),
    "a second value": (b"\x93\xa4echo\x01\x01\x01", "bad_packet"),
    "an unknown code": (b"\x93\xcc\xc8\x80\x01", "unknown_event"),
}


@pytest.mark.parametrize("name", MSGPACK_MESSAGES)
async def test_msgpack_when_bad_then_an_error_and_the_connection_stays(
    shared: ServerProcess, name: str
) -> None:
    data, code = MSGPACK_MESSAGES[name]
    async with open_client(shared, "eve", binary=True) as client:
        await client.socket.send(data)
        event, body, *_ = await client.receive()
        assert event == "error"
        assert body["code"] in ({code, "bad_packet"} if code == "bad_request" else {code}), body
        assert await client.request("echo", "still here") == ["ok", "still here"]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
async def test_frame_type_when_wrong_for_the_encoding_then_bad_packet(
    shared: ServerProcess, binary: bool
) -> None:
    async with open_client(shared, "eve", binary=binary) as client:
        await expect_error(client, '["echo", 1]' if binary else b"\x92\xa4echo\x01", "bad_packet")


async def test_values_when_at_the_edge_then_echoed(shared: ServerProcess) -> None:
    async with open_client(shared, "edge") as one, open_client(shared, "edge", binary=True) as two:
        for client in (one, two):
            for value in ["\x00", "💥", 2**64 - 1, -(2**63), 1e308, [], {}, None, True, {"a": [{"b": None}]}]:
                assert await client.request("echo", value) == ["ok", value]
        assert await two.request("echo", b"\x00\xff") == ["ok", b"\x00\xff"]
        assert await one.request("echo", {"$bytes": "AP8="}) == ["ok", {"$bytes": "AP8="}]
        assert await one.request("echo", {"$$bytes": "x"}) == ["ok", {"$$bytes": "x"}]


async def test_batch_when_of_ten_thousand_then_one_error_and_nothing_done(shared: ServerProcess) -> None:
    async with open_client(shared, "eve") as client:
        await client.socket.send("[" + ",".join(['["x",1]'] * 10_000) + "]")
        event, body, *_ = await client.receive()
        assert (event, body["code"]) == ("error", "too_large")
        assert await client.request("echo", "next") == ["ok", "next"]


async def test_batch_when_of_a_thousand_then_each_answered(shared: ServerProcess) -> None:
    async with open_client(shared, "eve") as client:
        await client.socket.send(json.dumps([["echo", number, number + 1] for number in range(1000)]))
        answers = [await client.receive() for _ in range(1000)]
        assert answers == [["ok", number, number + 1] for number in range(1000)]


FIELDS = [
    ("message", {"content": "x"}, "conversation"),
    ("message", {"conversation": 1, "content": "x"}, "conversation"),
    ("message", {"conversation": "c"}, "content"),
    ("message", {"conversation": "c", "content": 1, "kind": "text"}, "content"),
    ("message", {"conversation": "c", "content": "x", "client_id": "x" * 65}, "client_id"),
    ("message", {"conversation": "c", "content": "x", "reply_to": -1}, "reply_to"),
    ("message", {"conversation": "x" * 129, "content": "x"}, "conversation"),
    ("message", {"conversation": "a\nb", "content": "x"}, "conversation"),
    ("message", [], "body"),
    ("message", None, "body"),
    ("history", {"conversation": "c", "after": 1, "before": 2}, "before"),
    ("history", {"conversation": "c", "limit": 501}, "limit"),
    ("history", {"conversation": "c", "after": "1"}, "after"),
    ("typing", {"conversation": "c", "typing": 1}, "typing"),
    ("presence", {"status": "asleep"}, "status"),
    ("presence_subscribe", {"users": ["u"] * 501}, "users"),
    ("conversation_create", {"kind": "secret", "members": []}, "kind"),
    ("conversation_create", {"kind": "group", "members": "all"}, "members"),
    ("refresh", {}, "token"),
]


@pytest.mark.parametrize(("event", "body", "field"), FIELDS)
async def test_body_when_a_field_is_wrong_then_bad_request_names_it(
    shared: ServerProcess, event: str, body: Any, field: str
) -> None:
    async with open_client(shared, "eve") as client:
        answer, error = await client.request(event, body)
        assert (answer, error["code"]) == ("error", "bad_request"), error
        assert field in error["message"]


async def test_body_when_it_has_more_fields_then_they_are_ignored(shared: ServerProcess) -> None:
    async with open_client(shared, "eve", hello={"new_in_version_9": {"x": [1]}}) as client:
        event, answer = await client.request("ping", {"and": "more"})
        assert event == "ok"
        assert answer["time"] > 0


async def test_seq_when_past_the_end_then_nothing_moves(shared: ServerProcess) -> None:
    async with open_client(shared, "past-the-end") as client:
        body = {"kind": "group", "members": [], "conversation": "past-the-end"}
        assert (await client.request("conversation_create", body))[0] == "ok"
        await client.request("message", {"conversation": "past-the-end", "content": "x"})
        for seq in (2, 2**53, 2**63 - 1):
            await client.send("ack", {"conversation": "past-the-end", "seq": seq})
            await client.request("read_receipt", {"conversation": "past-the-end", "seq": seq})
        _, page = await client.request("members", {"conversation": "past-the-end"})
        assert page["members"][0]["read"] == 1
        _, page = await client.request("history", {"conversation": "past-the-end", "after": 2**53})
        assert page == {"messages": [], "more": False}


def encode_token(header: dict[str, Any], claims: dict[str, Any], key: bytes) -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    signature = hmac.digest(key, signed.encode(), hashlib.sha256) if header["alg"] == "HS256" else b""
    return f"{signed}.{part(signature)}"


def bad_tokens(server: ServerProcess) -> dict[str, str]:
    key = (server.data / "secret").read_bytes().strip()
    header = {"alg": "HS256", "typ": "JWT"}
    claims = {"sub": "u", "exp": int(time.time()) + 60}
    return {
        "expired": encode_token(header, claims | {"exp": int(time.time()) - 60}, key),
        "unsigned": encode_token({"alg": "none", "typ": "JWT"}, claims, b""),
        "another key": encode_token(header, claims, b"another key that is long enough, really"),
        "no sub": encode_token(header, {"exp": claims["exp"]}, key),
        "an empty sub": encode_token(header, claims | {"sub": ""}, key),
        "a control character": encode_token(header, claims | {"sub": "a\nb"}, key),
        "no exp": encode_token(header, {"sub": "u"}, key),
        "not yet": encode_token(header, claims | {"nbf": int(time.time()) + 60}, key),
        "garbage": "garbage",
        "not ASCII": "é.é.é",
    }


async def test_token_when_bad_then_unauthorized_and_a_good_one_is_still_taken(shared: ServerProcess) -> None:
    async with open_client(shared) as client:
        for name, token in bad_tokens(shared).items():
            event, error = await client.request("hello", {"token": token})
            assert (event, error["code"]) == ("error", "unauthorized"), name
            assert token not in json.dumps(error)
        event, error = await client.request("hello", {})
        assert (event, error["code"]) == ("error", "unauthorized")
        event, _ = await client.request("hello", {"token": shared.token("u")})
        assert event == "ok"


async def test_packet_when_before_hello_then_unauthorized(shared: ServerProcess) -> None:
    async with open_client(shared) as client:
        for event in ("echo", "message", "ping", "refresh", "no.such"):
            answer, error = await client.request(event, {})
            assert (answer, error["code"]) == ("error", "unauthorized")
        await client.send("typing", {})
        event, error = await client.receive()
        assert (event, error["code"], error["event"]) == ("error", "unauthorized", "typing")


async def test_neighbour_when_others_send_rubbish_then_untouched(shared: ServerProcess) -> None:
    def open_files() -> int:
        return len(os.listdir(f"/proc/{shared.process.pid}/fd"))

    async with open_client(shared, "neighbour") as neighbour:
        before = open_files()
        for name, (frames, _) in FRAMES.items():
            raw = Raw(shared)
            for arguments, options in frames:
                raw.send(*arguments, **options)
            raw.close_code()
            raw.socket.close()
            assert await neighbour.request("echo", name) == ["ok", name]
        wait_until(lambda: open_files() <= before, "the descriptors are given back")
