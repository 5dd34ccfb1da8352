"""The client against ``fastim serve``: send, receive, history, read marks, and coming back."""

import asyncio

import pytest

from fastim.client import ConnectionClosed, connect
from fastim.errors import ErrorCode, RequestError
from tests.e2e.serving import ServerProcess

UNLIMITED = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_BANS__AUTOMATIC": "false",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = ServerProcess(tmp_path_factory.mktemp("client") / "data", (), dict(UNLIMITED))
    yield server
    assert server.stop() == 0


async def next_of(client, name):
    """Return the body of the next event of this name."""
    while True:
        event = await client.receive(10)
        if event.name == name:
            return event.body


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_two_users_when_they_talk_then_each_message_arrives_once(server, encoding):
    lobby = f"lobby-{encoding}"
    async with (
        connect(server.http, token=server.token("ann"), encoding=encoding) as ann,
        connect(server.http, token=server.token("bob")) as bob,
    ):
        await ann.create_conversation(["bob"], conversation=lobby)
        content = {"text": "grüße 🌍", "raw": b"\x00\xff", "$key": [1, 2.5, None, True, 2**64 - 1]}
        first = await ann.send(lobby, content)
        again = await ann.send(lobby, content, client_id=first.client_id)
        assert (again.seq, again.id, again.duplicate) == (first.seq, first.id, True)
        received = await next_of(bob, "new_message")
        assert received["content"] == content
        assert (received["sender"], received["seq"], received["id"]) == ("ann", first.seq, first.id)
        answer = await bob.send(lobby, "hi", reply_to=first.seq)
        assert (await next_of(ann, "new_message"))["reply_to"] == first.seq
        page = await ann.history(lobby)
        assert [message["seq"] for message in page["messages"]] == [answer.seq, first.seq]
        await bob.typing(lobby)
        typing = await next_of(ann, "state_batch")
        assert typing["updates"][0]["user"] == "bob"
        await ann.mark_read(lobby, answer.seq)
        assert (await next_of(bob, "receipt"))["receipts"][0]["user"] == "ann"
        assert {member["user"] for member in (await bob.members(lobby))["members"]} == {"ann", "bob"}
        mine = (await ann.conversations())["conversations"]
        assert next(row for row in mine if row["conversation"] == lobby)["unread"] == 0
        assert abs(await ann.ping() - ann.welcome.time) < 60_000


async def test_strangers_when_they_ask_then_are_refused(server):
    async with (
        connect(server.http, token=server.token("ann")) as ann,
        connect(server.http, token=server.token("eve")) as eve,
    ):
        await ann.create_conversation(conversation="private")
        for call in (eve.send("private", "x"), eve.history("private"), eve.members("private")):
            with pytest.raises(RequestError) as caught:
                await call
            assert caught.value.code == ErrorCode.FORBIDDEN


async def test_bad_token_when_shown_then_connect_raises(server):
    with pytest.raises(ConnectionClosed) as caught:
        await connect(server.http, token="no.such.token")
    assert caught.value.code == 4001


async def test_many_sends_when_at_once_then_all_are_stored_in_one_order(server):
    async with (
        connect(server.http, token=server.token("ann")) as ann,
        connect(server.http, token=server.token("bob")) as bob,
    ):
        await ann.create_conversation(["bob"], conversation="busy")
        sent = await asyncio.gather(*(ann.send("busy", f"text {number}") for number in range(1_000)))
        assert sorted(answer.seq for answer in sent) == list(range(1, 1_001))
        assert [(await next_of(bob, "new_message"))["seq"] for _ in range(1_000)] == list(range(1, 1_001))


async def test_application_events_when_the_echo_app_serves_then_are_answered(start):
    server = start("examples.echo_app:app", **UNLIMITED)
    async with (
        connect(server.http, token=server.token("ann")) as ann,
        connect(server.http, token=server.token("bob"), encoding="msgpack") as bob,
    ):
        body = {"text": "x", "list": [1, 2]}
        assert await ann.request("echo", body) == body
        await ann.emit("pub", {"text": "to all"})
        assert await next_of(ann, "msg") == {"text": "to all"}
        assert await next_of(bob, "msg") == {"text": "to all"}


async def test_server_when_killed_and_started_again_then_nothing_is_lost_or_doubled(start):
    server = start(**UNLIMITED)
    tokens = [server.token("ann"), server.token("bob")]
    ann, bob = [connect(server.http, token=token, backoff_base_s=0.05, backoff_cap_s=0.2) for token in tokens]
    async with ann, bob:
        await ann.create_conversation(["bob"], conversation="c")
        before = [await ann.send("c", f"before {number}") for number in range(10)]
        sending = [asyncio.create_task(ann.send("c", f"during {number}")) for number in range(300)]
        await next_of(bob, "new_message")
        server.kill()
        start(PORT=str(server.port), **UNLIMITED)
        during = await asyncio.gather(*sending)
        assert sorted(answer.seq for answer in (*before, *during)) == list(range(1, 311))
        heard = [(await next_of(bob, "new_message"))["seq"] for _ in range(309)]
        assert heard == list(range(2, 311))
        assert (await ann.send("c", "after")).seq == 311


async def test_server_when_it_shuts_down_in_order_then_the_client_comes_back(start):
    server = start(**UNLIMITED)
    async with connect(server.http, token=server.token("ann"), backoff_base_s=0.05, backoff_cap_s=0.2) as ann:
        await ann.create_conversation(conversation="c")
        first = await ann.send("c", "one")
        assert await asyncio.to_thread(server.stop) == 0
        assert (await next_of(ann, "server_shutdown"))["reconnect"] is True
        start(PORT=str(server.port), **UNLIMITED)
        assert (await ann.send("c", "two")).seq == first.seq + 1
