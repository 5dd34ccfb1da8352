"""The descriptor limit; set in a process of its own, since a hard limit cannot be taken back."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastim.server.process.limits_os import RESERVE_COUNT, Descriptors

PROGRAM = """
import resource, sys
soft, hard, asked, entering = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
from fastim.errors import ConfigError
from fastim.server.process.limits_os import raise_descriptor_limit
try:
    found = raise_descriptor_limit(asked, entering)
except ConfigError as error:
    print(error)
else:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(found.before, found.limit, found.max_connections, found.max_sockets, soft)
"""


def run(soft: int, hard: int, asked: int, entering: int = 0) -> str:
    command = [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(asked), str(entering)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    ("asked", "cap"),
    [(0, 1000 - RESERVE_COUNT), (10, 10), (5000, 1000 - RESERVE_COUNT)],
)
def test_raise_when_hard_is_higher_then_soft_follows_and_connections_are_capped(asked: int, cap: int) -> None:
    assert run(300, 1000, asked) == f"300 1000 {cap} {cap} 1000"


@pytest.mark.parametrize(
    ("asked", "entering", "cap", "sockets"),
    [(10, 100, 10, 110), (10, 5000, 10, 872), (0, 20, 852, 872), (0, 5000, 845, 872), (700, 5000, 700, 872)],
)
def test_raise_when_some_come_and_go_then_they_have_room_beside_the_connections(
    asked: int, entering: int, cap: int, sockets: int
) -> None:
    assert RESERVE_COUNT == 128
    assert run(1000, 1000, asked, entering) == f"1000 1000 {cap} {sockets} 1000"


def test_raise_when_there_is_no_room_then_config_error() -> None:
    assert run(64, RESERVE_COUNT, 0).startswith("limits.max_connections: the descriptor limit 128")


def test_describe_when_raised_or_cut_then_both_are_said() -> None:
    assert Descriptors(1024, 4096, 3968, 10, 0).describe() == (
        "descriptor limit 4096 (raised from 1024), at most 3968 connections"
    )
    assert Descriptors(4096, 4096, 3968, 10, 9000).describe() == (
        "descriptor limit 4096 (as it was), at most 3968 connections, "
        "fewer than the 9000 of limits.max_connections"
    )
