"""Handlers of what happens on no connection: in order, one after the other, whatever they raise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from fastim.server.application.app import FastIM
from fastim.server.application.hooks import MAX_WAITING, Hook

Event = dict[str, Any]


class Tasks:
    def __init__(self) -> None:
        self.made: list[asyncio.Task[None]] = []

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.made.append(asyncio.create_task(coroutine))


async def test_hook_when_handlers_are_plain_and_async_then_called_in_order_by_one_task() -> None:
    app, seen = FastIM(), []

    @app.on_undelivered
    async def waits(event: Event) -> None:
        await asyncio.sleep(0)
        seen.append(("waits", event["n"]))

    @app.on_undelivered
    def plain(event: Event) -> None:
        seen.append(("plain", event["n"]))

    tasks = Tasks()
    hook = Hook("on_undelivered", app.undelivered_handlers, tasks.spawn)
    for number in range(3):
        hook({"n": number})
    await asyncio.gather(*tasks.made)
    assert seen == [(name, number) for number in range(3) for name in ("waits", "plain")]
    assert len(tasks.made) == 1
    hook({"n": 3})
    await asyncio.gather(*tasks.made)
    assert seen[-1] == ("plain", 3)


async def test_hook_when_a_handler_raises_then_logged_and_the_others_are_called(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, seen = FastIM(), []

    @app.on_undelivered
    def broken(event: Event) -> None:
        raise LookupError("no")

    @app.on_undelivered
    def whole(event: Event) -> None:
        seen.append(event["n"])

    tasks = Tasks()
    hook = Hook("on_undelivered", app.undelivered_handlers, tasks.spawn)
    with caplog.at_level(logging.ERROR, "fastim.app"):
        hook({"n": 1, "secret": "PAYLOAD"})
        hook({"n": 2})
        await asyncio.gather(*tasks.made)
    assert seen == [1, 2]
    assert [record.getMessage() for record in caplog.records] == ["a handler of on_undelivered failed"] * 2


async def test_hook_when_handlers_are_too_slow_then_the_newest_are_dropped_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, seen, gate = FastIM(), [], asyncio.Event()

    @app.on_undelivered
    async def slow(event: Event) -> None:
        await gate.wait()
        seen.append(event["n"])

    tasks = Tasks()
    hook = Hook("on_undelivered", app.undelivered_handlers, tasks.spawn)
    hook({"n": 0})
    await asyncio.sleep(0)
    for number in range(1, MAX_WAITING + 5):
        hook({"n": number})
    assert hook.dropped_count == 4
    assert len(caplog.records) == 1
    gate.set()
    await asyncio.gather(*tasks.made)
    assert seen == list(range(MAX_WAITING + 1))


def test_on_undelivered_when_the_handler_takes_something_else_then_refused() -> None:
    with pytest.raises(TypeError, match=r"'undelivered' must take \(event\)"):
        FastIM().on_undelivered(lambda: None)
