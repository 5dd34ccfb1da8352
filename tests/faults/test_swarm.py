"""All clients dropped and back at once: each gets what it missed, once and in order, and goes on."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.e2e.serving import Start
from tests.support.herd import (
    herding,
    make_conversations,
    post_messages,
    read_metrics,
    wait_for_metric,
    write_tokens,
)

MEMBERS = 100
MISSED = 5
RESERVE = 1_000  # descriptors that are no client's, here and at the server


def possible_clients(wanted: int) -> int:
    """As many as wanted, or as the descriptor limit has room for, in whole rooms."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return min(wanted, hard - RESERVE) // MEMBERS * MEMBERS


def test_clients_when_19000_drop_and_come_back_at_once_then_all_resume_and_miss_nothing(
    start: Start, tmp_path: Path
) -> None:
    count = possible_clients(19_000)
    users = [f"u{number}" for number in range(count)]
    rooms = {f"r{n}": users[n * MEMBERS : (n + 1) * MEMBERS] for n in range(count // MEMBERS)}
    server = start(FASTIM_SERVER__LOG_LEVEL="warning")
    make_conversations(server.port, server.api_key, rooms)
    tokens = write_tokens(tmp_path / "tokens", server.data.joinpath("secret").read_bytes().strip(), users)
    with herding() as herd:
        answer = herd.call("connect", port=server.port, tokens=tokens, hello={"batch": True})
        assert answer["ready"] == count, answer
        # One of each room writes, so that all know where they are, then everybody is cut off.
        writers = [n * MEMBERS for n in range(len(rooms))]
        herd.call("post", posts=[[writer, f"r{n}", 1] for n, writer in enumerate(writers)])
        answer = herd.call("wait", messages=count - len(rooms), oks=len(rooms))
        assert answer["in_time"], answer
        herd.call("drop", how="rst")
        wait_for_metric(server.port, "fastim_connections", 0)
        post_messages(server.port, server.api_key, list(rooms), MISSED)
        herd.call("clear")
        answer = herd.call("resume", at_a_time=1_000)
        assert (answer["ready"], answer["resumed"]) == (count, count), answer
        answer = herd.call("wait", each=MISSED)
        assert answer["in_time"], answer
        # And what is said now comes behind it.
        herd.call("post", posts=[[writer, f"r{n}", 1] for n, writer in enumerate(writers)])
        answer = herd.call("wait", messages=count * (MISSED + 1) - len(rooms))
        assert answer["in_time"], answer
        assert answer["counts"].get("repeated", 0) == answer["counts"].get("holes", 0) == 0
        assert answer["codes"] == {}
        assert answer["most"] == MISSED + 1
        assert read_metrics(server.port)["fastim_connections"] == count
