"""The session table beside its twin of two dictionaries, with the default capacity full.

Each round is a thousand operations (a thousand pairs, where two are named) on sessions in random order, so a
median in microseconds reads as nanoseconds an operation.
"""

import random
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from fastim._core.sessions import SessionTable
from tests.reference import session_table

HOUR_NS = 3_600_000_000_000
CAPACITY = 100_000
OPERATIONS = 1_000
TABLES: dict[str, Callable[[int, int], Any]] = {
    "compiled": SessionTable,
    "reference": session_table.SessionTable,
}
KEYS = [f"session-{number:016x}" for number in range(CAPACITY)]


def full_table(implementation: str) -> Any:
    table = TABLES[implementation](CAPACITY, HOUR_NS)
    for key in KEYS:
        table.detach(key, table.put(key, None, 1), 1)
    return table


def put_detach(table: Any, keys: list[str]) -> None:
    """Sessions come and go; each of these evicts another."""
    for key in keys:
        fresh = key + "+"
        table.detach(fresh, table.put(fresh, None, 1), 1)
    table.expire(1)


def attach_detach(table: Any, keys: list[str]) -> None:
    for key in keys:
        if attached := table.attach(key, 1):
            table.detach(key, attached[1], 1)


def get(table: Any, keys: list[str]) -> None:
    for key in keys:
        table.get(key, 1)


def touch(table: Any, keys: list[str]) -> None:
    for key in keys:
        table.touch(key, 1)


@pytest.mark.parametrize("operation", [put_detach, attach_detach, get, touch], ids=lambda f: str(f.__name__))
@pytest.mark.parametrize("implementation", TABLES)
def test_session_table(
    benchmark: Any, implementation: str, operation: Callable[[Any, list[str]], None]
) -> None:
    table = full_table(implementation)
    chooser = random.Random(1)
    benchmark.pedantic(
        operation,
        setup=lambda: ((table, chooser.sample(KEYS, OPERATIONS)), {}),
        rounds=50,
        warmup_rounds=5,
    )


@pytest.mark.parametrize("implementation", TABLES)
def test_session_table_memory(benchmark: Any, implementation: str) -> None:
    """Bytes a detached session beside its key and data; the time is that of filling the table."""
    tracemalloc.start()
    try:
        table = full_table(implementation)
        traced_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # The compiled rows come from malloc, which tracemalloc does not see.
    own_bytes = sys.getsizeof(table) if implementation == "compiled" else 0
    benchmark.extra_info["bytes_per_session"] = round((traced_bytes + own_bytes) / CAPACITY, 1)
    benchmark.pedantic(full_table, args=(implementation,), rounds=3)
