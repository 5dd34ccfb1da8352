"""The running server when its disk is full, its file locked or damaged: what it says, and how it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import shutil
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.serving import ServerProcess, Start, open_client, rest, run_fastim, wait_until
from tests.support.senders import Sender, check_history, read_history

DISK_BYTES = 8 << 20


def readiness(server: ServerProcess) -> tuple[int, str]:
    answer = httpx.get(f"{server.http}/readyz", trust_env=False)
    return answer.status_code, answer.json().get("reason", "")


@contextlib.asynccontextmanager
async def under_load(server: ServerProcess) -> AsyncIterator[list[Sender]]:
    """Let senders send from before the trouble until after it; then compare history and what they know."""
    senders = [Sender(f"s{n}", "c", binary=n == 1, window=4, padding=500) for n in range(2)]
    with rest(server) as http:
        members = [*(each.user for each in senders), "reader"]
        http.post("/v1/conversations", json={"members": members, "conversation": "c"})
    runs = [asyncio.create_task(each.run(server)) for each in senders]
    yield senders
    for each in senders:
        each.draining = True
    await asyncio.wait_for(asyncio.gather(*runs), 30)
    async with open_client(server, "reader") as client:
        check_history(await read_history(client, "c"), senders, complete=True)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Let the senders run until a condition holds."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is another process that makes it so
            await asyncio.sleep(0.005)
    assert condition(), what


async def see_trouble(server: ServerProcess, senders: list[Sender], reason: str) -> None:
    """Check what clients and probes are told while the store takes nothing."""
    await until(lambda: all(sender.refused.get("unavailable") for sender in senders), "senders are told")
    status, said = await asyncio.to_thread(readiness, server)
    assert status == 503
    assert reason in said
    with rest(server) as http:
        answer = await asyncio.to_thread(http.post, "/v1/conversations/c/messages", json={"content": "x"})
        assert answer.status_code == 503, answer.text
        assert (await asyncio.to_thread(http.get, "/healthz")).status_code == 200
    async with open_client(server, "reader") as client:  # who was here before; reading goes on
        event, _ = await client.request("history", {"conversation": "c"})
        assert event == "ok"
        assert (await client.request("ping", {}))[0] == "ok"


async def see_recovery(server: ServerProcess, senders: list[Sender]) -> None:
    counts = [len(sender.acknowledged) for sender in senders]
    await until(
        lambda: all(len(s.acknowledged) > n for s, n in zip(senders, counts, strict=True)), "senders go on"
    )
    assert await asyncio.to_thread(readiness, server) == (200, "")
    for sender in senders:
        assert sender.refused.keys() == {"unavailable"}


async def begin(senders: list[Sender]) -> None:
    await until(lambda: all(len(sender.acknowledged) > 20 for sender in senders), "the load runs")


async def test_files_when_they_may_not_grow_then_unavailable_until_they_may(start: Start) -> None:
    server = start()
    pid = server.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    async with under_load(server) as senders:
        await begin(senders)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, hard))
        await see_trouble(server, senders, "store: ")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        await see_recovery(server, senders)
    assert server.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> list[str]:
    """A command that runs what follows it with a small disk for its data."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs {folder} && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("a disk of its own needs the right to mount")
    return command


async def test_disk_when_it_is_full_then_unavailable_until_there_is_room(
    start: Start, small_disk: list[str]
) -> None:
    server = start(data="disk/data", before=small_disk)
    # The disk is in the server's view of the file system, not in ours.
    server.data = Path(f"/proc/{server.process.pid}/root{server.data}")
    filler = server.data / "filler"
    async with under_load(server) as senders:
        await begin(senders)
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 65536):
                pass
        await see_trouble(server, senders, "FULL")
        filler.unlink()
        await see_recovery(server, senders)
    assert server.stop() == 0


async def test_file_when_another_process_holds_it_then_unavailable_until_it_lets_go(start: Start) -> None:
    server = start(FASTIM_STORE__BUSY_TIMEOUT_S="0.2")
    async with under_load(server) as senders:
        await begin(senders)
        other = sqlite3.connect(server.data / "fastim.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await see_trouble(server, senders, "locked")
        other.execute("ROLLBACK")
        other.close()
        await see_recovery(server, senders)
    assert server.stop() == 0


def damage(file: Path, name: str) -> None:
    """Overwrite the first page of a table or an index."""
    connection = sqlite3.connect(file)
    (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    connection.close()
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * 4096)
        damaged.write(b"\xa5" * 4096)


def test_file_when_its_messages_cannot_be_read_then_the_server_does_not_start(start: Start) -> None:
    server = start()
    assert server.stop() == 0
    damage(server.data / "fastim.db", "messages")
    ended = run_fastim("serve", "--port", "0", "--data", str(server.data))
    assert ended.returncode == 2, ended
    assert "server.data" in ended.stderr.splitlines()[-1]
    assert "malformed" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


async def test_file_when_it_is_damaged_then_no_more_writes_until_a_backup_is_back(
    start: Start, tmp_path: Path
) -> None:
    server = start()
    sender = Sender("s0", "c", padding=500)
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["s0", "reader"], "conversation": "c"})
    running = asyncio.create_task(sender.run(server))
    await begin([sender])
    assert await asyncio.to_thread(server.stop) == 0
    await running
    file = server.data / "fastim.db"
    shutil.copy(file, tmp_path / "backup.db")
    damage(file, "messages_by_seq")

    server = start()
    async with open_client(server, "s0") as client:
        for number in range(3):
            body = {"conversation": "c", "content": "x", "client_id": f"lost-{number}"}
            event, error = await client.request("message", body)
            assert (event, error["code"]) == ("error", "unavailable")
        status, reason = await asyncio.to_thread(readiness, server)
        assert status == 503
        assert "malformed" in reason
    wait_until(lambda: "no more writes" in server.log(), "the log says so")
    assert server.stop() == 0

    for name in ("fastim.db", "fastim.db-wal", "fastim.db-shm"):
        (server.data / name).unlink(missing_ok=True)
    shutil.copy(tmp_path / "backup.db", file)
    server = start()
    assert readiness(server) == (200, "")
    await sender.run(server, new=False)
    async with open_client(server, "reader") as client:
        check_history(await read_history(client, "c"), [sender], complete=True)
    assert server.stop() == 0
