"""More messages than there may be: who waits, who is refused, and who does not notice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx

from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest, wait_until
from tests.support.senders import read_history

OPEN = {
    "FASTIM_LIMITS__MESSAGES_PER_MINUTE": "0",
    "FASTIM_LIMITS__PACKETS_PER_SECOND": "0",
    "FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS": "0",
}
Answers = dict[int, tuple[str, Any]]


def make_room(server: ServerProcess, name: str, *members: str) -> str:
    with rest(server, timeout=60) as http:
        answer = http.post("/v1/conversations", json={"members": members, "conversation": name})
        assert answer.status_code == 201, answer.text
    return name


async def send(client: Client, room: str, numbers: range, **fields: Any) -> None:
    """Send numbered messages, a batch, without waiting; the number is content, ref and client id."""
    packets = [
        ["message", {"conversation": room, "content": str(n), "client_id": f"{n}", **fields}, n]
        for n in numbers
    ]
    await client.socket.send(json.dumps(packets))


async def answers(client: Client, numbers: range) -> Answers:
    """Wait for the answers to these refs; each must have one."""
    found: Answers = {}
    while len(found) < len(numbers):
        event, body, *ref = await client.receive()
        if ref and ref[0] in numbers:
            assert ref[0] not in found, "answered twice"
            found[ref[0]] = (event, body)
    return found


def stored(found: Answers) -> list[int]:
    """The refs that were answered ok, in the order of their seq."""
    oks = sorted((body["seq"], ref) for ref, (event, body) in found.items() if event == "ok")
    return [ref for _, ref in oks]


def codes(found: Answers) -> Counter[str]:
    return Counter(body["code"] if event == "error" else event for event, body in found.values())


def metric(server: ServerProcess, name: str) -> float:
    text = httpx.get(f"{server.http}/metrics", trust_env=False).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))


async def contents(client: Client, room: str) -> list[str]:
    return [message["content"] for message in await read_history(client, room)]


async def test_user_when_it_floods_then_120_a_minute_and_told_the_rest(start: Start) -> None:
    """Not a limiter that sits on connects: a limit of 5 let 500 of 500 messages pass elsewhere."""
    server = start()
    room = make_room(server, "r", "a", "b")
    async with open_client(server, "a") as one, open_client(server, "b") as two:
        assert one.ok["limits"]["messages_per_minute"] == 120
        await send(one, room, range(1, 401))
        assert (await two.request("message", {"conversation": room, "content": "b"}))[0] == "ok"
        found = await answers(one, range(1, 401))
        assert set(codes(found)) == {"ok", "rate_limited"}
        assert 120 <= codes(found)["ok"] <= 140
        assert all(body["retry_after_ms"] > 0 for event, body in found.values() if event == "error")
        assert stored(found) == sorted(stored(found))
        own = [text for text in await contents(two, room) if text != "b"]
        assert own == [str(n) for n in stored(found)]
    assert metric(server, "fastim_storm_refused_user_total") == codes(found)["rate_limited"]
    assert metric(server, "fastim_storm_waiting") == 0


async def test_order_when_new_messages_come_while_others_wait_then_they_do_not_overtake(start: Start) -> None:
    """Elsewhere a waiting queue was overtaken: 0,1,2,3,4,8,5,6,7; and it drained only at something urgent."""
    server = start(**OPEN, FASTIM_STORM__CONVERSATION_PER_SECOND="10", FASTIM_STORM__CONVERSATION_BURST="5")
    room = make_room(server, "r", "a", "b")
    async with open_client(server, "a") as one, open_client(server, "b") as two:
        await send(one, room, range(1, 9))
        for _ in range(5):  # the sixth waits
            await two.receive_event("new_message")
        await send(two, room, range(9, 10))
        found = await answers(one, range(1, 9)) | await answers(two, range(9, 10))
        assert set(codes(found)) == {"ok"}
        assert stored(found) == list(range(1, 10))
        assert await contents(two, room) == [str(n) for n in range(1, 10)]


async def test_room_when_it_is_hot_then_a_small_one_does_not_notice(start: Start) -> None:
    """One bucket for all, or one queue, and the hot room would starve the rest."""
    server = start(**OPEN, FASTIM_STORM__SERVER_PER_SECOND="200", FASTIM_STORM__SERVER_BURST="20")
    hot = make_room(server, "hot", "h1", "h2")
    small = make_room(server, "small", "s1", "s2")
    stop = asyncio.Event()
    found: Answers = {}

    async def flood(client: Client, first: int) -> None:
        while not stop.is_set():
            numbers = range(first, first + 400)
            await send(client, hot, numbers)
            found.update(await answers(client, numbers))
            first += 400

    async with (
        open_client(server, "h1") as h1,
        open_client(server, "h2") as h2,
        open_client(server, "s1") as s1,
        open_client(server, "s2") as s2,
    ):
        floods = [asyncio.create_task(flood(h1, 1)), asyncio.create_task(flood(h2, 1_000_001))]
        await s2.request("ping", {})
        while metric(server, "fastim_storm_waiting") < 300:
            await s2.request("ping", {})
        before = await last_seq(server, hot)
        for n in range(20):
            assert (await s1.request("message", {"conversation": small, "content": str(n)}))[0] == "ok"
            assert (await s2.receive_event("new_message"))["content"] == str(n)
        during = await last_seq(server, hot) - before
        stop.set()
        await asyncio.gather(*floods)
    # In one queue each of the 20 would have stood behind 300 others and more.
    assert during < 20 * 100
    assert {"ok", "rate_limited"} == set(codes(found))
    of_one = [ref for ref in stored(found) if ref < 1_000_000]
    assert of_one == sorted(of_one)


async def last_seq(server: ServerProcess, room: str) -> int:
    def ask() -> int:
        with rest(server) as http:
            return int(http.get(f"/v1/conversations/{room}").json()["last_seq"])

    return await asyncio.to_thread(ask)


async def test_message_when_its_connection_ends_while_it_waits_then_stored_once(start: Start) -> None:
    server = start(**OPEN, FASTIM_STORM__CONVERSATION_PER_SECOND="5", FASTIM_STORM__CONVERSATION_BURST="2")
    room = make_room(server, "r", "a", "b")
    async with open_client(server, "b") as two:
        async with open_client(server, "a") as one:
            await send(one, room, range(1, 9))
            await two.receive_event("new_message")
        async with open_client(server, "a") as one:
            await send(one, room, range(4, 9))  # they wait, or have just been stored
            found = await answers(one, range(4, 9))
            again = {ref for ref, (event, body) in found.items() if event == "ok" and body["duplicate"]}
            refused = {ref for ref, (event, _) in found.items() if event == "error"}
            assert again
            assert again | refused == set(range(4, 9))
        while (await two.receive_event("new_message"))["seq"] < 8:
            pass
        assert await contents(two, room) == [str(n) for n in range(1, 9)]


async def test_server_when_it_ends_while_messages_wait_then_they_are_stored(start: Start) -> None:
    server = start(**OPEN, FASTIM_STORM__CONVERSATION_PER_SECOND="5", FASTIM_STORM__CONVERSATION_BURST="5")
    room = make_room(server, "r", "a")
    async with open_client(server, "a") as one:
        await send(one, room, range(1, 15))
        await one.receive_event("ok")
        assert await asyncio.to_thread(server.stop) == 0
        oks = [packet[2] async for packet in one.receive_until_closed() if packet[0] == "ok"]
    server = start(**OPEN)
    async with open_client(server, "a") as one:
        kept = await contents(one, room)
    assert kept == [str(n) for n in range(1, 15)]
    assert oks == sorted(oks)


async def test_post_when_a_service_is_too_fast_then_429_and_the_others_are_served(start: Start) -> None:
    server = start(
        FASTIM_LIMITS__MESSAGES_PER_MINUTE="1",
        FASTIM_STORM__CONVERSATION_PER_SECOND="1",
        FASTIM_STORM__CONVERSATION_BURST="3",
        FASTIM_STORM__MAX_WAIT_MS="0",
    )
    make_room(server, "busy", "a")
    make_room(server, "quiet", "a")
    with rest(server) as http:
        posts = [http.post("/v1/conversations/busy/messages", json={"content": "x", "sender": "a"})] + [
            http.post("/v1/conversations/busy/messages", json={"content": "x"}) for _ in range(20)
        ]
        statuses = Counter(post.status_code for post in posts)
        assert statuses.keys() == {201, 429}
        assert statuses[429] >= 10
        refused = next(post for post in posts if post.status_code == 429)
        assert refused.json()["code"] == "rate_limited"
        assert int(refused.headers["Retry-After"]) >= 1
        # The user's own limit is the user's: a service that speaks for it is not held to it.
        for _ in range(2):
            quiet = http.post("/v1/conversations/quiet/messages", json={"content": "x", "sender": "a"})
            assert quiet.status_code == 201


async def test_room_when_10000_are_members_then_posting_works_and_does_not_hold_up_a_small_one(
    start: Start,
) -> None:
    server = start(FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0")
    crowd = make_room(server, "crowd", *(f"m{n}" for n in range(10_000)))
    small = make_room(server, "small", "s1", "s2")
    posts, readers = 40, 30
    stack = [open_client(server, f"m{n}", binary=n % 2 == 1) for n in range(readers)]
    members = [await each.__aenter__() for each in stack]
    try:
        async with open_client(server, "s1") as s1, open_client(server, "s2") as s2:
            for n in range(5):  # five writers of different encodings at once
                body = {"conversation": crowd}
                for number in range(posts):
                    await members[n].send("message", body | {"content": f"{n}-{number}"}, number + 1)
            for n in range(20):
                assert (await s1.request("message", {"conversation": small, "content": str(n)}))[0] == "ok"
                assert (await s2.receive_event("new_message"))["content"] == str(n)
        for member in members[5:]:
            seqs = [(await member.receive_event("new_message"))["seq"] for _ in range(5 * posts)]
            assert seqs == list(range(1, 5 * posts + 1))
        event, page = await members[0].request("members", {"conversation": crowd, "limit": 500})
        assert (event, len(page["members"]), page["more"]) == ("ok", 500, True)
    finally:
        for each in stack:
            await each.__aexit__(None, None, None)
    wait_until(lambda: metric(server, "fastim_storm_waiting") == 0, "nothing waits")
