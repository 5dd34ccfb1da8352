"""Edges of the session table."""

import copy
import gc
import sys
import weakref
from typing import Any

import pytest

from fastim._core.sessions import EndReason, SessionTable


class Data:
    """Something one can hold a weak reference to."""


def test_detached_beyond_capacity_evicts_the_longest_unused_and_says_so() -> None:
    table = SessionTable(2, 1_000)
    for now_ns, key in enumerate("abc"):
        table.detach(key, table.put(key, key.upper(), now_ns), now_ns)
        if key == "b":
            table.touch("a", now_ns)
    assert table.get("b", 3) is None
    assert table.expire(3) == [("b", "B", EndReason.EVICTED)]
    assert table.expire(3) == []
    assert table.detached_count == 2


def test_live_sessions_neither_count_nor_end() -> None:
    table = SessionTable(1, 10)
    leases = {key: table.put(key, key, 0) for key in "abcd"}
    table.detach("a", leases["a"], 0)
    assert table.expire(5) == []
    assert table.expire(10) == [("a", "a", EndReason.EXPIRED)]
    assert table.expire(2**64 - 1) == []
    assert (table.live_count, table.detached_count) == (3, 0)


def test_expired_session_is_gone_at_once_and_reported_once() -> None:
    table = SessionTable(5, 10)
    table.detach("a", table.put("a", 1, 0), 0)
    assert table.get("a", 9) is not None
    assert table.attach("a", 10) is None
    assert table.touch("a", 5) is False  # the clock went back: it is still 10
    assert table.next_expiry_ns() == 10
    assert table.expire(10) == [("a", 1, EndReason.EXPIRED)]
    assert table.next_expiry_ns() == 0


def test_lease_of_a_replaced_connection_cannot_detach_its_successor() -> None:
    table = SessionTable(5, 10)
    old = table.put("a", 1, 0)
    taken_over = table.attach("a", 0)
    assert taken_over is not None
    assert not table.detach("a", old, 0)
    assert table.is_live("a", 0)
    assert table.detach("a", taken_over[1], 0)
    assert not table.detach("a", taken_over[1], 0)


def test_version_of_a_removed_session_never_fits_its_key_again() -> None:
    table = SessionTable(5, 10)
    version = table.put("a", "first", 0)
    assert table.remove("a", 0)
    assert not table.remove("a", 0)
    table.put("a", "second", 0)
    assert table.replace("a", "forged", version, 0) == 0
    assert not table.detach("a", version, 0)
    known = table.get("a", 0)
    assert known is not None
    assert known[0] == "second"


def test_replace_with_the_current_version_keeps_the_lease() -> None:
    table = SessionTable(5, 10)
    lease = table.put("a", 1, 0, 100)
    version = table.replace("a", 2, lease, 0, 50)
    assert table.get("a", 0) == (2, version)
    assert table.replace("a", 3, lease, 0) == 0
    assert table.data_bytes == 50
    assert table.detach("a", lease, 0)


def test_data_of_an_ended_session_is_let_go() -> None:
    table = SessionTable(1, 10)
    references = []
    for key in "abcd":
        data = Data()
        references.append(weakref.ref(data))
        table.detach(key, table.put(key, data, 0), 0)
        del data
    assert all(reference() is not None for reference in references)
    table.expire(10)
    assert all(reference() is None for reference in references)


def test_remove_keeps_every_other_session_in_its_place() -> None:
    table = SessionTable(0, 1_000)
    for number in range(500):
        lease = table.put(str(number), number, number)
        if number % 3:
            table.detach(str(number), lease, number)
    for number in range(0, 500, 2):
        assert table.remove(str(number), 500)
    left = list(range(1, 500, 2))
    assert all((found := table.get(str(number), 500)) and found[0] == number for number in left)
    assert [data for _key, data, _reason in table.expire(5_000)] == [n for n in left if n % 3]
    assert [table.is_live(str(n), 5_000) for n in left if n % 3 == 0] == [True] * table.live_count


def test_data_whose_destructor_calls_the_table_finds_it_whole() -> None:
    table = SessionTable(0, 10)
    seen: list[int] = []

    class Recursive:
        def __del__(self) -> None:
            table.put("born in a destructor", None, 0)
            seen.append(len(table))

    table.put("a", Recursive(), 0)
    table.put("b", 1, 0)
    table.put("a", Recursive(), 0)
    assert table.remove("a", 0)
    assert table.get("b", 0) is not None
    assert table.put("c", Recursive(), 0)
    table.clear()
    assert seen == [3, 2, 1]


def test_table_in_a_reference_cycle_is_collected() -> None:
    table = SessionTable(0, 10)
    data = Data()
    data.table = table  # type: ignore[attr-defined]
    reference = weakref.ref(data)
    table.put("a", data, 0)
    del table, data
    gc.collect()
    assert reference() is None


def test_table_of_many_sessions_is_small_and_gives_memory_back() -> None:
    table = SessionTable(0, 10)
    for number in range(20_000):
        table.detach(str(number), table.put(str(number), None, 0), 0)
    assert sys.getsizeof(table) <= 80 * 20_000
    assert len(table.expire(10, at_most=5_000)) == 5_000
    assert len(table.expire(10)) == 15_000
    assert sys.getsizeof(table) < 40_000


def test_clear_forgets_all_and_versions_go_on() -> None:
    table = SessionTable(1, 10)
    version = table.put("a", 1, 0, 5)
    table.clear()
    assert (len(table), table.live_count, table.data_bytes) == (0, 0, 0)
    assert table.put("a", 1, 0) > version


def test_misuse_raises() -> None:
    anything: Any = b"a"
    with pytest.raises(TypeError):
        SessionTable(1, 1).get(anything, 0)
    with pytest.raises(ValueError, match="hash_key"):
        SessionTable(1, 1, hash_key=b"")
    with pytest.raises(TypeError, match="copied"):
        copy.copy(SessionTable(1, 1))
