"""The messaging events over Socket.IO: phones of either parser and native clients in one conversation."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest
from tests.support.sio import CONNECT, DISCONNECT, EVENT, SioClient, open_sio, open_user

APPLICATION = "tests.e2e.socketio_application:app"
both = pytest.mark.parametrize("packed", [False, True], ids=["text", "msgpack"])
CONTENTS: list[Any] = [
    "text é\u2028",
    b"\x00\xffbytes",
    {"$price": 1, "nested": [{"data": b"x"}, None, -1, 2.5], "$$": ""},
    [[[]]],
]


def new_user(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


@contextlib.asynccontextmanager
async def conversation(
    server: ServerProcess, packed: bool
) -> AsyncIterator[tuple[str, SioClient, SioClient, Client]]:
    """A group of a phone, a tablet of the other parser, and a native client: (id, phone, tablet, native)."""
    ann, bob, cid = new_user("ann"), new_user("bob"), new_user("cid")
    async with (
        open_user(server, ann, packed=packed) as phone,
        open_user(server, bob, packed=not packed) as tablet,
        open_client(server, cid, binary=packed) as native,
    ):
        (made,) = await phone.call("conversation_create", {"kind": "group", "members": [bob, cid]})
        assert (await tablet.event("conversation"))[0]["change"] == "added"
        await native.receive_event("conversation")
        yield made["conversation"], phone, tablet, native


@both
async def test_message_when_acknowledged_then_durable_and_delivered_on_each_protocol(
    shared: ServerProcess, packed: bool
) -> None:
    async with conversation(shared, packed) as (group, phone, tablet, native):
        for seq, content in enumerate(CONTENTS, 1):
            body = {"conversation": group, "content": content, "client_id": f"c{seq}"}
            (ok,) = await phone.call("message", body)
            assert (ok["seq"], ok["conversation"], ok["duplicate"]) == (seq, group, False)
            (again,) = await phone.call("message", body)
            assert again == ok | {"duplicate": True}
            (got,) = await tablet.event("new_message")
            assert (got["content"], got["seq"], got["id"]) == (content, seq, ok["id"])
            if native.binary:
                assert (await native.receive_event("new_message"))["content"] == content
            else:
                assert (await native.receive_event("new_message"))["seq"] == seq
        event, ok = await native.request(
            "message", {"conversation": group, "content": {"$$a": 1}, "kind": "x"}
        )
        assert event == "ok", ok
        expected = {"$$a" if native.binary else "$a": 1}
        assert (await phone.event("new_message"))[0]["content"] == expected
        assert (await tablet.event("new_message"))[0]["content"] == expected
        (page,) = await tablet.call("history", {"conversation": group, "after": 0})
        assert [message["content"] for message in page["messages"]] == [*CONTENTS, expected]


@both
async def test_message_when_no_acknowledgement_is_wanted_then_message_sent(
    shared: ServerProcess, packed: bool
) -> None:
    async with conversation(shared, packed) as (group, phone, tablet, _):
        await phone.emit("message", {"conversation": group, "content": "hi", "client_id": "a"})
        (sent,) = await phone.event("message_sent")
        assert (sent["seq"], sent["client_id"], sent["conversation"]) == (1, "a", group)
        await phone.emit("binary", {"conversation": group, "data": b"\x00data", "name": "x.bin"})
        assert (await phone.event("message_sent"))[0]["seq"] == 2
        assert (await tablet.event("new_message"))[0]["content"] == "hi"
        (got,) = await tablet.event("new_message")
        assert (got["kind"], got["content"]) == ("binary", {"data": b"\x00data", "name": "x.bin"})
        await phone.emit("message", {"conversation": "elsewhere", "content": "hi"})
        (error,) = await phone.event("error")
        assert (error["code"], error["event"]) == ("forbidden", "message")


@both
async def test_message_when_it_is_refused_then_the_acknowledgement_says_why(
    shared: ServerProcess, packed: bool
) -> None:
    async with conversation(shared, packed) as (group, phone, _, _):
        deep: Any = []
        for _ in range(64):
            deep = [deep]
        for body, code in [
            ({"conversation": "elsewhere", "content": "x"}, "forbidden"),
            ({"conversation": group}, "bad_request"),
            ({"conversation": group, "content": deep}, "bad_request"),
            ("text", "bad_request"),
            ({"conversation": group, "content": 1, "kind": "text"}, "bad_request"),
        ]:
            (answer,) = await phone.call("message", body)
            assert answer["error"]["code"] == code, answer
            assert answer["error"]["message"]
        (answer,) = await phone.call("message", {"conversation": group, "content": "x"}, "more")
        assert answer["error"]["code"] == "bad_request"
        (answer,) = await phone.call("message")
        assert answer["error"]["code"] == "bad_request"
        if packed:
            (answer,) = await phone.call("message", {"conversation": group, "content": float("nan")})
            assert answer["error"]["code"] == "bad_request"
        await phone.emit("typing", {"conversation": group})
        assert (await phone.event("error"))[0]["event"] == "typing"


@both
async def test_messages_when_many_at_once_then_answered_and_delivered_in_order(
    shared: ServerProcess, packed: bool
) -> None:
    async with conversation(shared, packed) as (group, phone, tablet, _):
        for number in range(100):
            await phone.send(EVENT, "/", number, ["message", {"conversation": group, "content": number}])
        answers = [packet for packet in [await phone.receive() for _ in range(100)] if packet[0] == 3]
        assert [(packet[2], packet[3][0]["seq"]) for packet in answers] == [(n, n + 1) for n in range(100)]
        got = [(await tablet.event("new_message"))[0]["content"] for _ in range(100)]
        assert got == list(range(100))


@both
async def test_states_when_they_change_then_told(shared: ServerProcess, packed: bool) -> None:
    async with conversation(shared, packed) as (group, phone, tablet, _):
        user = phone.hello["user"]
        await phone.emit("typing", {"conversation": group, "typing": True})
        (batch,) = await tablet.event("state_batch")
        assert batch["updates"][0]["user"] == user
        (found,) = await tablet.call("presence_subscribe", {"users": [user]})
        assert found["users"][0]["status"] == "online"
        assert await phone.call("presence", {"status": "busy"}) == [{}]
        while (await tablet.event("state_batch"))[0]["updates"][0].get("status") != "busy":
            pass
        await phone.call("message", {"conversation": group, "content": "x"})
        assert await tablet.call("read_receipt", {"conversation": group, "seq": 1}) == [{}]
        (receipt,) = await phone.event("receipt")
        assert receipt["receipts"][0]["user"] == tablet.hello["user"]
        await tablet.emit("ack", {"conversation": group, "seq": 1})
        (members,) = await phone.call("members", {"conversation": group})
        assert len(members["members"]) == 3
        (listed,) = await phone.call("conversations", {})
        assert listed["conversations"][0]["conversation"] == group
        assert (await phone.call("conversations"))[0] == listed
        assert list((await phone.call("ping"))[0]) == ["time"]
        (changed,) = await phone.call("conversation_update", {"conversation": group, "title": "new"})
        assert changed["title"] == "new"


@both
async def test_refresh_when_the_token_is_good_then_its_end(shared: ServerProcess, packed: bool) -> None:
    user = new_user("ann")
    async with open_user(shared, user, packed=packed) as client:
        end = int(time.time()) + 5000
        (ok,) = await client.call("refresh", {"token": shared.token(user, ttl_s=5000)})
        assert ok["exp"] == end
        (answer,) = await client.call("refresh", {"token": shared.token("other")})
        assert answer["error"]["code"] == "unauthorized"
        assert await client.call("echo", 1) == [1]


@both
async def test_hello_when_it_is_sent_then_it_is_no_event(shared: ServerProcess, packed: bool) -> None:
    async with open_user(shared, new_user("ann"), packed=packed) as client:
        assert (
            client.hello["heartbeat_ms"] == client.handshake["pingInterval"] + client.handshake["pingTimeout"]
        )
        for event in ("hello", "ok"):
            (answer,) = await client.call(event, {})
            assert answer["error"]["code"] == "unknown_event"


# -- coming in


@both
@pytest.mark.parametrize(
    ("auth", "code"),
    [
        (None, "unauthorized"),
        ({}, "unauthorized"),
        ({"token": ""}, "unauthorized"),
        ({"token": "x"}, "unauthorized"),
        ({"token": 5}, "bad_request"),
        ({"token": "x" * 9000}, "bad_request"),
    ],
)
async def test_connect_when_the_token_is_not_good_then_refused_and_may_try_again(
    shared: ServerProcess, packed: bool, auth: dict[str, Any] | None, code: str
) -> None:
    async with open_sio(shared.port, packed=packed) as client:
        refused = await client.refused(auth)
        assert refused["data"]["code"] == code
        assert refused["message"]
        assert "sid" in await client.connect({"token": shared.token(new_user("ann"))})


async def test_connect_when_auth_has_what_does_not_fit_then_that_is_ignored(shared: ServerProcess) -> None:
    wrong = {"device": 7, "acks": "yes", "resume": {"session": 1}, "batch": True, "own": [1]}
    async with open_user(shared, new_user("ann"), **wrong) as client:
        assert client.hello["resumed"] is False
        assert client.hello["device"]
        assert await client.call("echo", 1) == [1]


async def test_connect_when_the_token_is_in_the_head_then_it_counts(shared: ServerProcess) -> None:
    headers = {"Authorization": f"Bearer {shared.token('ann')}"}
    async with open_sio(shared.port, additional_headers=headers) as client:
        assert "sid" in await client.connect()
        assert (await client.event("hello"))[0]["user"] == "ann"


@both
async def test_connect_when_it_resumes_then_what_was_missed_comes(
    shared: ServerProcess, packed: bool
) -> None:
    async with conversation(shared, packed) as (group, phone, tablet, _):
        user, session = tablet.hello["user"], tablet.hello["session"]
        await tablet.socket.close()
        for number in range(3):
            await phone.call("message", {"conversation": group, "content": number})
        resume = {"session": session, "seen": {group: 1}}
        auth = {"resume": resume, "device": tablet.hello["device"]}
        async with open_user(shared, user, packed=packed, **auth) as again:
            assert again.hello["resumed"] is True
            assert again.hello["session"] == session
            got = [(await again.event("new_message"))[0] for _ in range(2)]
            assert [(message["seq"], message["content"]) for message in got] == [(2, 1), (3, 2)]


async def test_connect_when_acks_are_wanted_then_sent_again(start: Start) -> None:
    server = start(FASTIM_MESSAGING__ACK_TIMEOUT_S="0.1")
    async with open_user(server, "ann", acks=True) as ann, open_user(server, "bob") as bob:
        (made,) = await bob.call("conversation_create", {"kind": "direct", "members": ["ann"]})
        await bob.call("message", {"conversation": made["conversation"], "content": "x"})
        first, second = [(await ann.event("new_message"))[0] for _ in range(2)]
        assert first == second


# -- going


async def test_login_when_the_policy_is_one_then_the_older_is_told_and_put_out(start: Start) -> None:
    server = start(FASTIM_SESSION__POLICY="user")
    async with open_user(server, "ann") as old:
        async with open_user(server, "ann") as new:
            kind, _, _, data = await old.receive()
            assert (kind, data[0]) == (EVENT, "forced_disconnect")
            assert (await old.receive())[0] == DISCONNECT
            assert await new.call("ping")
        refused = await old.refused({"token": "x"})  # the transport is still there
        assert refused["data"]["code"] == "unauthorized"


async def test_token_when_it_ends_then_the_transport_ends(start: Start) -> None:
    server = start(FASTIM_AUTH__LEEWAY_S="0")
    async with open_sio(server.port) as client:
        await client.connect({"token": server.token("ann", ttl_s=2)})
        assert await client.event("token_expiring")
        assert await client.closed() == 4002


async def test_ban_when_it_is_made_then_put_out_and_not_let_in(start: Start) -> None:
    server = start()
    async with open_user(server, "ann") as client:
        with rest(server) as http:
            assert http.post("/v1/bans", json={"user": "ann", "reason": "x"}).status_code < 300
        assert (await client.event("forced_disconnect"))[0]["reason"]
        assert (await client.receive())[0] == DISCONNECT
        refused = await client.refused({"token": server.token("ann")})
        assert refused["data"]["code"] == "forbidden" or refused["data"]["code"] == "unauthorized"


async def test_server_when_it_is_full_then_the_transport_ends_so_that_clients_come_back(start: Start) -> None:
    server = start(FASTIM_LIMITS__MAX_CONNECTIONS="1")
    async with open_user(server, "ann"), open_sio(server.port) as client:
        await client.send(CONNECT, "/", None, {"token": server.token("bob")})
        assert await client.closed() == 4013


async def test_server_when_it_stops_then_told_and_closed(start: Start) -> None:
    server = start()
    async with open_user(server, "ann") as client:
        stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
        assert (await client.event("server_shutdown"))[0]["reconnect"] is True
        assert await client.closed() in (1001, 4012)
        assert await stopping == 0


async def test_tokens_when_they_are_bad_then_they_count_against_the_address(start: Start) -> None:
    server = start()
    async with open_sio(server.port) as client:
        for _ in range(3):
            assert (await client.refused({"token": "bad"}))["data"]["code"] == "unauthorized"
    figures = metrics(server)
    assert figures["fastim_admission_offences_total"] == 3
    assert figures["fastim_socketio_refused_total"] == 3


# -- beside each other


async def test_namespaces_when_the_policy_is_one_login_then_those_of_a_client_are_one(start: Start) -> None:
    server = start(APPLICATION, FASTIM_SESSION__POLICY="user")
    async with open_user(server, "ann") as old:
        await old.connect({"token": server.token("ann")}, namespace="/chat")
        assert await old.call("echo", 1) == [1]
        assert await old.call("who", namespace="/chat") == ["ann"]
        async with open_user(server, "ann") as new:
            packets = [await old.receive() for _ in range(5)]  # the hello of /chat first
            ends = [packet for packet in packets if packet[0] == DISCONNECT]
            assert sorted(packet[1] for packet in ends) == ["/", "/chat"]
            assert await new.call("who") == ["ann"]


@both
async def test_namespace_when_it_has_no_messaging_then_no_hello_and_no_built_in_events(
    start: Start, packed: bool
) -> None:
    server = start(APPLICATION)
    async with open_sio(server.port, packed=packed) as client:
        assert (await client.refused(namespace="/quiet"))["data"]["code"] == "unauthorized"
        await client.connect({"token": server.token("ann")}, namespace="/quiet")
        assert await client.call("echo", 1, namespace="/quiet") == [1]
        (answer,) = await client.call("message", {}, namespace="/quiet")
        assert answer["error"]["code"] == "unknown_event"


@both
async def test_handler_when_it_replaces_a_built_in_event_then_it_is_served_instead(
    start: Start, packed: bool
) -> None:
    server = start(APPLICATION)
    async with open_sio(server.port, packed=packed) as client:
        await client.connect({"token": server.token("ann")}, namespace="/own")
        assert await client.call("typing", 1, 2, namespace="/own") == [["own", 1, 2]]
        await client.emit("message", "hi", namespace="/own")
        assert await client.event("got", "/own") == ["hi"]
        assert await client.call("message", "hi", namespace="/own") == []
        assert list((await client.call("ping", namespace="/own"))[0]) == ["time"]


@both
async def test_connect_when_nobody_has_to_be_known_then_anonymous_without_messaging(
    start: Start, packed: bool
) -> None:
    server = start(APPLICATION, FASTIM_AUTH__REQUIRED="false")
    async with open_sio(server.port, packed=packed) as client:
        assert (await client.refused({"token": "bad"}))["data"]["code"] == "unauthorized"
        await client.connect()
        assert await client.call("who") == [""]
        for event in ("message", "history", "typing"):
            (answer,) = await client.call(event, {})
            assert answer["error"]["code"] == "unauthorized"
        await client.emit("message", {})
        assert (await client.event("error"))[0]["event"] == "message"
    async with open_user(server, "ann", packed=packed) as known:
        assert await known.call("who") == ["ann"]


async def test_packets_when_they_are_malformed_then_they_speak_against_the_client(start: Start) -> None:
    server = start(APPLICATION, FASTIM_BANS__AUTOMATIC="false")
    async with open_sio(server.port) as stranger:
        await stranger.send_raw("4x")
        await stranger.closed()
    async with open_user(server, "ann") as client:
        await client.send_raw("4x")
        await client.closed()
    async with open_user(server, "bob") as client:
        await client.connect({"token": server.token("bob")}, namespace="/chat")
        await client.send_raw("4x")  # counts once, not once a namespace
        await client.closed()
    async with open_sio(server.port) as client:
        await client.send(CONNECT, "/", None, {"token": server.token("cid"), "wait": "for ever"})
        await client.send_raw("4x")
        await client.closed()
    figures = metrics(server)
    assert figures["fastim_admission_offences_total"] == 2
    assert figures["fastim_admission_violations_total"] == 2
    assert figures["fastim_socketio_malformed_total"] == 4
    assert figures["fastim_socketio_sockets"] == 0


def metrics(server: ServerProcess) -> dict[str, float]:
    with rest(server) as http:
        lines = http.get("/metrics").text.splitlines()
    found = (line.split(" ") for line in lines if line.startswith("fastim_"))
    return {name: float(value) for name, value in found}
