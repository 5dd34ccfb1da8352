"""The life of the process: start, the data folder, signals, and what survives."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import stat
from pathlib import Path

import pytest

from tests.e2e.serving import (
    Start,
    open_client,
    raw_socket,
    read_all,
    rest,
    run_fastim,
    wait_until,
)
from tests.e2e.test_bad_input import Raw


def test_server_when_ready_then_one_line_on_stdout_and_the_rest_on_stderr(start: Start) -> None:
    server = start()
    assert server.line == f"fastim listening on http://127.0.0.1:{server.port}"
    process = server.process
    process.terminate()
    assert process.stdout is not None
    assert process.stdout.read() == b""
    assert server.wait() == 0
    assert "descriptor limit" in server.log()
    assert "connections" in server.log()


def test_data_folder_when_made_then_its_files_are_private(start: Start) -> None:
    server = start()
    for name in ("secret", "api_key"):
        assert stat.S_IMODE((server.data / name).stat().st_mode) == 0o600


def one_line(stderr: str) -> str:
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    return lines[0]


def test_second_server_when_on_the_same_folder_then_exit_2_names_the_holder(start: Start) -> None:
    server = start()
    ended = run_fastim("serve", "--port", "0", "--data", str(server.data))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "server.data" in one_line(ended.stderr)
    assert str(server.process.pid) in one_line(ended.stderr)


def test_port_when_in_use_then_exit_2(start: Start, tmp_path: Path) -> None:
    server = start()
    ended = run_fastim("serve", "--port", str(server.port), "--data", str(tmp_path / "other"))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "server.port" in one_line(ended.stderr)
    # The folder is free again.
    assert start(data="other").stop() == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--host", "no.such.host.invalid"), "server.host"),
        (("--host", "192.0.2.1"), "server.host"),
        (("--port", "99999"), "server.port"),
        (("no.such.module:app",), "no.such.module"),
        (("tests.e2e.application:nothing",), "nothing"),
        (("tests.e2e.application:gone",), "FastIM"),
        (("tests.e2e.application",), "module:name"),
        (("tests.e2e.broken_application:app",), "broken_application"),
        (("--data", "/proc/nowhere"), "server.data"),
    ],
)
def test_start_when_something_is_unusable_then_exit_2_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], named: str
) -> None:
    ended = run_fastim("serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert named in one_line(ended.stderr)


def test_database_when_corrupt_then_exit_2(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "fastim.db").write_bytes(b"this is no database" * 1000)
    ended = run_fastim("serve", "--port", "0", "--data", str(data))
    assert ended.returncode == 2
    assert "server.data" in one_line(ended.stderr)


async def test_sigterm_when_sent_then_the_end_is_in_order(start: Start) -> None:
    server = start(
        "tests.e2e.application:app",
        FASTIM_LIMITS__MESSAGES_PER_MINUTE="0",
        FASTIM_LIMITS__PACKETS_PER_SECOND="0",
    )
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
    async with open_client(server, "a") as one, open_client(server, "b", binary=True) as two:
        await two.request("echo", 1)
        for number in range(1, 501):
            await one.send("message", {"conversation": "c", "content": str(number)}, number)
        await one.receive_event("ok")
        server.process.terminate()
        answered, refused = 1, 0
        shutdown = None
        async for packet in one.receive_until_closed():
            if packet[0] == "ok":
                answered += 1
            elif packet[0] == "server_shutdown":
                shutdown = packet[1]
            elif packet[0] == "error":
                assert packet[1]["code"] == "unavailable"
                refused += 1
        assert (await one.closed())[0] == 4012
        assert shutdown is not None
        assert shutdown["reconnect"] is True
        assert shutdown["retry_after_ms"] > 0
        assert (await two.receive_event("server_shutdown"))["reconnect"] is True
        assert (await two.closed())[0] == 4012
    assert server.wait() == 0
    assert not (server.data / "fastim.db-wal").exists()
    again = start("tests.e2e.application:app")
    with rest(again) as http:
        record = http.get("/v1/conversations/c").json()
        assert answered <= record["last_seq"] <= 500
        if refused:
            assert record["last_seq"] <= 500 - refused


def test_sigint_when_ending_then_no_new_connections(start: Start) -> None:
    server = start(FASTIM_DRAIN__QUICK_DEADLINE_S="10")
    raw = Raw(server)  # answers no close frame: the server waits for its deadline
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u")}, 1]).encode())
    raw.receive()
    server.process.send_signal(signal.SIGINT)
    assert b"server_shutdown" in raw.receive()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), 5)
    assert raw.close_code() == 1001
    raw.send(0x88, b"\x03\xe9")
    assert server.wait() == 0
    raw.socket.close()


def test_sigint_when_sent_then_quick(start: Start) -> None:
    server = start(FASTIM_DRAIN__QUICK_DEADLINE_S="0.2")
    raw = Raw(server)
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u")}, 1]).encode())
    raw.receive()
    assert server.stop(signal.SIGINT) == 0
    raw.socket.close()


def test_signal_when_second_then_ends_at_once(start: Start) -> None:
    server = start(FASTIM_DRAIN__DEADLINE_S="60")
    raw = Raw(server)
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u")}, 1]).encode())
    raw.receive()
    server.process.terminate()
    assert b"server_shutdown" in raw.receive()[1]
    assert server.stop(signal.SIGTERM) == -signal.SIGTERM
    raw.socket.close()


async def test_kill_when_messages_were_acknowledged_then_they_are_there_once(start: Start) -> None:
    server = start(FASTIM_LIMITS__MESSAGES_PER_MINUTE="0", FASTIM_LIMITS__PACKETS_PER_SECOND="0")
    with rest(server) as http:
        http.post("/v1/conversations", json={"members": ["a", "b"], "conversation": "c"})
    acknowledged: dict[int, str] = {}
    async with open_client(server, "a") as client:
        for number in range(1, 301):
            body = {"conversation": "c", "content": str(number), "client_id": f"k-{number}"}
            await client.send("message", body, number)
        async for packet in client.receive_until_closed():
            if packet[0] == "ok":
                acknowledged[packet[1]["seq"]] = packet[1]["client_id"]
                if len(acknowledged) == 100:
                    server.kill()
    assert len(acknowledged) >= 100
    again = start()
    async with open_client(again, "a") as client:
        after, found = 0, {}
        while True:
            _, page = await client.request("history", {"conversation": "c", "after": after, "limit": 500})
            found |= {item["seq"]: item["client_id"] for item in page["messages"]}
            if not page["more"]:
                break
            after = max(found)
    assert sorted(found) == list(range(1, len(found) + 1))
    assert len(set(found.values())) == len(found)
    assert acknowledged.items() <= found.items()


async def test_readiness_when_the_server_ends_then_it_says_so(start: Start) -> None:
    server = start("tests.e2e.application:app")
    raw = Raw(server)
    raw.send(0x81, json.dumps(["hello", {"token": server.token("u")}, 1]).encode())
    raw.receive()
    with raw_socket(server) as connection:
        # A request that has begun: its connection outlives the listener.
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\n")
        await asyncio.sleep(0)
        server.process.terminate()
        wait_until(lambda: "shutting down" in server.log(), "the signal was seen")
        connection.sendall(b"\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert b"shutting down" in answer
    raw.send(0x88, b"\x03\xe9")
    assert server.wait() == 0
    raw.socket.close()


async def test_handler_when_it_runs_at_sigterm_then_its_answer_still_goes_out(start: Start) -> None:
    server = start("tests.e2e.application:app")
    async with open_client(server, "a") as client:
        await client.send("sleep", 0.5, 7)
        await client.send("ask", "not refused", 8)
        assert (await client.receive())[0] == "question"
        server.process.terminate()
        packets = [packet async for packet in client.receive_until_closed()]
        assert ["ok", None, 7] in packets
        assert (await client.closed())[0] == 4012
    assert server.wait() == 0


async def test_handler_when_it_blocks_for_ever_then_the_server_ends_without_it(start: Start) -> None:
    server = start("tests.e2e.application:app", FASTIM_DRAIN__DEADLINE_S="0.2")
    async with open_client(server, "a") as client:
        await client.send("sleep", 3600, 7)
        assert await client.request("echo", 1) == ["ok", 1]
        server.process.terminate()
        assert (await client.closed())[0] == 4012
    assert server.wait() == 0
    assert "1 blocking handlers" in server.log()
