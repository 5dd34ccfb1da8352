"""What every test is held to: no unhandled exception on a loop, no task or descriptor left behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import hypothesis
import pytest
import pytest_asyncio

# No test checks a time, on no machine: neither an example's nor that of making examples up.
hypothesis.settings.register_profile(
    "fastim", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("fastim")

DESCRIPTORS = "/proc/self/fd"
T = TypeVar("T")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "keeps_descriptors: the test opens descriptors that outlive it, on purpose; say why beside it",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Watch the loop of every test that has one; other tests get no loop for it."""
    for item in items:
        if pytest_asyncio.is_async_test(item):
            item.fixturenames.append("_watched_loop")  # type: ignore[attr-defined]


@pytest.fixture
async def _watched_loop() -> AsyncIterator[None]:
    """Fail the test on exceptions that nobody handled and on tasks that nobody ended."""
    loop = asyncio.get_running_loop()
    problems: list[str] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        problems.append(f"{context.get('message')}: {error!r}" if error else str(context.get("message")))

    loop.set_exception_handler(note)
    before = asyncio.all_tasks()
    yield
    for _ in range(10):  # callbacks that were due at the end; a task that ends by itself may do so
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    gc.collect()  # "exception was never retrieved" comes from the collector
    loop.set_exception_handler(None)
    assert not problems, f"unhandled on the loop: {problems}"
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def _no_leaked_descriptors(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test after which more descriptors are open than before.

    Requested by every test before its own fixtures, so it looks after they, and the loop, have been closed.
    """
    before = open_descriptors()
    yield
    if request.node.get_closest_marker("keeps_descriptors") is not None:
        return
    left = {number: what for number, what in open_descriptors().items() if before.get(number) != what}
    if left:
        gc.collect()  # what only awaits the collector is garbage, and the collector's warnings fail the test
        left = {number: what for number, what in open_descriptors().items() if before.get(number) != what}
    assert not left, f"descriptors left open: {left}"


def open_descriptors() -> dict[int, str]:
    """Return what is open, by number; empty where the system does not say."""
    found: dict[int, str] = {}
    if not os.path.isdir(DESCRIPTORS):
        return found
    for name in os.listdir(DESCRIPTORS):
        try:
            found[int(name)] = os.readlink(f"{DESCRIPTORS}/{name}")
        except FileNotFoundError:  # the listing's own
            continue
    return found


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Return a coroutine function that waits, within a deadline, until a condition holds."""

    async def wait(condition: Callable[[], T], timeout_s: float = 30.0) -> T:
        async with asyncio.timeout(timeout_s):
            while not (value := condition()):  # noqa: ASYNC110 - any condition, most have no event
                await asyncio.sleep(0.005)
            return value

    return wait
