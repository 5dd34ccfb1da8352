"""SIGSTOP for 5 s: the server, or its clients, are not there for a while, and nobody takes it for the end."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

from tests.e2e.serving import ServerProcess, Start
from tests.support.herd import Herd, herding, make_conversations, post_messages, write_tokens

MEMBERS = 100
ROOMS = {f"r{room}": [f"u{room * MEMBERS + n}" for n in range(MEMBERS)] for room in range(2)}
COUNT = MEMBERS * len(ROOMS)
STOPPED_S = 5.0


def gather(herd: Herd, server: ServerProcess, tmp_path: Path) -> None:
    """Bring members into their rooms; all have seen one message, and were pinged."""
    make_conversations(server.port, server.api_key, ROOMS)
    users = [user for members in ROOMS.values() for user in members]
    tokens = write_tokens(tmp_path / "tokens", (server.data / "secret").read_bytes().strip(), users)
    assert herd.call("connect", port=server.port, tokens=tokens)["ready"] == COUNT
    post_messages(server.port, server.api_key, list(ROOMS), 1)
    assert herd.call("wait", messages=COUNT, pings=COUNT)["in_time"]
    herd.call("clear")


def check_all_is_well(herd: Herd, messages: int) -> None:
    """All came, once and in order, to connections that are the same ones as before; and they are alive."""
    answer = herd.call("wait", messages=messages)
    assert answer["in_time"], answer
    answer = herd.call("wait", pings=answer["counts"].get("pings", 0) + COUNT)
    assert answer["in_time"], answer
    assert answer["codes"] == {}
    assert answer["ready"] == COUNT
    assert answer["least"] == messages // COUNT
    assert answer["counts"].get("holes", 0) == answer["counts"].get("repeated", 0) == 0


def test_server_when_stopped_for_5_s_then_nobody_is_closed_and_nothing_is_lost(
    start: Start, tmp_path: Path
) -> None:
    # The stop is longer than the heartbeat's patience: the server must read before it judges.
    server = start(FASTIM_HEARTBEAT__INTERVAL_S="0.5", FASTIM_HEARTBEAT__TIMEOUT_S="1")
    with herding() as herd:
        gather(herd, server, tmp_path)
        server.process.send_signal(signal.SIGSTOP)
        # Written into sockets that nobody reads for now; five by each of twenty.
        herd.call("post", posts=[[n * 10, f"r{n * 10 // MEMBERS}", 5] for n in range(20)])
        herd.call("run", seconds=STOPPED_S)
        server.process.send_signal(signal.SIGCONT)
        assert herd.call("wait", oks=100)["in_time"]
        # 50 messages a room, to all its members but the sender, who got the ok: all have 50 in the end.
        assert herd.call("wait", messages=100 * (MEMBERS - 1))["in_time"]
        herd.call("clear")
        post_messages(server.port, server.api_key, list(ROOMS), 1)
        check_all_is_well(herd, COUNT)
    assert server.stop() == 0


def test_clients_when_stopped_for_5_s_then_none_is_closed_and_nothing_is_lost(
    start: Start, tmp_path: Path
) -> None:
    server = start(FASTIM_HEARTBEAT__INTERVAL_S="0.5", FASTIM_HEARTBEAT__TIMEOUT_S="20")
    with herding() as herd:
        gather(herd, server, tmp_path)
        os.kill(herd.process.pid, signal.SIGSTOP)
        post_messages(server.port, server.api_key, list(ROOMS), 50)
        select.select([], [], [], STOPPED_S)  # the fault itself: so long they are not there
        os.kill(herd.process.pid, signal.SIGCONT)
        check_all_is_well(herd, 50 * COUNT)
    assert server.stop() == 0
