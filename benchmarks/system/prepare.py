"""A store that has seen much: filled by the store itself, before the server is started on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from fastim.guard.secrets import make_data_folder
from fastim.server.process.run import DATABASE_FILE
from fastim.store.base import Append, Write
from fastim.store.sqlite import SQLiteStore

__all__ = ["fill_store"]

MEMBERS = 4
CONTENT = b'"a message of some sixty-four bytes, as people write them all."'
IN_FLIGHT = 20_000


def fill_store(data: Path, conversations: int, messages: int, users: int) -> None:
    """Make conversations c0, c1, … of the users u0 to u3, u4 to u7, … and spread messages over them.

    Args:
        users: How many there are; the conversations go round them.
    """
    make_data_folder(data)
    asyncio.run(_fill(data / DATABASE_FILE, conversations, messages, users))


async def _fill(path: Path, conversations: int, messages: int, users: int) -> None:
    failures: list[BaseException] = []

    def on_commit(writes: Sequence[Write]) -> None:
        failures.extend(write.error for write in writes if write.error is not None)

    store = SQLiteStore(path, synchronous="normal")
    await store.open(on_commit)
    now_ms = time.time_ns() // 1_000_000
    created = []
    for number in range(conversations):
        names = [f"u{(number * MEMBERS + at) % users}" for at in range(MEMBERS)]
        created.append(store.create_conversation("group", names[0], names[1:], "", now_ms, id=f"c{number}"))
    keys = [record.key for record, _ in await asyncio.gather(*created)]
    senders = [(await store.member_records(key, 1))[0] for key in keys]
    for number in range(messages):
        at = number % conversations
        sender = senders[at]
        # Ids of messages sent over the last day, as they would stand in the table of ids to remember.
        client_id = f"T={now_ms * 1_000_000 + number:016x}"
        store.submit(
            Append(keys[at], sender.key, sender.user, "d", "text", CONTENT, 0, now_ms, client_id, None)
        )
        if number % IN_FLIGHT == IN_FLIGHT - 1:
            await store.flush()
    await store.flush()
    await store.close()
    if failures:
        raise failures[0]
