"""A trace of the system calls: nothing is told to anybody before it has been synced."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.e2e.serving import Client, ServerProcess, Start, open_client, rest, wait_until
from tests.support.system_calls import (
    OrderBroken,
    SystemCall,
    check_synced_before_sent,
    parse,
    strace_command,
)

LOG = "fastim.db-wal"
COUNT = 60


# -- the checker

WRITTEN = '7 pwrite64(9</d/fastim.db-wal>, "..m-1..", 4096, 4120) = 4096'
SYNCED = "7 fdatasync(9</d/fastim.db-wal>) = 0"
SENT = (
    '5 sendto(12<socket:[77]>, "\\201[\\"ok\\",{\\"client_id\\":\\"m-1\\"}]", 30, MSG_NOSIGNAL, NULL, 0) = 30'
)
IN_ORDER = [WRITTEN, SYNCED, SENT]

BROKEN = {
    "sent first": [SENT, WRITTEN, SYNCED],
    "sent before the sync": [WRITTEN, SENT, SYNCED],
    "never synced": [WRITTEN, SENT],
    "never written": [SYNCED, SENT],
    "never sent": [WRITTEN, SYNCED],
    "synced before it was written": [SYNCED, WRITTEN, SENT],
    "the sync failed": [WRITTEN, SYNCED.replace("= 0", "= -1 EIO (Input/output error)"), SENT],
    "another file was synced": [WRITTEN, SYNCED.replace("-wal", ""), SENT],
    "another message was written": [WRITTEN.replace("m-1", "m-2"), SYNCED, SENT],
    "sent while the sync was on": [
        WRITTEN,
        "7 fdatasync(9</d/fastim.db-wal> <unfinished ...>",
        SENT,
        "7 <... fdatasync resumed>) = 0",
    ],
    "the sync did not return": [WRITTEN, "7 fdatasync(9</d/fastim.db-wal> <unfinished ...>", SENT],
    "the sync began before the write ended": [
        '7 pwrite64(9</d/fastim.db-wal>, "..m-1..", 4096, 4120 <unfinished ...>',
        "8 fdatasync(9</d/fastim.db-wal>) = 0",
        "7 <... pwrite64 resumed>) = 4096",
        SENT,
    ],
}


def test_checker_when_the_order_is_right_then_content() -> None:
    check_synced_before_sent(parse(IN_ORDER), ["m-1"], LOG)
    interleaved = [
        WRITTEN,
        "7 fdatasync(9</d/fastim.db-wal> <unfinished ...>",
        SENT.replace("m-1", "m-0"),
        "7 <... fdatasync resumed>) = 0",
        "5 +++ exited with 0 +++",
        SENT,
    ]
    check_synced_before_sent(parse(interleaved), ["m-1"], LOG)


@pytest.mark.parametrize("name", BROKEN)
def test_checker_when_the_order_is_broken_then_it_says_so(name: str) -> None:
    with pytest.raises(OrderBroken, match="m-1"):
        check_synced_before_sent(parse(BROKEN[name]), ["m-1"], LOG)


# -- the server


@pytest.fixture
def tracer(tmp_path: Path) -> list[str]:
    if shutil.which("strace") is None:
        pytest.fail("strace is missing; scripts/setup dev installs it, or: apt-get install strace")
    return strace_command(tmp_path / "trace")


async def talk(server: ServerProcess) -> list[str]:
    """Send messages alone and together, heard by the sender and another; return their client ids."""
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b", "c"], "conversation": "room"})
    markers = [f"marker-{number:04}" for number in range(COUNT)]
    async with (
        open_client(server, "a") as json_client,
        open_client(server, "b", binary=True) as msgpack_client,
        open_client(server, "c"),
    ):
        clients = (json_client, msgpack_client)
        alone, together = markers[: COUNT // 2], markers[COUNT // 2 :]
        for number, marker in enumerate(alone):
            body = {"conversation": "room", "content": "x", "client_id": marker}
            event, answer = await clients[number % 2].request("message", body)
            assert (event, answer["client_id"]) == ("ok", marker)
        for number, marker in enumerate(together, 1):
            body = {"conversation": "room", "content": "x" * 1000, "client_id": marker}
            await clients[number % 2].send("message", body, number)
        heard = await asyncio.gather(*(hear(client, len(together)) for client in clients))
        assert set().union(*heard) >= set(together)
    return markers


async def hear(client: Client, count: int) -> set[str]:
    """Return the client ids of so many answers and messages."""
    heard: set[str] = set()
    while len(heard) < count:
        event, body, *_ = await client.receive()
        if event in ("ok", "new_message") and body["client_id"] >= f"marker-{COUNT // 2:04}":
            heard.add(body["client_id"])
    return heard


def read_trace(path: Path) -> list[SystemCall]:
    """Read a trace once the tracer, which outlives what it traces by a moment, has written its end."""
    wait_until(
        lambda: "+++ exited with" in path.read_text().rpartition("\n")[0].rpartition("\n")[2], "a trace"
    )
    return parse(path.read_text().splitlines())


async def test_message_when_told_to_anybody_then_it_was_synced_before(
    start: Start, tracer: list[str], tmp_path: Path
) -> None:
    server = start(before=tracer)
    markers = await talk(server)
    assert server.stop() == 0
    calls = read_trace(tmp_path / "trace")
    check_synced_before_sent(calls, markers, LOG)
    syncs = [call for call in calls if call.name in ("fsync", "fdatasync") and call.file.endswith(LOG)]
    assert len(syncs) >= COUNT // 2  # those sent alone


async def test_message_when_syncs_are_switched_off_then_the_trace_shows_it(
    start: Start, tracer: list[str], tmp_path: Path
) -> None:
    server = start(before=tracer, FASTIM_STORE__SYNCHRONOUS="normal")
    markers = await talk(server)
    assert server.stop() == 0
    with pytest.raises(OrderBroken, match="before it was synced"):
        check_synced_before_sent(read_trace(tmp_path / "trace"), markers, LOG)
