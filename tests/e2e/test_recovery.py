"""Connection state recovery over real connections: everything, once, in order; or a new connection."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import OWN_MISTAKES
from tests.e2e.serving import ServerProcess, Start, open_client, rest
from tests.support.recovering import RecoveringClient
from tests.support.sio import DISCONNECT

APPLICATION = "tests.e2e.recovery_application:app"
SETTINGS = {
    "FASTIM_SOCKETIO__RECOVERY_S": "60",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_AUTH__REQUIRED": "false",
}
both = pytest.mark.parametrize("packed", [False, True], ids=["text", "msgpack"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One server for the tests that leave no trace."""
    made = ServerProcess(tmp_path_factory.mktemp("recovery") / "data", (APPLICATION,), dict(SETTINGS))
    yield made
    assert made.stop() == 0
    for sign in (*OWN_MISTAKES, "Traceback"):
        assert sign not in made.log(), made.log()


def new_user(name: str) -> str:
    return f"{name}-{uuid.uuid4().hex[:8]}"


def client_of(server: ServerProcess, user: str = "", **options: Any) -> RecoveringClient:
    """A client of a user; of nobody by default."""
    return RecoveringClient(server.port, {"token": server.token(user)} if user else {}, **options)


@both
async def test_client_when_it_comes_back_then_has_its_sid_rooms_session_and_what_it_missed(
    server: ServerProcess, packed: bool
) -> None:
    async with client_of(server, packed=packed) as ann, client_of(server) as bob:
        assert await ann.next("welcome") == [{"recovered": False, "auth": []}]
        room = uuid.uuid4().hex
        await ann.call("join", room)
        await ann.call("keep", "cart", [1, {"2": 3}])
        await bob.call("send", [room], 0)
        assert await ann.take(1) == [0]
        await ann.cut()
        sid = ann.sid
        await bob.call("send", [room], 1, "of several", b"\x00bytes")
        await bob.call("send", [sid], 2)
        await bob.call("send", None, 3)
        await bob.call("send", [uuid.uuid4().hex], "another room")
        await bob.call("send", [room, sid, uuid.uuid4().hex], 4)
        await bob.call("send-volatile", [room], "volatile")
        assert await ann.connect()
        assert (await ann.next())[:3] == [1, "of several", b"\x00bytes"]
        assert await ann.take(3) == [2, 3, 4]
        assert await ann.next("welcome") == [{"recovered": True, "auth": []}]
        state = await ann.call("state")
        assert state == {
            "sid": sid,
            "recovered": True,
            "rooms": [room],
            "session": {"cart": [1, {"2": 3}]},
            "asked": state["asked"],
        }
        await bob.call("send", [room, sid], 5)
        assert await ann.take(1) == [5]
        await ann.nothing_else()


async def test_client_when_no_event_was_sent_before_then_is_recovered_all_the_same(
    server: ServerProcess,
) -> None:
    async with client_of(server) as bob, client_of(server, namespace="/chat") as ann:
        ann.offset = None
        await ann.cut()
        async with client_of(server, namespace="/chat") as cat:
            await cat.call("send", None, "missed")
        assert await ann.connect()
        assert await ann.take(1) == ["missed"]
        await bob.call("send", None, "another namespace")
        await ann.nothing_else()


@both
async def test_replay_when_cut_off_in_the_middle_then_goes_on_exactly_there(
    server: ServerProcess, packed: bool
) -> None:
    async with client_of(server, packed=packed) as ann, client_of(server) as bob:
        room = uuid.uuid4().hex
        await ann.call("join", room)
        await ann.cut()
        for n in range(20):
            await bob.call("send", [room], n)
        seen: list[int] = []
        for _ in range(4):
            assert await ann.connect()
            seen += await ann.take(4)
            ann.got.clear()  # what comes behind is lost with the connection
            await ann.cut()
        await bob.call("send", [room], 20)
        assert await ann.connect()
        seen += await ann.take(5)
        assert seen == list(range(21))
        await ann.nothing_else()
        assert ann.offsets == list(dict.fromkeys(ann.offsets))


@pytest.mark.parametrize("how", ["abort", "close frame", "close packet", "drop"])
async def test_end_when_it_was_not_meant_for_good_then_can_be_recovered(
    server: ServerProcess, how: str
) -> None:
    async with client_of(server) as ann, client_of(server) as bob:
        if how == "abort":
            await ann.cut()
        elif how == "close frame":
            await ann.raw.socket.close(1000)
        elif how == "close packet":
            await ann.raw.send_raw("1")
            await ann.raw.closed()
        else:
            await ann.raw.emit("drop")
            await ann.raw.closed()
        await bob.call("send", [ann.sid], "missed")
        assert await ann.connect()
        assert await ann.take(1) == ["missed"]


@pytest.mark.parametrize("how", ["client", "server"])
async def test_end_when_it_was_for_good_then_cannot_be_recovered(server: ServerProcess, how: str) -> None:
    async with client_of(server) as ann:
        sid, pid = ann.sid, ann.pid
        if how == "client":
            await ann.raw.send(DISCONNECT, "/", None)
        else:
            await ann.raw.emit("kick")
            while (await ann.raw.receive())[0] != DISCONNECT:
                pass
        assert not await ann.connect()
        assert (ann.sid == sid, ann.pid == pid) == (False, False)
        assert (await ann.next("welcome"))[0]["recovered"] is False


async def test_end_when_it_is_put_out_while_it_is_gone_then_cannot_be_recovered(
    server: ServerProcess,
) -> None:
    async with client_of(server) as ann, client_of(server) as bob:
        await ann.cut()
        await bob.call("put-out", ann.sid)
        assert not await ann.connect()


async def test_sender_when_others_get_what_it_sends_then_has_missed_nothing(server: ServerProcess) -> None:
    async with client_of(server) as ann, client_of(server) as bob:
        room = uuid.uuid4().hex
        await ann.call("join", room)
        await bob.call("join", room)
        for n in range(5):
            await ann.call("send-others", [room], n)
        assert await bob.take(5) == list(range(5))
        await ann.cut()
        await bob.call("send", [room], 5)
        assert await ann.connect()
        assert await ann.take(1) == [5]
        await ann.nothing_else()


async def test_offset_when_an_event_has_none_then_no_string_is_taken_for_one(server: ServerProcess) -> None:
    async with client_of(server) as ann, client_of(server) as bob:
        await bob.call("send", [ann.sid], 1)
        await ann.take(1)
        offset = ann.offset
        await bob.call("send-volatile", [ann.sid], "a string")
        assert await ann.next() == ["a string", None]
        await bob.call("send-volatile", [ann.sid], {"no": "string"})
        assert await ann.next() == [{"no": "string"}]
        assert ann.offset == offset
        await ann.cut()
        assert await ann.connect()
        await ann.nothing_else()


async def test_session_when_live_elsewhere_then_the_old_connection_is_replaced(server: ServerProcess) -> None:
    async with client_of(server) as ann, client_of(server) as bob:
        room = uuid.uuid4().hex
        await ann.call("join", room)
        await ann.call("keep", "name", "ann")
        old = ann.raw
        ann._stack = ann._stack.pop_all()  # the old transport stays
        again = client_of(server)
        again.sid, again.pid, again.offset = ann.sid, ann.pid, ann.offset
        assert await again.connect()
        while (await old.receive())[0] != DISCONNECT:
            pass
        state = await again.call("state")
        assert (state["rooms"], state["session"]) == ([room], {"name": "ann"})
        await bob.call("send", [room, again.sid], "once")
        assert await again.take(1) == ["once"]
        await again.nothing_else()
        # The end of the old transport takes nothing from the new one.
        await old.socket.close()
        await again.cut()
        await bob.call("send", [room], "missed")
        assert await again.connect()
        assert await again.take(1) == ["missed"]
        assert (await again.call("state"))["session"] == {"name": "ann"}
        await again.raw.socket.close()


async def test_pid_when_it_is_not_good_then_its_bearer_gets_a_new_connection(server: ServerProcess) -> None:
    ann, bob = new_user("ann"), new_user("bob")
    async with client_of(server, ann) as owner:
        await owner.cut()
        pid, offset = owner.pid, owner.offset
        thieves = [
            client_of(server, bob),
            client_of(server),
            client_of(server, ann, namespace="/chat"),
            client_of(server, ann, packed=True),
            client_of(server, ann),
            client_of(server, ann),
        ]
        shown: list[tuple[Any, Any]] = [(pid, offset)] * 4 + [(f"{pid}x", offset), (pid, "no offset")]
        for thief, (stolen, place) in zip(thieves, shown, strict=True):
            thief.pid, thief.offset = stolen, place
            assert not await thief.connect()
            assert thief.sid != owner.sid
            await thief.raw.socket.close()
        for nonsense in (7, None, ["x"], {"$bytes": ""}, "x" * 10_000):
            other = client_of(server, bob)
            await other.connect(pid=nonsense, offset=nonsense)
            assert other.pid not in (None, pid)
            await other.raw.socket.close()
        assert await owner.connect()  # none of them has harmed it


async def test_client_when_it_may_not_come_in_then_a_pid_does_not_help(server: ServerProcess) -> None:
    user = new_user("ann")
    async with client_of(server, user) as ann:
        await ann.cut()
        assert "code" in (await ann.refused(token=server.token(user)[:-1]))["data"]
        with rest(server) as api:
            assert api.post("/v1/bans", json={"user": user, "for_s": 60}).status_code == 201
        assert (await ann.refused())["message"]
        with rest(server) as api:
            assert api.delete("/v1/bans", params={"user": user}).status_code == 204
        assert not await ann.connect()  # the ban has ended the session


async def test_middleware_when_recovered_then_is_not_asked_and_the_recovered_are_counted(
    server: ServerProcess,
) -> None:
    user = new_user("ann")
    async with client_of(server, user) as ann:
        assert (await ann.call("state"))["asked"] == 1
        await ann.cut()
        assert await ann.connect(refused=True)
        assert (await ann.call("state"))["asked"] == 1
    with rest(server) as api:
        figures = api.get("/metrics").text
    assert "fastim_recovery_recovered_total" in figures
    assert "fastim_recovery_refused_user_total" in figures


@pytest.mark.parametrize("user", ["", "ann"], ids=["anonymous", "user"])
async def test_session_when_the_middleware_put_it_down_then_is_kept(server: ServerProcess, user: str) -> None:
    user = user and new_user(user)
    async with client_of(server, user) as ann, client_of(server) as bob:
        ann.pid = None
        await ann.cut()
        await ann.connect(note="first")
        assert (await ann.call("state"))["session"] == {"note": "first"}
        for _ in range(2):  # the second time nobody has looked at it since it was back
            await ann.cut()
            while (kept := await bob.call("left-with", ann.sid)) is None:
                pass
            assert kept == {"note": "first"}
            assert await ann.connect(note="not asked")
        assert (await ann.call("state"))["session"] == {"note": "first"}


async def test_session_when_not_recovered_while_it_lives_then_is_not_shared(server: ServerProcess) -> None:
    async with client_of(server) as ann, client_of(server) as again, client_of(server) as bob:
        room = uuid.uuid4().hex
        await ann.call("join", room)
        await bob.call("send", room, 1)
        await ann.call("leave", room)  # who has not got the event cannot be told what is missing
        await ann.call("keep", "whose", "ann's")
        again.pid, again.offset = ann.pid, None
        await again.cut()
        assert not await again.connect()
        assert (await again.call("state"))["session"] == {}
        assert (await ann.call("state"))["session"] == {"whose": "ann's"}


async def test_offset_when_there_is_no_pid_then_is_the_applications(server: ServerProcess) -> None:
    async with client_of(server) as ann:
        await ann.next("welcome")
        ann.pid = None
        await ann.cut()
        await ann.connect(offset="its own")
        assert await ann.next("welcome") == [{"recovered": False, "auth": ["offset"]}]


# -- messages


async def group_of(server: ServerProcess, *users: str) -> str:
    with rest(server) as api:
        made = api.post("/v1/conversations", json={"kind": "group", "members": users, "title": "t"})
        assert made.status_code in (200, 201), made.text
        return str(made.json()["conversation"])


def post(server: ServerProcess, conversation: str, *contents: Any) -> None:
    with rest(server) as api:
        for content in contents:
            made = api.post(
                f"/v1/conversations/{conversation}/messages", json={"content": content, "kind": "own"}
            )
            assert made.status_code in (200, 201), made.text


async def contents(client: RecoveringClient, count: int) -> list[Any]:
    return [body["content"] for body in await client.take(count, "new_message")]


@both
async def test_messages_when_missed_then_come_among_the_events_in_their_order(
    server: ServerProcess, packed: bool
) -> None:
    user = new_user("ann")
    groups = [await group_of(server, user) for _ in range(2)]
    async with client_of(server, user, packed=packed) as ann, client_of(server) as bob:
        post(server, groups[0], "got")
        assert await contents(ann, 1) == ["got"]
        assert ann.offset is not None
        await ann.call("message", {"conversation": groups[1], "content": "own"})
        await ann.cut()
        post(server, groups[0], {"$bytes": "AP8="})
        await bob.call("send", [ann.sid], 1)
        post(server, groups[1], "b", "c")
        await bob.call("send", [ann.sid], 2)
        await bob.call("send-users", [user], 3)
        post(server, groups[0], "d")
        assert await ann.connect()
        ann.got.clear()
        found = []
        while len(found) < 7:
            event = await ann._next()
            if event[0] in ("event", "new_message"):
                found.append(event[1]["content"] if event[0] == "new_message" else event[1])
        assert found == [b"\x00\xff", 1, "b", "c", 2, 3, "d"]
        post(server, groups[1], "live")
        assert await contents(ann, 1) == ["live"]
        await ann.nothing_else("new_message")


async def test_conversations_when_they_change_meanwhile_then_it_is_told(server: ServerProcess) -> None:
    ann, bob = new_user("ann"), new_user("bob")
    first, second = await group_of(server, ann, bob), await group_of(server, ann, bob)
    async with client_of(server, ann) as phone:
        await phone.cut()
        third = await group_of(server, ann)
        post(server, third, "in the new one")
        with rest(server) as api:
            added = api.post(f"/v1/conversations/{first}/members", json={"members": [new_user("cat")]})
            removed = api.delete(f"/v1/conversations/{second}/members/{ann}")
        assert (added.status_code, removed.status_code) == (200, 200), added.text
        post(server, second, "not ann's")
        assert await phone.connect()
        told = [await phone.next("conversation") for _ in range(3)]
        assert [(body["change"], body["conversation"]["conversation"]) for (body,) in told] == [
            ("added", third),
            ("changed", first),
            ("removed", second),
        ]
        assert await contents(phone, 1) == ["in the new one"]
        await phone.cut()
        assert await phone.connect()
        await phone.nothing_else("conversation")
        await phone.nothing_else("new_message")


async def test_states_when_sent_then_have_no_offset(server: ServerProcess) -> None:
    ann, bob = new_user("ann"), new_user("bob")
    group = await group_of(server, ann, bob)
    async with client_of(server, ann) as phone, open_client(server, bob) as native:
        await phone.next("welcome")
        offset = phone.offset
        assert offset is not None
        await native.send("typing", {"conversation": group, "typing": True})
        await phone.next("state_batch")
        assert phone.offset == offset
        assert (await native.request("message", {"conversation": group, "content": "x"}))[0] == "ok"
        await phone.next("new_message")
        assert phone.offset != offset


async def test_messages_when_there_are_too_many_then_it_is_a_new_connection(start: Start) -> None:
    server = start(
        APPLICATION,
        **SETTINGS,
        FASTIM_SOCKETIO__RECOVERY_MESSAGES="5",
        FASTIM_SOCKETIO__RECOVERY_ROOM_BYTES="4000",
    )
    user = new_user("ann")
    group = await group_of(server, user)
    async with client_of(server, user) as ann, client_of(server) as bob:
        sid = ann.sid
        await ann.cut()
        post(server, group, *range(5))
        assert await ann.connect()
        assert await contents(ann, 5) == list(range(5))
        await ann.cut()
        post(server, group, *range(6))
        assert not await ann.connect()
        assert ann.sid != sid
        await ann.nothing_else("new_message")
        assert (await ann.call("state"))["recovered"] is False
        await ann.cut()
        for n in range(20):
            await bob.call("send", None, n)
        assert not await ann.connect()
        # Nor does what was left of the old one keep the new one from being recovered.
        await ann.cut()
        assert await ann.connect()


async def test_middleware_when_the_setting_says_so_then_is_asked_again(start: Start) -> None:
    server = start(APPLICATION, **SETTINGS, FASTIM_SOCKETIO__RECOVERY_SKIPS_MIDDLEWARE="false")
    async with client_of(server, new_user("ann")) as ann:
        await ann.cut()
        assert await ann.connect()
        assert (await ann.call("state"))["asked"] == 2
        await ann.cut()
        assert (await ann.refused(refused=True))["message"] == "refused"
        assert await ann.connect()


async def test_setting_when_it_is_0_then_there_is_no_pid_and_no_offset(start: Start) -> None:
    server = start(APPLICATION, **{**SETTINGS, "FASTIM_SOCKETIO__RECOVERY_S": "0"})
    async with client_of(server) as ann:
        assert ann.pid is None
        await ann.raw.emit("reply", 1, "a string")
        assert await ann.raw.event("event") == [1, "a string"]
        await ann.connect(pid="x", offset="y")
        assert (await ann.next("welcome"))[0] == {"recovered": False, "auth": ["offset", "pid"]}


# -- after a restart


def again(start: Start, before: ServerProcess, *arguments: str, **settings: str) -> ServerProcess:
    """Start the next process on the same data and port."""
    return start(*arguments, **{**SETTINGS, **settings}, PORT=str(before.port))


async def test_restart_when_killed_then_messages_come_from_the_store(start: Start) -> None:
    server = start(**SETTINGS)
    user, other = new_user("ann"), new_user("bob")
    group = await group_of(server, user, other)
    async with client_of(server, user) as ann, client_of(server, other) as bob:
        post(server, group, "got")
        await contents(ann, 1)
        await ann.call("message", {"conversation": group, "content": "own"})
        await ann.cut()
        post(server, group, "missed 1")
        server.kill()
        server = again(start, server)
        post(server, group, "missed 2")
        for _ in range(2):
            assert await ann.connect()
            assert await contents(ann, 1) == ["missed 1"]
            ann.offset = ann.offsets[-1] if not ann.got else ann.offset
            await ann.cut()
            break
        assert await ann.connect()
        found = await contents(ann, 1)
        assert found == ["missed 2"]
        post(server, group, "live")
        assert await contents(ann, 1) == ["live"]
        # One that got no event before has what came since it connected.
        assert await bob.connect()
        assert await contents(bob, 5) == ["got", "own", "missed 1", "missed 2", "live"]


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_restart_when_a_conversation_has_changed_meanwhile_then_it_is_a_new_connection(
    start: Start, how: str
) -> None:
    server = start(**SETTINGS)
    user = new_user("ann")
    group = await group_of(server, user)
    async with client_of(server, user) as ann:
        await ann.cut()
        with rest(server) as api:
            added = api.post(f"/v1/conversations/{group}/members", json={"members": [new_user("bob")]})
            assert added.status_code == 200, added.text
        getattr(server, how)()
        server = again(start, server)
        assert not await ann.connect()
        await ann.cut()
        getattr(server, how)()
        server = again(start, server)
        assert await ann.connect()


async def test_restart_when_killed_and_an_application_has_a_part_then_it_is_a_new_connection(
    start: Start,
) -> None:
    server = start(APPLICATION, **SETTINGS)
    async with client_of(server, new_user("ann")) as ann:
        await ann.cut()
        server.kill()
        server = again(start, server, APPLICATION)
        assert not await ann.connect()
        server.kill()
        # What the process before did counts, whatever this one is.
        server = again(start, server)
        assert not await ann.connect()


async def test_restart_when_killed_and_an_application_sends_by_itself_then_it_is_a_new_connection(
    start: Start,
) -> None:
    """It has no handlers; that it sends is noted with its first event."""
    server = start("tests.e2e.emitting_application:app", **SETTINGS)
    async with client_of(server, new_user("ann")) as ann:
        assert await ann.next() == ["tick"]
        await ann.cut()
        server.kill()
        server = again(start, server)
        assert not await ann.connect()


async def test_restart_when_killed_and_the_next_sends_by_itself_then_it_is_a_new_connection(
    start: Start,
) -> None:
    server = start(**SETTINGS)
    async with client_of(server, new_user("ann")) as ann, client_of(server, new_user("bob")) as bob:
        await ann.cut()
        server.kill()
        server = again(start, server, "tests.e2e.emitting_application:app")
        # Another one has got an event of it, so there is one.
        bob.pid = None
        await bob.connect()
        assert await bob.next() == ["tick"]
        assert not await ann.connect()


@both
async def test_restart_when_it_was_in_order_then_everything_is_there(start: Start, packed: bool) -> None:
    server = start(APPLICATION, **SETTINGS, FASTIM_DRAIN__WITHIN_S="0.2")
    user = new_user("ann")
    group = await group_of(server, user)
    async with (
        client_of(server, user, packed=packed) as ann,
        client_of(server) as bob,
        client_of(server) as cat,
    ):
        room = uuid.uuid4().hex
        for client in (ann, bob):
            await client.call("join", room)
            await client.call("keep", "name", ["value"])
        await cat.call("keep-object")
        await bob.call("send", [room], 0)
        await ann.take(1)
        await ann.cut()
        await bob.call("send", [room], 1, b"bytes")
        post(server, group, "missed 1")
        await bob.call("send", [ann.sid], 2)
        assert server.stop(signal.SIGTERM) == 0
        server = again(start, server, APPLICATION)
        post(server, group, "missed 2")
        for client in (bob, ann):
            assert await client.connect()
            state = await client.call("state")
            assert (state["rooms"], state["session"]) == ([room], {"name": ["value"]})
        assert await ann.take(2) == [1, 2]
        assert await contents(ann, 2) == ["missed 1", "missed 2"]
        await bob.call("send", [room], 3)
        assert await ann.take(1) == [3]
        assert not await cat.connect()  # what it kept cannot be kept on
        # It counts once: behind the next end that is not in order there is nothing of it.
        server.kill()
        server = again(start, server, APPLICATION)
        assert not await bob.connect()


async def test_server_when_it_has_the_same_secret_and_another_store_then_knows_nothing(
    start: Start, tmp_path: Path
) -> None:
    first = start(**SETTINGS)
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "other" / "secret").write_bytes((tmp_path / "data" / "secret").read_bytes())
    (tmp_path / "other" / "secret").chmod(0o600)
    second = start(data="other", **SETTINGS)
    user = new_user("ann")
    async with client_of(first, user) as ann:
        await ann.cut()
        ann.port = second.port
        assert not await ann.connect()
        # An offset of the first does not count at the second.
        ann.offset = f"{'0' * 12}-5-5-5"
        await ann.cut()
        assert await ann.connect()


async def test_clients_when_many_come_back_at_once_then_nothing_is_read_for_them(
    server: ServerProcess,
) -> None:
    user = new_user("ann")
    group = await group_of(server, user)
    clients = [client_of(server, user) for _ in range(20)]
    await asyncio.gather(*(client.connect() for client in clients))
    await asyncio.gather(*(client.cut() for client in clients))
    post(server, group, *range(10))
    before = reads(server)
    recovered = await asyncio.gather(*(client.connect() for client in clients))
    assert all(recovered)
    assert reads(server) == before
    for client in clients:
        assert await contents(client, 10) == list(range(10))
        await client.raw.socket.close()


def reads(server: ServerProcess) -> int:
    with rest(server) as api:
        lines = api.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[1])) for line in lines if line.startswith("fastim_store_reads_total "))
