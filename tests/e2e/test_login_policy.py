"""The login policy on a running server: the latest login stays, whoever else comes at the same time."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from tests.e2e.serving import Client, ServerProcess, Start, open_client

APPLICATION = "tests.e2e.application:app"


async def log_in(
    stack: AsyncExitStack, server: ServerProcess, device: str, device_class: str | None = None, **hello: Any
) -> Client:
    """Come in as ann from a device."""
    token = server.token("ann", device=device, device_class=device_class)
    client = await stack.enter_async_context(open_client(server))
    event, client.ok = await client.request("hello", {"token": token, **hello})
    assert event == "ok", client.ok
    return client


async def is_here(client: Client) -> bool:
    return (await client.request("ping", {}))[0] == "ok"


async def ending(client: Client) -> tuple[list[str], int]:
    """What a connection is told before its close, and the close code."""
    events = [packet[0] async for packet in client.receive_until_closed()]
    return events, client.socket.close_code or 0


async def test_user_policy_when_another_device_logs_in_then_the_older_is_told_and_closed(
    start: Start,
) -> None:
    server = start(APPLICATION, FASTIM_SESSION__POLICY="user")
    async with AsyncExitStack() as stack:
        phone = await log_in(stack, server, "phone", "mobile")
        desktop = await log_in(stack, server, "desktop", "desktop")
        assert await ending(phone) == (["forced_disconnect"], 4004)
        assert await is_here(desktop)
        _, told = await desktop.request("ended", "ann")
        assert told == [["ann", "phone", phone.ok["session"], "replaced"]]
        # It brings its session back by itself: it must not throw out the login that replaced it.
        token = server.token("ann", device="phone", device_class="mobile")
        async with open_client(server) as back:
            resume = {"session": phone.ok["session"]}
            event, error = await back.request("hello", {"token": token, "resume": resume})
            assert (event, error["code"]) == ("error", "unauthorized")
            assert (await back.closed())[0] == 4004
        assert await is_here(desktop)
        # Whoever logs in anew means it.
        phone = await log_in(stack, server, "phone", "mobile")
        assert await ending(desktop) == (["forced_disconnect"], 4004)
        assert await is_here(phone)


async def test_class_policy_when_classes_differ_then_both_stay_and_within_one_the_latest(
    start: Start,
) -> None:
    server = start(FASTIM_SESSION__POLICY="device_class")
    async with AsyncExitStack() as stack:
        phone = await log_in(stack, server, "phone", "mobile")
        desktop = await log_in(stack, server, "desktop", "desktop")
        tablet = await log_in(stack, server, "tablet", "mobile")
        assert await ending(phone) == (["forced_disconnect"], 4004)
        assert await is_here(desktop)
        assert await is_here(tablet)
        nameless = await log_in(stack, server, "a")
        await log_in(stack, server, "b")
        assert await ending(nameless) == (["forced_disconnect"], 4004)
        assert await is_here(tablet)


async def test_policy_when_the_same_device_comes_back_then_a_reconnect_and_no_kick(start: Start) -> None:
    server = start(FASTIM_SESSION__POLICY="user")
    async with AsyncExitStack() as stack:
        first = await log_in(stack, server, "phone")
        again = await log_in(stack, server, "phone", resume={"session": first.ok["session"]})
        assert again.ok["resumed"] is True
        assert await ending(first) == ([], 4004)
        fresh = await log_in(stack, server, "phone")
        assert await ending(again) == ([], 4004)
        assert await is_here(fresh)


async def test_policy_when_the_older_is_away_then_its_session_is_over_for_the_newer(start: Start) -> None:
    server = start(APPLICATION, FASTIM_SESSION__POLICY="user")
    async with AsyncExitStack() as stack:
        async with open_client(server) as phone:
            _, ok = await phone.request("hello", {"token": server.token("ann", device="phone")})
        desktop = await log_in(stack, server, "desktop")
        _, told = await desktop.request("ended", "ann")
        assert told == [["ann", "phone", ok["session"], "replaced"]]
        await desktop.socket.close()
        # The one that replaced it is gone for good, as far as anybody knows it may still come back.
        async with open_client(server) as back:
            token = server.token("ann", device="phone")
            event, _ = await back.request("hello", {"token": token, "resume": {"session": ok["session"]}})
            assert event == "error"
            assert (await back.closed())[0] == 4004


async def test_policy_when_many_log_in_at_once_then_exactly_one_stays(start: Start) -> None:
    server = start(FASTIM_SESSION__POLICY="user", FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0")
    async with AsyncExitStack() as stack:
        clients = await asyncio.gather(*(stack.enter_async_context(open_client(server)) for _ in range(20)))
        tokens = [server.token("ann", device=f"d{number}") for number in range(20)]
        for client, token in zip(clients, tokens, strict=True):
            await client.send("hello", {"token": token}, 1)
        closed = [asyncio.create_task(client.closed()) for client in clients]
        left: set[asyncio.Task[tuple[int, str]]] = set(closed)
        while len(left) > 1:
            done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result()[0] for task in done} == {4004}
        stays = clients[closed.index(left.pop())]
        assert await is_here(stays)
        for task in closed:
            task.cancel()


async def test_policy_when_the_newcomer_is_not_let_in_then_the_older_stays(start: Start) -> None:
    server = start("tests.e2e.choosy_application:app", FASTIM_SESSION__POLICY="user")
    async with AsyncExitStack() as stack:
        first = await log_in(stack, server, "welcome")
        second = await log_in(stack, server, "unwelcome")
        assert await ending(second) == (["forced_disconnect"], 4001)
        assert await is_here(first)


async def test_any_policy_when_200_devices_log_in_then_all_stay_and_all_get_messages(start: Start) -> None:
    server = start(FASTIM_LIMITS__CONNECTS_PER_MINUTE_PER_ADDRESS="0")
    async with AsyncExitStack() as stack, open_client(server, "bob") as bob:
        _, made = await bob.request("conversation_create", {"kind": "direct", "members": ["ann"]})
        devices = [await log_in(stack, server, f"d{number}") for number in range(200)]
        await devices[0].request("message", {"conversation": made["conversation"], "content": "hi"})
        await bob.receive_event("new_message")
        for device in devices[1:]:
            assert (await device.receive_event("new_message"))["seq"] == 1
