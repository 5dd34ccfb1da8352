"""Socket.IO over WebSocket: namespaces, packets, acknowledgements, and what clients in order do not send."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.e2e.serving import ServerProcess
from tests.support.sio import ACK, CONNECT, DISCONNECT, EVENT, open_sio

APPLICATION = "tests.e2e.socketio_application:app"
FREE = {
    "FASTIM_AUTH__REQUIRED": "false",
    "FASTIM_MESSAGING__ENABLED": "false",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
    "FASTIM_ENGINEIO__PING_INTERVAL_S": "0.3",
    "FASTIM_ENGINEIO__PING_TIMEOUT_S": "5",
    "FASTIM_SOCKETIO__CONNECT_TIMEOUT_S": "0.5",
    "FASTIM_SOCKETIO__ATTACHMENTS_TIMEOUT_S": "0.3",
    "FASTIM_SOCKETIO__MAX_ATTACHMENTS": "3",
    "FASTIM_SOCKETIO__MAX_PACKET_BYTES": "1000",
    "FASTIM_SOCKETIO__MAX_NAMESPACES": "3",
    "FASTIM_LIMITS__DYNAMIC_NAMESPACES": "1",
}

both = pytest.mark.parametrize("packed", [False, True], ids=["text", "msgpack"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of an application that wants no tokens and no messaging."""
    server = ServerProcess(tmp_path_factory.mktemp("plain") / "data", (APPLICATION,), dict(FREE))
    yield server
    assert server.process.poll() is None, server.log()
    assert server.stop() == 0
    for sign in ("could not be served", "a tick failed", "background task failed", "Exception in callback"):
        assert sign not in server.log()


# -- CONNECT


@pytest.mark.parametrize(
    ("sent", "answer", "auth"),
    [
        ("40", "40{", None),
        ('40{"greet":1}', "40{", '42["auth",{"greet":1}]'),
        ("40/chat", "40/chat,{", None),
        ("40/chat,", "40/chat,{", None),
        ('40/chat,{"greet":"é"}', "40/chat,{", '42/chat,["auth",{"greet":"é"}]'),
        ("40/room-1,", "40/room-1,{", None),
    ],
)
async def test_connect_when_the_namespace_exists_then_sid_alone(
    plain: ServerProcess, sent: str, answer: str, auth: str | None
) -> None:
    async with open_sio(plain.port) as client:
        await client.send_raw(sent)
        got = await client.receive_raw()
        assert isinstance(got, str)
        assert got.startswith(answer)
        body = json.loads(got[len(answer) - 1 :])
        assert list(body) == ["sid"]
        assert len(body["sid"]) >= 16
        assert body["sid"] != client.handshake["sid"]
        if auth is not None:
            assert await client.receive_raw() == auth


@pytest.mark.parametrize("namespace", ["/random", "/room-1x", "/é", "/" + "n" * 200])
async def test_connect_when_there_is_no_such_namespace_then_refused_and_the_transport_stays(
    plain: ServerProcess, namespace: str
) -> None:
    async with open_sio(plain.port) as client:
        await client.send_raw(f"40{namespace}")
        assert await client.receive_raw() == f'44{namespace},{{"message":"Invalid namespace"}}'
        await client.connect()
        assert await client.call("echo", 1) == [1]


async def test_connect_when_msgpack_and_no_such_namespace_then_refused(plain: ServerProcess) -> None:
    async with open_sio(plain.port, packed=True) as client:
        assert await client.refused(namespace="/x,y") == {"message": "Invalid namespace"}


@both
async def test_connect_when_the_application_refuses_then_with_its_data(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        expected = {"message": "unauthorized", "data": {"code": 401}}
        assert await client.refused({"refused": {"code": 401}}) == expected
        assert await client.refused({"refused": ""}) == {"message": "unauthorized"}
        await client.connect()
        assert await client.call("echo", 1) == [1]


@both
async def test_connect_when_on_connect_refuses_then_let_in_and_put_out(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect({"unwelcome": True})
        assert await client.event("forced_disconnect") == [{"reason": "not you"}]
        assert await client.receive() == (DISCONNECT, "/", None, None)
        await client.connect(namespace="/chat")


async def test_connect_when_none_comes_then_closed(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        assert await client.closed() == 4014
    async with open_sio(plain.port) as client:  # refused is not in
        await client.send_raw("40/random")
        assert await client.closed() == 4014


async def test_connect_when_to_too_many_namespaces_then_refused(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        for namespace in ("/", "/chat", "/quiet"):
            await client.connect(namespace=namespace)
        refused = await client.refused(namespace="/room-1")
        assert refused["data"] == {"code": "too_large"}
        await client.send(DISCONNECT, "/quiet", None)
        await client.connect(namespace="/room-1")


async def test_connect_when_a_pattern_covers_too_many_then_they_do_not_exist(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as first, open_sio(plain.port) as second:
        await first.connect(namespace="/room-1")
        await second.connect(namespace="/room-1")
        assert await second.refused(namespace="/room-2") == {"message": "Invalid namespace"}
        await second.send(DISCONNECT, "/room-1", None)
        await first.send(DISCONNECT, "/room-1", None)
        await first.connect()
        assert await first.call("echo", 1) == [1]  # what it sent before has been served
        await second.connect()
        assert await second.call("echo", 1) == [1]
        await second.connect(namespace="/room-2")


async def test_connect_when_the_namespace_wants_another_parser_then_refused(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        refused = await client.refused(namespace="/packed")
        assert refused == {"message": "this namespace speaks msgpack", "data": {"code": "bad_request"}}
    async with open_sio(plain.port, packed=True) as client:
        await client.connect(namespace="/packed")
        assert await client.call("echo", b"x", namespace="/packed") == [b"x"]


# -- events and acknowledgements


@both
@pytest.mark.parametrize("event", ["echo", "echo.async", "echo.thread"])
async def test_event_when_acknowledged_then_with_what_was_returned(
    plain: ServerProcess, packed: bool, event: str
) -> None:
    values: list[Any] = [
        1,
        -(2**40),
        2.5,
        "é\x00\u2028",
        None,
        True,
        {"a": [{}], "$b": {"$bytes": "x"}},
        b"",
        b"\x00\xff",
    ]
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        assert await client.call(event) == []
        assert await client.call(event, 1) == [1]
        assert await client.call(event, [1, 2]) == [[1, 2]]
        assert await client.call(event, *values[:-2]) == values[:-2]
        assert await client.call(event, {"deep": [values[-1]]}, values[-2]) == [{"deep": [values[-1]]}, b""]


@both
async def test_event_when_the_handler_returns_none_then_acknowledged_without_arguments(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        await client.send(EVENT, "/", 7, ["silent"])
        assert await client.call("nothing") == []  # and not the one before


@both
async def test_event_when_many_then_served_in_order(plain: ServerProcess, packed: bool) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        for number in range(200):
            await client.emit("echo-event", number, b"x" if number % 7 == 0 else "y")
        for number in range(200):
            assert await client.event("echo-event-back") == [number, b"x" if number % 7 == 0 else "y"]


async def test_event_when_in_text_then_compact_and_as_javascript_has_it(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        await client.send_raw('42456["echo",1,"2", {"3":[false], "":"\\ud800"}]')
        assert await client.receive_raw() == '43456[1,"2",{"3":[false],"":"\ufffd"}]'
        await client.send_raw(
            '452-789["echo",{"_placeholder":true,"num":1},{"num":0,"_placeholder":true}]', b"a", b"b"
        )
        assert (
            await client.receive_raw()
            == '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
        )
        assert [await client.receive_raw(), await client.receive_raw()] == [b"b", b"a"]
        await client.send_raw('450-["echo-event"]')
        assert await client.receive_raw() == '42["echo-event-back"]'


async def test_event_when_javascript_packed_it_then_read_as_it_meant(plain: ServerProcess) -> None:
    async with open_sio(plain.port, packed=True) as client:
        await client.connect()
        date = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
        items = [
            b"\xd4\x00\x00",  # undefined
            b"\xd7\x00" + int(date.timestamp() * 1000).to_bytes(8, "big"),
            b"\xc7\x01\x00a",  # a Uint8Array of one byte
            b"\xcb\x7f\xf8" + b"\x00" * 6,  # NaN
        ]
        data = bytes([0x90 | (len(items) + 1)]) + msgpack.packb("echo") + b"".join(items)
        options = b"\xa7options\x81\xa8compress\xc3"
        await client.send_raw(b"\x85\xa4type\x02\xa4data" + data + options + b"\xa2id\x09\xa3nsp\xa1/")
        answer = await client.receive_raw()
        assert isinstance(answer, bytes)
        fields = msgpack.unpackb(answer)
        assert fields["id"] == 9
        nothing, sent_date, array, number = fields["data"]
        assert (nothing, array, math.isnan(number)) == (None, b"a", True)
        assert sent_date == msgpack.ExtType(0, items[1][2:])


@both
async def test_event_when_it_cannot_be_served_then_acknowledged_with_an_error(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        (unknown,) = await client.call("unknown", 1)
        assert unknown["error"]["code"] == "unknown_event"
        assert (await client.call("one", 1, 2))[0]["error"]["code"] == "bad_request"
        assert await client.call("fails", "request") == [{"error": {"code": "conflict", "message": "no"}}]
        for how in ("mistake", "value"):
            (answer,) = await client.call("fails", how)
            assert answer["error"]["code"] == "internal"
            assert answer["error"]["id"]
        await client.emit("fails", "request")
        assert await client.event("error") == [{"code": "conflict", "message": "no", "event": "fails"}]
        await client.emit("message", {"text": "messaging is off"})
        assert (await client.event("error"))[0]["code"] == "unknown_event"


# -- questions to clients


@both
async def test_question_when_answered_then_the_handler_gets_it(plain: ServerProcess, packed: bool) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        for number, answer in enumerate(([], ["one"], [b"x", 2])):
            await client.send(EVENT, "/", 50 + number, ["ask-me", "?"])
            kind, _, ref, data = await client.receive()
            assert (kind, data) == (EVENT, ["question", "?"])
            await client.send(3, "/", 12345, ["nobody asked"])
            await client.send(3, "/", ref, answer)
            await client.send(3, "/", ref, ["twice"])
            kind, _, ref, data = await client.receive()
            assert (kind, ref) == (3, 50 + number)
            assert data == (answer or [])


async def test_question_when_not_answered_then_it_times_out(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        assert await client.call("ask-briefly") == ["timed out"]


# -- DISCONNECT


@both
async def test_disconnect_when_the_client_leaves_then_nothing_but_pings(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        await client.connect(namespace="/chat")
        await client.send(DISCONNECT, "/", None)
        assert await client.call("echo", 1, namespace="/chat") == [1]
        await client.send(DISCONNECT, "/chat", None)
        while client.pings < 3:  # longer than the time to connect
            assert await asyncio.wait_for(client.socket.recv(), 5) == "2"
            await client.socket.send("3")
            client.pings += 1
        await client.connect()
        assert await client.call("gone", "") != []


@both
async def test_disconnect_when_the_server_ends_a_namespace_then_the_others_stay(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect()
        await client.connect(namespace="/chat")
        before = (await client.call("gone", ""))[0].count("server disconnect")
        await client.emit("kick", namespace="/chat")
        await client.emit("echo", 1, b"x", namespace="/chat")  # it does not know yet
        await client.send(DISCONNECT, "/chat", None)
        assert await client.receive() == (DISCONNECT, "/chat", None, None)
        await client.emit("echo", b"x", namespace="/chat")
        assert await client.call("echo", 1) == [1]
        assert (await client.call("gone", ""))[0].count("server disconnect") == before + 1
        await client.connect(namespace="/chat")
        assert await client.call("echo", 2, namespace="/chat") == [2]


@both
async def test_connect_when_it_crosses_our_disconnect_then_let_in_again(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect(namespace="/chat")
        for _ in range(5):
            await client.emit("kick", namespace="/chat")
            await client.send(DISCONNECT, "/chat", None)
            await client.send(CONNECT, "/chat", None)
            assert await client.receive() == (DISCONNECT, "/chat", None, None)
            assert (await client.receive())[:2] == (CONNECT, "/chat")
            assert await client.call("echo", 2, namespace="/chat") == [2]


async def test_close_when_the_code_is_none_that_is_final_then_the_transport_ends(
    plain: ServerProcess,
) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        await client.connect(namespace="/chat")
        await client.emit("kick", 4010, namespace="/chat")
        assert await client.closed() == 4010


# -- what clients in order do not send


@pytest.mark.parametrize(
    "sent",
    [
        ["4abc"],
        ["4"],
        ["47"],
        ["42{}"],
        ["42"],
        ["42[]"],
        ["42[1]"],
        ['42abc["echo"]'],
        ['42["connect"]'],
        ['42["disconnecting",1]'],
        ['42["echo"]x'],
        ['42["echo",1e999]'],
        ["42" + "[" * 100 + "]" * 100],
        ['42["echo",' + "[" * 30_000],
        ['429007199254740992["echo"]'],
        ['42/chat,["echo"]'],  # a namespace that it is not in
        ["41/chat"],
        ["43[1]"],
        ["40"],  # twice
        ['44{"message":"x"}'],
        ["41{}"],
        ['45["echo"]'],
        ['4x-["echo"]'],
        ['454-["echo"]'],  # more than may be
        ['4599999999999999-["echo"]'],
        ['451-["echo",{"_placeholder":true,"num":1}]'],
        ['451-["echo",{"_placeholder":true,"num":-1}]'],
        ['451-["echo",{"_placeholder":true,"num":"0"}]'],
        ['451-["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]'],
        ['451-["echo",{"_placeholder":true,"num":0}]', '42["echo"]'],
        ['451-["echo",{"_placeholder":true,"num":0}]', b"x" * 1000],
        [b"x"],
        [b"\x82\xa4type\x02\xa4data\x91\xa4echo"],
    ],
    ids=lambda sent: str(sent)[:40],
)
async def test_packet_when_no_client_in_order_sends_it_then_the_transport_ends_alone(
    plain: ServerProcess, sent: list[str | bytes]
) -> None:
    async with open_sio(plain.port) as other, open_sio(plain.port) as client:
        await other.connect()
        await client.connect()
        await client.send_raw(*sent)
        assert await client.closed() == 1002
        assert await other.call("echo", 1) == [1]


@pytest.mark.parametrize(
    "sent",
    [
        "40",
        b"",
        b"\x80",
        b"\x81\xa4type\x02",
        b"\x82\xa4type\x05\xa4data\x91\xa4echo",  # no binary types there
        b"\x82\xa4type\x02\xa4data\x91\x01",
        b"\x82\xa4type\x02\xa4data\x91\xc7\x01\x05a",
        b"\x83\xa4type\x02\xa4data\x91\xa4echo\xa2id\xff",
        b"\x83\xa4type\x02\xa4data\x91\xa4echo\xa3nsp\x01",
        b"\xdf\xff\xff\xff\xff",
        b"\x82\xa4type\x02\xa4data\x92\xa4echo" + b"\x91" * 5_000 + b"\xc0",
    ],
    ids=lambda sent: str(sent)[:40],
)
async def test_map_when_no_client_in_order_sends_it_then_the_transport_ends(
    plain: ServerProcess, sent: str | bytes
) -> None:
    async with open_sio(plain.port, packed=True) as client:
        await client.connect()
        await client.send_raw(sent)
        assert await client.closed() == 1002


@pytest.mark.parametrize("sent", ['42["echo"]', "41", "430[]", b"x", '451-["echo"]'])
async def test_packet_when_before_connect_then_the_transport_ends(plain: ServerProcess, sent: Any) -> None:
    async with open_sio(plain.port) as client:
        await client.send_raw(sent)
        assert await client.closed() == 1002


async def test_attachments_when_they_do_not_come_then_the_transport_ends(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        await client.send_raw(
            '452-["echo",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"one"
        )
        assert await client.closed() == 1002


async def test_attachments_when_they_come_in_time_then_no_timer_is_left(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        assert await client.call("echo", b"one") == [b"one"]
        client.pings = 0
        while client.pings < 2:
            assert await client.call("echo", 1) == [1]


async def test_transport_when_it_is_lost_then_each_namespace_hears_of_it(
    plain: ServerProcess, tmp_path: Path
) -> None:
    async with open_sio(plain.port) as client:
        await client.connect()
        before = await client.call("gone", "")
        async with open_sio(plain.port) as other:
            await other.connect()
            await other.connect(namespace="/chat")
        while len((now := await client.call("gone", ""))[0]) < len(before[0]) + 2:
            pass
        assert now[0][-2:] == ["client disconnect"] * 2 or "transport close" in now[0][-2:]


@both
@pytest.mark.parametrize("token", ["123", 5, "", None, {"own": 1}])
async def test_connect_when_nothing_needs_a_token_then_it_is_the_applications_own(
    plain: ServerProcess, packed: bool, token: Any
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect({"token": token, "greet": 1})
        assert await client.event("auth") == [{"greet": 1}]
        assert await client.call("who") == [""]
        await client.connect({"token": plain.token("ann")}, namespace="/chat")
        assert await client.call("who", namespace="/chat") == ["ann"]


@both
@pytest.mark.parametrize("sent", ["event", "connect", "disconnect"])
async def test_connect_when_it_is_not_decided_then_nothing_else_is_served(
    plain: ServerProcess, packed: bool, sent: str
) -> None:
    key = f"{sent}-{packed}"
    async with open_sio(plain.port, packed=packed) as client, open_sio(plain.port) as other:
        await other.connect()
        await client.send(CONNECT, "/", None, {"wait": key})
        if sent == "disconnect":
            await client.send(DISCONNECT, "/", None)
            await client.connect(namespace="/chat")
            await other.emit("release", key)
            assert await client.call("echo", 1, namespace="/chat") == [1]
            return
        await client.send(
            EVENT if sent == "event" else CONNECT, "/", None, ["echo"] if sent == "event" else None
        )
        assert await client.closed() == 1002
        await other.emit("release", key)
        assert await other.call("echo", 1) == [1]


async def test_connect_when_deciding_takes_long_then_the_time_to_connect_waits_for_it(
    plain: ServerProcess,
) -> None:
    async with open_sio(plain.port) as client, open_sio(plain.port) as other:
        await other.connect()
        await client.send(CONNECT, "/", None, {"wait": "long"})
        while client.pings < 3:
            assert await asyncio.wait_for(client.socket.recv(), 5) == "2"
            await client.socket.send("3")
            client.pings += 1
        await other.emit("release", "long")
        assert (await client.receive())[0] == CONNECT
        assert await client.call("echo", 1) == [1]


@both
async def test_events_when_on_connect_is_not_over_then_they_wait_for_it(
    plain: ServerProcess, packed: bool
) -> None:
    async with open_sio(plain.port, packed=packed) as client:
        await client.send(CONNECT, "/chat", None, {"slow": True, "greet": True})
        assert (await client.receive())[:2] == (CONNECT, "/chat")
        for number in range(3):
            await client.send(EVENT, "/chat", number, ["echo", number])
        assert await client.event("auth", "/chat")
        assert [await client.receive() for _ in range(3)] == [(ACK, "/chat", n, [n]) for n in range(3)]


@both
async def test_on_connect_when_a_handler_puts_the_client_out_then_it_is_the_last(
    plain: ServerProcess, packed: bool
) -> None:
    user = f"out-{packed}"
    async with open_sio(plain.port, packed=packed) as client:
        await client.connect({"token": plain.token(user), "out": True}, namespace="/doors")
        assert (await client.receive())[:2] == (DISCONNECT, "/doors")
        await client.connect()
        assert await client.call("doors", user) == [["first", "last"]]
        await client.connect({"token": plain.token(user)}, namespace="/doors")
        while (await client.call("doors", user))[0][-1] != "async":
            pass
        await client.send(DISCONNECT, "/doors", None)
        assert await client.call("doors", user) == [["first", "last", "first", "async", "last"]]


async def test_handler_when_it_is_slow_then_others_are_served_meanwhile(plain: ServerProcess) -> None:
    async with open_sio(plain.port) as client, open_sio(plain.port) as other:
        await client.connect()
        await other.connect()
        for number in range(100):
            await client.send(EVENT, "/", number, ["hold", "gate"])
        assert await other.call("echo", 1) == [1]
        await other.emit("release", "gate")
        answers = [await client.receive() for _ in range(100)]
        assert sorted(answers) == [(ACK, "/", number, ["gate"]) for number in range(100)]
