"""Applications: handlers of each kind, topics, questions to clients, and what their mistakes harm."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.serving import ServerProcess, open_client, wait_until


@pytest.mark.parametrize("event", ["echo", "echo.async", "echo.thread"])
@pytest.mark.parametrize("binary", [False, True], ids=["json", "msgpack"])
async def test_handler_when_it_returns_then_its_value_answers(
    shared: ServerProcess, event: str, binary: bool
) -> None:
    async with open_client(shared, "u", binary=binary) as client:
        for value in ({"a": [1, None, "x"]}, None, 0, "", []):
            assert await client.request(event, value) == ["ok", value]
        await client.send(event, "no ref, no answer")
        assert (await client.request("echo", "next"))[1] == "next"


async def test_context_when_read_then_tells_who_it_is(shared: ServerProcess) -> None:
    async with open_client(shared, "whoever", hello={"device": "tablet"}) as client:
        assert await client.request("who", None) == [
            "ok",
            {
                "user": "whoever",
                "device": "tablet",
                "session": client.ok["session"],
                "state": {"connected": True, "ready": True},
            },
        ]


async def test_event_when_sent_as_its_code_then_served(shared: ServerProcess) -> None:
    async with open_client(shared, "coded", binary=True) as client:
        await client.send(300, None, 7)
        event, body, ref = await client.receive()
        assert (event, body["user"], ref) == ("ok", "coded", 7)


@pytest.mark.parametrize("event", ["fail", "fail.async", "fail.thread"])
async def test_handler_when_it_raises_then_internal_with_an_id_from_the_log(
    shared: ServerProcess, event: str
) -> None:
    async with open_client(shared, "u") as client:
        answer, error = await client.request(event, "secret payload")
        assert (answer, error["code"]) == ("error", "internal")
        assert "LookupError" not in error["message"]
        wait_until(lambda: error["id"] in shared.log(), "the id is logged")
        assert re.search(rf"error {error['id']} while serving '{event}'\nTraceback", shared.log())
        await client.send(event, None)
        while True:  # a packet without ref gets its error by the event's name
            packet = await client.receive()
            if len(packet) == 2:
                assert (packet[1]["code"], packet[1]["event"]) == ("internal", event)
                break
        assert await client.request("echo", 1) == ["ok", 1]


async def test_handler_when_it_refuses_or_answers_rubbish_then_an_error(shared: ServerProcess) -> None:
    async with open_client(shared, "u") as client:
        assert await client.request("refuse", None) == ["error", {"code": "conflict", "message": "no"}]
        answer, error = await client.request("unencodable", None)
        assert (answer, error["code"]) == ("error", "internal")


async def test_thread_when_it_uses_the_context_then_it_is_done_on_the_loop(shared: ServerProcess) -> None:
    async with open_client(shared, "u") as client:
        await client.send("echo.thread", "x", 1)
        packets = [await client.receive() for _ in range(3)]
        assert packets[0][0] == "from.thread"
        assert packets[0][1].startswith("fastim-handler")
        assert sorted(packet[0] for packet in packets) == ["from.thread", "ok", "to.threads"]


async def test_broadcast_when_joined_then_received_in_both_encodings(shared: ServerProcess) -> None:
    async with (
        open_client(shared, "a") as one,
        open_client(shared, "b", binary=True, compression="deflate") as two,
        open_client(shared, "c") as three,
    ):
        for client in (one, two):
            await client.request("join", "topic-1")
            await client.request("join", "topic-1")
        await one.send("publish", {"topic": "topic-1", "value": "x" * 500})
        assert await one.receive() == ["published", "x" * 500]
        assert await two.receive() == ["published", "x" * 500]
        await one.send("publish", {"topic": "topic-1", "value": 2, "self": False})
        assert await two.receive() == ["published", 2]
        await two.request("leave", "topic-1")
        await one.send("publish", {"topic": "topic-1", "value": 3})
        assert await one.receive() == ["published", 3]
        assert await two.request("echo", "nothing before") == ["ok", "nothing before"]
        assert await three.request("echo", "nothing before") == ["ok", "nothing before"]


async def test_question_when_asked_then_the_answer_comes_back(shared: ServerProcess) -> None:
    for binary in (False, True):
        for event in ("ask", "ask.thread"):
            async with open_client(shared, "u", binary=binary) as client:
                await client.send(event, "how many?", 1)
                name, body, ref = await client.receive()
                assert (name, body) == ("question", "how many?")
                await client.send("ok", "an answer to nothing", 999)
                await client.send("ok", {"n": 3}, ref)
                assert await client.receive() == ["ok", {"n": 3}, 1]
                await client.send(event, "and now?", 2)
                _, _, ref = await client.receive()
                await client.send("error", {"code": "forbidden", "message": "I will not say"}, ref)
                assert await client.receive() == [
                    "error",
                    {"code": "forbidden", "message": "I will not say"},
                    2,
                ]


async def test_question_when_not_answered_then_times_out(shared: ServerProcess) -> None:
    async with open_client(shared, "u") as client:
        await client.send("ask.briefly", None, 1)
        assert (await client.receive())[0] == "question"
        assert await client.receive() == ["ok", "no answer", 1]


async def test_handlers_when_they_wait_then_others_are_served_and_too_many_are_refused(
    shared: ServerProcess,
) -> None:
    async with open_client(shared, "u") as client:
        for number in range(1, 66):
            await client.send("hold", "gate", number)
        event, error, ref = await client.receive()
        assert (event, error["code"], ref) == ("error", "rate_limited", 65)
        assert error["retry_after_ms"] > 0
        assert await client.request("echo", "meanwhile") == ["ok", "meanwhile"]
        await client.send("release", "gate")
        answers = sorted([(await client.receive())[2] for _ in range(64)])
        assert answers == list(range(1, 65))


async def test_packets_when_started_then_in_the_order_they_came(shared: ServerProcess) -> None:
    async with open_client(shared, "late") as client:
        batch = [["echo.async", 1, 1], ["join", "order", 2], ["echo.async", 3, 3], ["echo", 4, 4]]
        await client.socket.send(json.dumps(batch))
        refs = {(await client.receive())[2] for _ in range(4)}
        assert refs == {1, 2, 3, 4}


async def test_connection_when_refused_by_the_application_then_closed_with_4001(
    shared: ServerProcess,
) -> None:
    async with open_client(shared, "unwelcome") as client:
        assert await client.receive() == ["forced_disconnect", {"reason": "not you"}]
        assert (await client.closed())[0] == 4001


async def test_connection_when_closed_by_the_application_then_after_what_was_sent(
    shared: ServerProcess,
) -> None:
    async with open_client(shared, "leaver") as client:
        await client.send("bye", "farewell", 1)
        assert await client.receive() == ["last", "farewell"]
        assert await client.closed() == (4005, "removed")


async def test_on_disconnect_when_gone_then_called_once(shared: ServerProcess) -> None:
    async with open_client(shared, "going"):
        pass
    async with open_client(shared, "watching") as client:
        while True:
            _, gone = await client.request("gone", None)
            if "going" in gone:
                break
        assert gone.count("going") == 1


async def test_connection_when_gone_while_a_handler_waits_then_nothing_breaks(shared: ServerProcess) -> None:
    async with open_client(shared, "u") as client:
        await client.send("hold", "abandoned", 1)
        await client.send("ask", "never answered", 2)
        await client.send("sleep", 0.1, 3)
        assert (await client.receive())[0] == "question"
    async with open_client(shared, "u") as client:
        await client.request("release", "abandoned")
        assert await client.request("echo", 1) == ["ok", 1]
