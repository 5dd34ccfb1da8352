"""Packets, refs, batches and hello, byte by byte as the protocol says."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from websockets.asyncio.client import connect

from tests.e2e.serving import Client, ServerProcess, open_client


async def ask(client: Client, message: str | bytes) -> list[Any]:
    await client.socket.send(message)
    return await client.receive()


@pytest.mark.parametrize("ref", ["1", "9007199254740991"])
async def test_ref_when_in_its_bounds_then_echoed(shared: ServerProcess, ref: str) -> None:
    async with open_client(shared, "refs") as client:
        event, _, echoed = await ask(client, f'["ping",{{}},{ref}]')
        assert (event, echoed) == ("ok", int(ref))


@pytest.mark.parametrize("ref", ["0", "-1", "1.0", '"1"', "null", "true", "9007199254740992", "[]"])
async def test_ref_when_it_is_none_then_bad_packet_names_the_event(shared: ServerProcess, ref: str) -> None:
    async with open_client(shared, "refs") as client:
        event, body = await ask(client, f'["ping",{{}},{ref}]')
        assert (event, body["code"], body["event"]) == ("error", "bad_packet", "ping")
        assert body["message"].startswith("ref: ")


async def test_packet_when_without_ref_then_only_errors_are_answered(shared: ServerProcess) -> None:
    async with open_client(shared, "silent") as client:
        for event in ("ping", "presence", "nothing"):
            await client.send(event, {"status": "online"})
        packet = await client.receive()
        assert packet[0] == "error"
        assert (packet[1]["code"], packet[1]["event"]) == ("unknown_event", "nothing")
        assert (await client.request("ping", {}))[0] == "ok"


async def test_batch_when_a_packet_in_it_is_bad_then_the_others_are_served(shared: ServerProcess) -> None:
    async with open_client(shared, "batches") as client:
        await client.socket.send('[["ping",{},1],5,["ping"],[],[["ping",{},2]],["ping",{},3]]')
        packets = [await client.receive() for _ in range(6)]
        assert sorted(packet[2] for packet in packets if packet[0] == "ok") == [1, 3]
        assert {packet[1]["code"] for packet in packets if packet[0] == "error"} == {"bad_packet"}


async def test_events_when_coded_in_msgpack_then_names_serve_as_well(shared: ServerProcess) -> None:
    async with open_client(shared, binary=True) as client:
        for event in (10, "hello"):
            packet = [event, {"token": shared.token("codes")} if event == 10 else {}, 1]
            await client.socket.send(msgpack.packb(packet))
            code, body, ref = msgpack.unpackb(await client.socket.recv())
            assert (code, ref) == ((11, 1) if event == 10 else (12, 1)), body
        for event in (30, "ping"):
            await client.socket.send(msgpack.packb([event, {}, 2]))
            assert msgpack.unpackb(await client.socket.recv())[0] == 11


async def test_hello_when_said_again_then_bad_request_and_nothing_changes(shared: ServerProcess) -> None:
    async with open_client(shared, "twice") as client:
        event, body = await client.request("hello", {"token": shared.token("other")})
        assert (event, body["code"]) == ("error", "bad_request")
        event, answer = await client.request("conversation_create", {"kind": "group", "members": []})
        event, page = await client.request("members", {"conversation": answer["conversation"]})
        assert [item["user"] for item in page["members"]] == ["twice"]


async def test_hello_when_refused_then_may_be_said_again(shared: ServerProcess) -> None:
    async with open_client(shared) as client:
        for body in (
            {},
            {"token": "rubbish"},
            {"token": 5},
            {"token": shared.token("again"), "device": ""},
            {"token": shared.token("again"), "resume": {"session": "x", "seen": {"c": -1}}},
            {
                "token": shared.token("again"),
                "resume": {"session": "x", "seen": dict.fromkeys(map(str, range(1001)), 1)},
            },
        ):
            event, _ = await client.request("hello", body)
            assert event == "error"
        assert (await client.request("hello", {"token": shared.token("again")}))[0] == "ok"


async def test_device_when_claimed_then_it_comes_before_the_one_that_hello_names(
    shared: ServerProcess,
) -> None:
    claimed = {"token": shared.token("claims", device="claimed"), "device": "named"}
    async with open_client(shared, "claims", hello=claimed) as client:
        assert client.ok["device"] == "claimed"
    async with open_client(shared, "claims") as client:
        assert client.ok["device"]


async def test_token_when_in_the_head_and_in_hello_then_hello_decides(shared: ServerProcess) -> None:
    head = {"Authorization": f"Bearer {shared.token('head')}"}
    async with open_client(shared, "body", additional_headers=head) as client:
        assert client.ok["user"] == "body"


async def test_choice_when_it_is_none_then_the_answer_names_the_choices(shared: ServerProcess) -> None:
    async with open_client(shared, "choices") as client:
        event, body = await client.request("presence", {"status": "offline"})
        assert (event, body["code"]) == ("error", "bad_request")
        assert body["message"] == "status: expected 'online' or 'away' or 'busy', got 'offline'"


async def test_subprotocol_when_none_is_offered_then_json(shared: ServerProcess) -> None:
    async with connect(shared.ws, proxy=None) as socket:
        await socket.send(json.dumps(["hello", {"token": shared.token("plain")}, 1]))
        assert json.loads(await socket.recv())[0] == "ok"
