"""Coroutines that are run at once as far as they go."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from fastim.server.application.eager import step


class Spawner:
    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []

    def __call__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.tasks.append(asyncio.get_running_loop().create_task(coroutine))


async def test_coroutine_when_it_waits_for_nothing_then_done_without_a_task() -> None:
    spawn, done = Spawner(), []

    async def run() -> None:
        done.append(1)

    assert step(run(), spawn)
    assert (done, spawn.tasks) == ([1], [])


async def test_coroutine_when_it_waits_then_goes_on_in_a_task() -> None:
    spawn, log = Spawner(), []
    loop = asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()

    async def run() -> None:
        log.append(await first)
        await asyncio.sleep(0)
        try:
            await second
        except LookupError as error:
            log.append(repr(error))

    assert not step(run(), spawn)
    assert log == []
    first.set_result("one")
    second.set_exception(LookupError("two"))
    await spawn.tasks[0]
    assert log == ["one", "LookupError('two')"]


async def test_task_when_cancelled_then_the_coroutine_sees_it() -> None:
    spawn, log = Spawner(), []

    async def run() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            log.append("cleaned up")

    step(run(), spawn)
    await asyncio.sleep(0)
    spawn.tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await spawn.tasks[0]
    assert log == ["cleaned up"]
