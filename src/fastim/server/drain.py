"""The orderly end: nothing that was acknowledged is lost, and clients know that they may come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from fastim._core.hub import Lane
from fastim.errors import CloseCode

if TYPE_CHECKING:
    from fastim.im.messaging import Messaging
    from fastim.server.handover import HandOver
    from fastim.server.service import Service
    from fastim.store.base import Store

__all__ = ["drain"]

log = logging.getLogger("fastim.drain")

LOOK_S: Final = 0.01


async def drain(
    service: Service,
    messaging: Messaging,
    store: Store,
    http: HandOver,
    *,
    deadline_s: float,
    retry_after_ms: int,
) -> None:
    """End what is open, in this order; the listeners are closed and ``/readyz`` says no before.

    1. ``server_shutdown`` to every client; new work is answered ``unavailable``.
    2. The application's handlers that run may finish, within half of the time.
    3. What was submitted to the store is committed and answered.
    4. The answers are written, HTTP requests finish.
    5. Close 1001, and the closing handshakes.

    Steps 4 and 5 wait until the deadline at most. Step 3 waits for the store: what it took is not given up.

    Args:
        service: Its connections are ended.
        messaging: Stopped.
        store: Flushed, not closed.
        http: Stopped.
        deadline_s: From now, seconds; 0: nothing is waited for but the store.
        retry_after_ms: What clients are told.
    """
    end_s = time.monotonic() + deadline_s
    service.dispatcher.refuse_work()
    _announce(service, deadline_s, retry_after_ms)
    handlers_end_s = time.monotonic() + deadline_s / 2
    if not await _wait_until(lambda: not service.dispatcher.unfinished_count, handlers_end_s):
        log.warning("%d handlers did not finish in time", service.dispatcher.unfinished_count)
    await messaging.stop()
    await store.flush()
    service.flush()
    requests = asyncio.ensure_future(http.stop(max(0.0, end_s - time.monotonic())))
    if not await _wait_until(lambda: not _unsent(service), end_s):
        log.warning("some clients did not take their last answers in time")
    await _close_all(service, end_s)
    await requests
    await _cancel_tasks(service)


async def _cancel_tasks(service: Service) -> None:
    """End the handlers that still run: their clients are gone."""
    tasks = list(service.tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=1.0)


async def _close_all(service: Service, end_s: float) -> None:
    hub = service.hub
    handles = [connection.handle for connection in service.connections]
    for handle in handles:
        hub.close(handle, CloseCode.GOING_AWAY, "server shutdown", service.clock_ns())
    service.flush()

    def gone() -> bool:
        while handles and not hub.peer(handles[-1]):  # a row that is free has no peer
            handles.pop()
        return not handles

    await _wait_until(gone, end_s)


def _announce(service: Service, deadline_s: float, retry_after_ms: int) -> None:
    shutdown_at = int((time.time() + deadline_s) * 1000)
    body = {"reconnect": True, "shutdown_at": shutdown_at, "retry_after_ms": retry_after_ms}
    for connection in service.connections:
        connection.send_event("server_shutdown", body, Lane.NORMAL)
    service.flush()


def _unsent(service: Service) -> bool:
    return any(service.hub.queued_bytes(connection.handle) for connection in service.connections)


async def _wait_until(done: Callable[[], bool], end_s: float) -> bool:
    """Look again and again: what is waited for happens in the hub, which has no futures."""
    while not done():
        if time.monotonic() >= end_s:
            return False
        await asyncio.sleep(LOOK_S)
    return True
