"""Two people talk, over each encoding, with and without compression."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.e2e.serving import ServerProcess, open_client, rest

numbers = itertools.count()


def new_names() -> tuple[str, str, str]:
    number = next(numbers)
    return f"c-{number}", f"alice-{number}", f"bob-{number}"


async def create(client: Any, conversation: str, *members: str) -> None:
    body = {"kind": "group", "members": list(members), "conversation": conversation}
    event, answer = await client.request("conversation_create", body)
    assert event == "ok", answer


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
async def test_message_when_sent_then_acknowledged_and_delivered(
    shared: ServerProcess, binary: bool, compression: str | None
) -> None:
    conversation, alice, bob = new_names()
    text = "hello " * 200
    async with (
        open_client(shared, alice, binary=binary, compression=compression) as one,
        open_client(shared, bob, binary=not binary, compression=compression) as two,
    ):
        await create(one, conversation, bob)
        body = {"conversation": conversation, "content": text, "client_id": "1"}
        event, answer = await one.request("message", body)
        assert event == "ok"
        assert answer["seq"] == 1
        assert answer["duplicate"] is False
        delivered = await two.receive_event("new_message")
        assert delivered["content"] == text
        assert delivered["sender"] == alice
        assert delivered["id"] == answer["id"]

        event, again = await one.request("message", body)
        assert (event, again["seq"], again["duplicate"]) == ("ok", 1, True)
        event, conflict = await one.request("message", body | {"content": "other"})
        assert (event, conflict["code"]) == ("error", "conflict")

        event, page = await two.request("history", {"conversation": conversation})
        assert event == "ok"
        assert [item["content"] for item in page["messages"]] == [text]


async def test_bytes_when_sent_in_msgpack_then_read_in_json(shared: ServerProcess) -> None:
    conversation, alice, bob = new_names()
    async with open_client(shared, alice, binary=True) as one, open_client(shared, bob) as two:
        await create(one, conversation, bob)
        event, answer = await one.request("binary", {"conversation": conversation, "data": b"\x00\xff"})
        assert event == "ok", answer
        delivered = await two.receive_event("new_message")
        assert delivered["content"]["data"] == {"$bytes": "AP8="}


async def test_hello_when_answered_then_names_what_the_protocol_says(shared: ServerProcess) -> None:
    async with open_client(shared, "carol", hello={"device": "phone"}) as client:
        ok = client.ok
        assert ok["protocol"] == 1
        assert ok["user"] == "carol"
        assert ok["device"] == "phone"
        assert ok["tier"] == "standard"
        assert ok["resumed"] is False
        assert ok["heartbeat_ms"] == 70_000
        assert ok["limits"] == {"max_message_bytes": 102_400, "messages_per_minute": 0}
        assert ok["session"]
        assert ok["node"]
        assert isinstance(ok["features"], list)
        event, again = await client.request("hello", {"token": shared.token("carol")})
        assert (event, again["code"]) == ("error", "bad_request")


async def test_hello_when_batches_were_asked_for_then_they_come(shared: ServerProcess) -> None:
    conversation, alice, bob = new_names()
    async with open_client(shared, alice) as one, open_client(shared, bob, hello={"batch": True}) as two:
        await create(one, conversation, bob)
        for number in range(20):
            await one.send("message", {"conversation": conversation, "content": str(number)}, number + 1)
        received = [(await two.receive_event("new_message"))["seq"] for _ in range(20)]
        assert received == list(range(1, 21))


async def test_client_when_it_resumes_then_gets_what_it_missed(shared: ServerProcess) -> None:
    conversation, alice, bob = new_names()
    async with open_client(shared, alice) as one:
        async with open_client(shared, bob, hello={"device": "d"}) as two:
            await create(one, conversation, bob)
            await one.request("message", {"conversation": conversation, "content": "seen"})
            assert (await two.receive_event("new_message"))["seq"] == 1
            session = two.ok["session"]
        await one.request("message", {"conversation": conversation, "content": "missed"})
        resume = {"session": session, "seen": {conversation: 1}}
        async with open_client(shared, bob, hello={"device": "d", "resume": resume}) as two:
            assert two.ok["resumed"] is True
            assert (await two.receive_event("new_message"))["content"] == "missed"


async def test_message_when_posted_over_rest_then_delivered(shared: ServerProcess) -> None:
    conversation, alice, bob = new_names()
    async with open_client(shared, bob) as two:
        with rest(shared) as client:
            made = client.post(
                "/v1/conversations",
                json={"members": [alice, bob], "conversation": conversation, "title": "t"},
            )
            assert made.status_code == 201, made.text
            body = {"content": "from the system", "client_id": "r-1"}
            posted = client.post(f"/v1/conversations/{conversation}/messages", json=body)
            assert (posted.status_code, posted.json()["seq"]) == (201, 1)
            delivered = await two.receive_event("new_message")
            assert (delivered["content"], delivered["sender"]) == ("from the system", "")
            again = client.post(f"/v1/conversations/{conversation}/messages", json=body)
            assert (again.status_code, again.json()["duplicate"]) == (200, True)


async def test_stranger_when_sending_then_forbidden(shared: ServerProcess) -> None:
    conversation, alice, bob = new_names()
    async with open_client(shared, alice) as one, open_client(shared, "mallory") as stranger:
        await create(one, conversation, bob)
        for event, body in [
            ("message", {"content": "x"}),
            ("history", {}),
            ("typing", {"typing": True}),
            ("read_receipt", {"seq": 1}),
            ("members", {}),
        ]:
            answer = await stranger.request(event, body | {"conversation": conversation})
            assert (answer[0], answer[1]["code"]) == ("error", "forbidden"), event
            unknown = await stranger.request(event, body | {"conversation": "there is none"})
            assert unknown == answer, "what does not exist must look like what is not one's own"
