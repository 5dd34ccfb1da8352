"""The client against a peer that speaks by script, over real sockets."""

import asyncio
import http
from functools import partial

import pytest

from fastim.client import CallTimeout, ConnectionClosed, ConnectionLost, connect
from fastim.client import link as link_module
from fastim.errors import ErrorCode, LimitExceeded, RequestError
from tests.unit.client.scripted_peer import Talk, message, scripted

connect = partial(connect, token="t", backoff_base_s=0.01, backoff_cap_s=0.05)


async def test_hello_when_connected_then_names_what_was_asked_for():
    async def script(talk: Talk) -> None:
        hello = await talk.welcome()
        assert hello == {"token": "t", "batch": True, "acks": True, "device": "phone"}
        await talk.until_closed()

    async with scripted(script) as url, connect(url, device="phone", acks=True) as client:
        assert client.user == "ann"
        assert client.welcome.limits["max_message_bytes"] == 102_400


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_send_when_answered_then_returns_what_is_durable(encoding):
    async def script(talk: Talk) -> None:
        assert talk.socket.subprotocol == f"fastim.v1.{encoding}"
        await talk.welcome()
        body, ref = await talk.expect("message")
        assert body["content"] == "hi"
        answer = {"id": "m", "conversation": "c", "seq": 7, "time": 5, "client_id": body["client_id"]}
        await talk.send("ok", answer | {"duplicate": False}, ref)
        assert await talk.expect("ack") == ({"conversation": "c", "seq": 7}, None)
        await talk.until_closed()

    async with scripted(script) as url, connect(url, encoding=encoding) as client:
        sent = await client.send("c", "hi")
        assert (sent.id, sent.seq, sent.duplicate) == ("m", 7, False)


async def test_content_with_bytes_and_dollar_keys_when_sent_and_received_then_survives():
    content = {"$key": [b"\x00\xff", 2**64 - 1, None], "plain": {"$bytes": "no bytes"}}

    async def script(talk: Talk) -> None:
        await talk.welcome()
        body, ref = await talk.expect("message")
        assert body["content"]["$$key"][0] == {"$bytes": "AP8="}
        assert body["content"]["plain"] == {"$$bytes": "no bytes"}
        await talk.send("ok", message(1) | {"duplicate": False}, ref)
        await talk.message(2, content=body["content"])
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        await client.send("c", content)
        event = await client.receive(5)
        assert event.body["content"] == content


async def test_send_when_the_connection_breaks_first_then_sends_again_with_the_same_client_id():
    client_ids = []

    async def first(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(3)
        body, _ = await talk.expect("message")
        client_ids.append(body["client_id"])
        talk.cut()

    async def second(talk: Talk) -> None:
        hello = await talk.welcome(resumed=True)
        assert hello["resume"] == {"session": "s1", "seen": {"c": 3}}
        assert hello["device"] == "d1"
        body, ref = await talk.expect("message")
        client_ids.append(body["client_id"])
        await talk.send("ok", message(4) | {"duplicate": True}, ref)
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        assert (await client.receive(5)).body["seq"] == 3
        sent = await client.send("c", "hi")
        assert sent.duplicate
        assert client_ids[0] == client_ids[1]
        assert [(await client.receive(5)).name for _ in range(2)] == [
            "fastim.disconnected",
            "fastim.connected",
        ]


async def test_own_message_when_it_comes_back_in_the_replay_then_is_not_an_event():
    async def first(talk: Talk) -> None:
        await talk.welcome()
        await talk.expect("message")
        talk.cut()

    async def second(talk: Talk) -> None:
        await talk.welcome(resumed=True)
        body, ref = await talk.expect("message")
        await talk.message(1, sender="ann", client_id=body["client_id"])
        await talk.message(2)
        await talk.send("ok", message(1) | {"duplicate": True}, ref)
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        assert (await client.send("c", "hi")).seq == 1
        events = [await client.receive(5) for _ in range(3)]
        assert [event.body["seq"] for event in events if event.name == "new_message"] == [2]


async def test_messages_when_sent_twice_then_arrive_once_and_in_order():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.send_value([["new_message", message(seq)] for seq in (1, 2, 2, 1, 3)])
        await talk.message(3)
        await talk.message(4)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert [(await client.receive(5)).body["seq"] for _ in range(4)] == [1, 2, 3, 4]


async def test_gap_when_named_then_history_fills_it_before_what_comes_live():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(1)
        await talk.send("gap", {"conversation": "c", "have": 1, "last": 5})
        body, ref = await talk.expect("history")
        assert (body["after"], body["conversation"]) == (1, "c")
        await talk.message(6)
        await talk.send("ok", {"messages": [message(2), message(3)], "more": True}, ref)
        body, ref = await talk.expect("history")
        assert body["after"] == 3
        await talk.send("ok", {"messages": [message(4), message(5), message(6)], "more": False}, ref)
        await talk.barrier()
        await talk.message(7)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert [(await client.receive(5)).body["seq"] for _ in range(7)] == [1, 2, 3, 4, 5, 6, 7]


async def test_gap_when_not_to_be_filled_then_is_an_event():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(1)
        await talk.send("gap", {"conversation": "c", "have": 1, "last": 5})
        await talk.message(6)
        await talk.until_closed()

    async with scripted(script) as url, connect(url, fill_gaps=False) as client:
        events = [await client.receive(5) for _ in range(3)]
        assert [event.name for event in events] == ["new_message", "gap", "new_message"]


async def test_a_hole_when_no_gap_named_it_then_is_filled_all_the_same():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(1)
        await talk.message(4)
        _, ref = await talk.expect("history")
        await talk.send("ok", {"messages": [message(2), message(3), message(4)], "more": False}, ref)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert [(await client.receive(5)).body["seq"] for _ in range(4)] == [1, 2, 3, 4]


async def test_history_when_it_lacks_what_is_missing_then_goes_on_behind_it():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(1)
        await talk.send("gap", {"conversation": "c", "have": 1, "last": 5})
        _, ref = await talk.expect("history")
        await talk.message(6)  # while the answer is on its way: must not be lost with what is missing
        await talk.send("ok", {"messages": [], "more": False}, ref)
        body, ref = await talk.expect("history")
        assert body["after"] == 5
        await talk.send("ok", {"messages": [message(6)], "more": False}, ref)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert [(await client.receive(5)).body["seq"] for _ in range(2)] == [1, 6]


async def test_a_slow_application_when_the_queue_is_full_then_loses_nothing_and_may_still_send():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        for seq in range(1, 21):
            await talk.message(seq)
        await talk.send("news", {"n": 1})
        _, sent_ref = await talk.expect("message")
        await talk.send("ok", message(21, sender="ann") | {"duplicate": False}, sent_ref)
        while True:
            body, ref = await talk.expect("history")
            after = body["after"]
            page = [message(seq) for seq in range(after + 1, min(after + 6, 22))]
            await talk.send("ok", {"messages": page, "more": after + 6 < 22}, ref)
            if after + 6 >= 22:
                break
        await talk.until_closed()

    async with scripted(script) as url, connect(url, max_queue=4) as client:
        assert (await client.send("c", "mine")).seq == 21
        assert client.dropped_events == 1
        assert [(await client.receive(5)).body["seq"] for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("code", [4001, 4003, 4004, 4005])
async def test_close_when_final_then_does_not_come_back(code):
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.expect("message")
        await talk.close(code, "so it is")

    async with scripted(script) as url, connect(url) as client:
        with pytest.raises(ConnectionClosed, match="so it is"):
            await client.send("c", "hi")
        assert (await client.receive(5)).name == "fastim.disconnected"
        with pytest.raises(ConnectionClosed) as caught:
            await client.receive(5)
        assert caught.value.code == code
        assert not client.is_online


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009])
async def test_close_when_the_server_could_not_read_then_the_last_packet_is_not_sent_again(code):
    async def first(talk: Talk) -> None:
        await talk.welcome()
        await talk.expect("message")
        await talk.close(code)

    async def second(talk: Talk) -> None:
        await talk.welcome()
        body, ref = await talk.expect("message")
        assert body["content"] == "good"
        await talk.send("ok", message(1) | {"duplicate": False}, ref)
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        with pytest.raises(ConnectionLost) as caught:
            await client.send("c", "bad")
        assert caught.value.code == code
        assert (await client.send("c", "good")).seq == 1


async def test_token_when_expired_then_is_asked_for_again():
    tokens = iter(["old", "new"])

    async def first(talk: Talk) -> None:
        assert (await talk.welcome())["token"] == "old"
        await talk.close(4002)

    async def second(talk: Talk) -> None:
        assert (await talk.welcome())["token"] == "new"
        await talk.until_closed()

    async def fresh() -> str:
        return next(tokens)

    async with scripted(first, second) as url, connect(url, token=fresh) as client:
        assert (await client.receive(5)).name == "fastim.disconnected"
        assert await client.receive(5) == ("fastim.connected", {"resumed": False})


async def test_token_when_expired_and_no_other_is_to_be_had_then_it_is_over():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.close(4002)

    async with scripted(script) as url, connect(url) as client:
        assert (await client.receive(5)).name == "fastim.disconnected"
        with pytest.raises(ConnectionClosed) as caught:
            await client.receive(5)
        assert caught.value.code == 4002


async def test_token_when_about_to_expire_then_is_refreshed():
    tokens = iter(["old", "new"])
    refreshed = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.send("token_expiring", {"exp": 1})
        body, ref = await talk.expect("refresh")
        assert body == {"token": "new"}
        await talk.send("ok", {"exp": 2}, ref)
        refreshed.set()
        await talk.until_closed()

    async with scripted(script) as url, connect(url, token=lambda: next(tokens)) as client:
        assert (await client.receive(5)).name == "token_expiring"
        async with asyncio.timeout(5):
            await refreshed.wait()


async def test_hello_when_refused_then_connect_raises():
    async def script(talk: Talk) -> None:
        _, ref = await talk.expect("hello")
        await talk.send("error", {"code": "unauthorized", "message": "signature"}, ref)
        await talk.close(4001)

    async with scripted(script) as url:
        with pytest.raises(ConnectionClosed, match="signature") as caught:
            await connect(url)
        assert caught.value.code == 4001


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_upgrade_when_refused_for_good_then_connect_raises(status):
    def gate(socket, request):
        return socket.respond(http.HTTPStatus(status), "no")

    async with scripted(gate=gate) as url:
        with pytest.raises(ConnectionClosed, match=str(status)):
            await connect(url)


async def test_upgrade_when_refused_for_now_then_is_tried_again():
    refusals = iter([503, 429])

    def gate(socket, request):
        status = next(refusals, None)
        return None if status is None else socket.respond(http.HTTPStatus(status), "later")

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.until_closed()

    async with scripted(script, gate=gate) as url, connect(url) as client:
        assert client.is_online


async def test_connect_when_nobody_listens_then_raises_in_time(unused_tcp_port):
    with pytest.raises(ConnectionClosed, match="in time"):
        await connect(f"ws://127.0.0.1:{unused_tcp_port}", open_timeout_s=0.1)


async def test_server_shutdown_when_it_says_stay_away_then_does_not_come_back():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.send("server_shutdown", {"reconnect": False, "shutdown_at": 1, "retry_after_ms": 0})
        await talk.close(1001)

    async with scripted(script) as url, connect(url) as client:
        assert (await client.receive(5)).name == "server_shutdown"
        assert (await client.receive(5)).name == "fastim.disconnected"
        with pytest.raises(ConnectionClosed):
            await client.receive(5)


async def test_heartbeat_when_the_server_falls_silent_then_comes_back(monkeypatch):
    monkeypatch.setattr(link_module, "LEAST_PONG_WAIT_S", 0.05)

    async def first(talk: Talk) -> None:
        await talk.welcome(heartbeat_ms=50)
        talk.socket.transport.pause_reading()
        await online_again.wait()
        talk.cut()

    async def second(talk: Talk) -> None:
        await talk.welcome(heartbeat_ms=50_000)
        await talk.until_closed()

    online_again = asyncio.Event()
    async with scripted(first, second) as url, connect(url) as client:
        assert (await client.receive(5)).body["reason"] == "the server does not answer"
        assert (await client.receive(5)).name == "fastim.connected"
        online_again.set()


async def test_heartbeat_when_the_server_only_pongs_then_stays():
    async def script(talk: Talk) -> None:
        await talk.welcome(heartbeat_ms=20)
        pings = 0
        while pings < 3:  # the library answers pings by itself; count what it wrote
            pings = await talk.socket.ping() and pings + 1
        await talk.send("news", {})
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert (await client.receive(5)).name == "news"


async def test_request_of_the_server_when_handled_then_is_answered():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        for event, expected in (
            ("add", ["ok", 3, 1]),
            ("later", ["ok", "x", 1]),
            ("nothing", ["error", {"code": "unknown_event", "message": "no handler for nothing"}, 1]),
            ("broken", ["error", {"code": "internal", "message": "the handler failed"}, 1]),
            ("refuse", ["error", {"code": "forbidden", "message": "no"}, 1]),
        ):
            await talk.send(event, {"a": 1, "b": 2}, 1)
            assert await talk.receive() == expected
        await talk.send("bye", {})
        await talk.until_closed()

    client = connect("ws://127.0.0.1")

    async with scripted(script) as url:
        client = connect(url)
        client.on_request("add")(lambda body: body["a"] + body["b"])

        @client.on_request("later")
        async def later(body):
            return "x"

        @client.on_request("broken")
        def broken(body):
            raise ZeroDivisionError

        @client.on_request("refuse")
        def refuse(body):
            raise RequestError(ErrorCode.FORBIDDEN, "no")

        async with client:
            assert (await client.receive(5)).name == "bye"


async def test_request_when_the_connection_breaks_then_only_what_may_be_repeated_is():
    asked = asyncio.Event()

    async def first(talk: Talk) -> None:
        await talk.welcome()
        assert {(await talk.receive())[0] for _ in range(2)} == {"order.place", "history"}
        talk.cut()

    async def second(talk: Talk) -> None:
        await talk.welcome()
        _, ref = await talk.expect("history")
        await talk.send("ok", {"messages": [], "more": False}, ref)
        asked.set()
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        order = asyncio.create_task(client.request("order.place", {"n": 1}))
        page = await client.history("c")
        assert page == {"messages": [], "more": False}
        with pytest.raises(ConnectionLost):
            await order


async def test_errors_when_answered_then_raise_what_they_are():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        _, ref = await talk.expect("message")
        limited = {"code": "rate_limited", "message": "slow down", "retry_after_ms": 1200}
        await talk.send("error", limited, ref)
        _, ref = await talk.expect("members")
        await talk.send("error", {"code": "brand_new", "message": "?"}, ref)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        with pytest.raises(LimitExceeded) as limited:
            await client.send("c", "hi")
        assert limited.value.retry_after_ms == 1200
        with pytest.raises(RequestError, match="brand_new"):
            await client.members("c")


async def test_send_when_the_store_is_unavailable_then_is_sent_again():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        body, ref = await talk.expect("message")
        await talk.send("error", {"code": "unavailable", "message": "disk full"}, ref)
        again, ref = await talk.expect("message")
        assert again == body
        await talk.send("ok", message(1) | {"duplicate": False}, ref)
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert (await client.send("c", "hi")).seq == 1


async def test_send_when_nobody_answers_then_times_out_and_names_the_client_id():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        body, _ = await talk.expect("message")
        assert body["client_id"] == "mine"
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        with pytest.raises(CallTimeout) as caught:
            await client.send("c", "hi", client_id="mine", timeout_s=0.05)
        assert caught.value.client_id == "mine"


async def test_packet_when_larger_than_the_server_takes_then_is_refused_here():
    async def script(talk: Talk) -> None:
        await talk.welcome(limits={"max_message_bytes": 200})
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        with pytest.raises(RequestError) as caught:
            await client.send("c", "x" * 200)
        assert caught.value.code == ErrorCode.TOO_LARGE


async def test_acks_when_many_are_due_then_one_of_each_conversation_is_sent():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        batch = [["new_message", message(seq, conv)] for seq in range(1, 50) for conv in ("c", "e")]
        await talk.send_value(batch)
        acks = [await talk.receive(), await talk.receive()]
        assert sorted(acks, key=str) == [
            ["ack", {"conversation": "c", "seq": 49}],
            ["ack", {"conversation": "e", "seq": 49}],
        ]
        await talk.send("done", {})
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        for _ in range(98):
            await client.receive(5)
        assert (await client.receive(5)).name == "done"


async def test_close_when_acks_are_due_then_sends_them_and_ends_the_iteration():
    acknowledged = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        await talk.message(1)
        await talk.message(2)
        assert await talk.receive() == ["ack", {"conversation": "c", "seq": 2}]
        acknowledged.set()
        await talk.until_closed()

    async with scripted(script) as url:
        client = await connect(url)
        seqs = []
        async for event in client:
            seqs.append(event.body["seq"])
            if len(seqs) == 2:
                await client.close()
        assert seqs == [1, 2]
        assert acknowledged.is_set()
        with pytest.raises(ConnectionClosed):
            await client.send("c", "late")


async def test_packets_behind_hello_when_in_its_message_then_are_delivered():
    async def script(talk: Talk) -> None:
        _, ref = await talk.expect("hello")
        await talk.send_value([["ok", {"user": "ann", "session": "s"}, ref], ["new_message", message(1)]])
        await talk.until_closed()

    async with scripted(script) as url, connect(url) as client:
        assert (await client.receive(5)).body["seq"] == 1


async def test_garbage_when_the_server_sends_it_then_the_client_starts_over():
    async def first(talk: Talk) -> None:
        await talk.welcome()
        await talk.socket.send("]no json")
        await talk.until_closed()

    async def second(talk: Talk) -> None:
        await talk.welcome()
        await talk.send("new_message", {"lacks": "everything"})
        await talk.send("news", {})
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        names = [(await client.receive(5)).name for _ in range(3)]
        assert names == ["fastim.disconnected", "fastim.connected", "news"]


async def test_emit_when_there_is_no_connection_then_says_so():
    cut = asyncio.Event()

    async def script(talk: Talk) -> None:
        await talk.welcome()
        body, ref = await talk.expect("typing")
        assert (body, ref) == ({"conversation": "c", "typing": True}, None)
        talk.cut()

    async with scripted(script) as url, connect(url, reconnect=False) as client:
        await client.typing("c")
        assert (await client.receive(5)).name == "fastim.disconnected"
        cut.set()
        assert not await client.emit("x", {})


async def test_close_when_waiting_to_come_back_then_ends_at_once():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        talk.cut()

    async with scripted(script) as url:
        client = await connect(url, backoff_base_s=1_000, backoff_cap_s=1_000)
        assert (await client.receive(5)).name == "fastim.disconnected"
        sending = asyncio.create_task(client.send("c", "hi"))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(ConnectionClosed):
            await sending
        with pytest.raises(ConnectionClosed):
            await client.wait_online()
        assert [event async for event in client] == []


async def test_calls_when_too_many_are_in_flight_then_wait_their_turn():
    async def script(talk: Talk) -> None:
        await talk.welcome()
        for _ in range(5):
            first, second = await talk.expect("ping"), await talk.expect("ping")
            await talk.send("news", {})
            for _, ref in (first, second):
                await talk.send("ok", {"time": ref}, ref)
        await talk.until_closed()

    async with scripted(script) as url, connect(url, max_in_flight=2) as client:
        assert len(set(await asyncio.gather(*(client.ping() for _ in range(10))))) == 10


async def test_sends_when_at_once_then_go_out_in_the_order_of_the_calls():
    texts = [f"text {number}" for number in range(200)]

    async def first(talk: Talk) -> None:
        await talk.welcome()
        await talk.expect("message")
        talk.cut()

    async def second(talk: Talk) -> None:
        await talk.welcome(resumed=True)
        for seq, text in enumerate(texts, 1):
            body, ref = await talk.expect("message")
            assert body["content"] == text
            await talk.send("ok", message(seq) | {"duplicate": False}, ref)
        await talk.until_closed()

    async with scripted(first, second) as url, connect(url) as client:
        sent = await asyncio.gather(*(client.send("c", text) for text in texts))
        assert [answer.seq for answer in sent] == list(range(1, 201))


async def test_token_function_when_it_fails_then_is_asked_again():
    answers = iter([OSError("no network"), "t"])

    def token() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def script(talk: Talk) -> None:
        assert (await talk.welcome())["token"] == "t"
        await talk.until_closed()

    async with scripted(script) as url, connect(url, token=token) as client:
        assert client.is_online
