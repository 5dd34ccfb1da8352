"""The compiled ranges and counts of addresses against their twins."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim._core.addresses import AddressCounts, AddressRanges
from tests.reference import addresses as reference

# Few bits differ, so that ranges nest, meet and miss each other.
V4 = st.integers(0, 15).map(lambda n: str(ipaddress.IPv4Address(0xC0000200 | (n & 3) | (n >> 2) << 30)))
V6 = st.integers(0, 255).map(
    lambda n: str(ipaddress.IPv6Address((0x20010DB8 << 96) | (n & 15) | (n >> 4 & 3) << 63 | (n >> 6) << 124))
)
MAPPED = V4.map(lambda text: f"::ffff:{text}")
ADDRESSES = st.one_of(V4, V6, MAPPED, st.just("::"), st.just("::1"))


@st.composite
def ranges(draw: st.DrawFn) -> str:
    address = draw(ADDRESSES)
    most = 128 if ":" in address else 32
    bits = draw(st.one_of(st.none(), st.integers(0, most), st.just(most)))
    return address if bits is None else f"{address}/{bits}"


ENDS = st.integers(0, 4)
ACTIONS = st.one_of(
    st.tuples(st.just("add"), ranges(), ENDS),
    st.tuples(st.just("add"), ranges(), ENDS),
    st.tuples(st.just("remove"), ranges(), st.just(0)),
    st.tuples(st.just("covers"), ADDRESSES, ENDS),
    st.tuples(st.just("sweep"), st.just(""), ENDS),
)


@given(st.lists(ACTIONS, max_size=60), st.lists(ADDRESSES, max_size=8))
def test_ranges_whatever_is_done_answer_as_their_twin(
    actions: list[tuple[str, str, int]], asked: list[str]
) -> None:
    compiled, twin = AddressRanges(), reference.AddressRanges()
    for name, text, number in actions:
        if name == "add":
            compiled.add(text, number)
            twin.add(text, number)
        elif name == "remove":
            assert compiled.remove(text) == twin.remove(text)
        elif name == "covers":
            assert compiled.covers(text, number) == twin.covers(text, number)
        else:
            assert compiled.sweep(number) == twin.sweep(number)
        assert len(compiled) == len(twin)
    for address in asked:
        for now_ns in range(5):
            assert compiled.covers(address, now_ns) == twin.covers(address, now_ns)


@given(st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=60))
def test_counts_whatever_is_done_answer_as_their_twin(actions: list[tuple[bool, str]]) -> None:
    compiled, twin = AddressCounts(), reference.AddressCounts()
    for more, address in actions:
        for counts in (compiled, twin):
            (counts.add if more else counts.remove)(address)
        assert len(compiled) == len(twin)
    for _, address in actions:
        assert compiled.count(address) == twin.count(address)


@pytest.mark.parametrize(
    "text",
    ["", "/", "192.0.2.1/", "192.0.2.1/33", "192.0.2.1/-1", "192.0.2.1/ 8", "192.0.2.1/٣", "2001:db8::/129",
     "192.0.2", "192.0.2.256", "host", "::1%lo", "192.0.2.1\0", "192.0.2.1/8/8", "192.0.2.1/0008", "\ud800"],
)  # fmt: skip
def test_range_when_it_is_none_then_it_is_refused(text: str) -> None:
    ranges = AddressRanges()
    with pytest.raises(ValueError, match=r"is no (address|range)"):
        ranges.add(text)
    assert len(ranges) == 0


@pytest.mark.parametrize("text", ["", "host", "192.0.2.1/32", "::1%lo", "192.0.2.1\0"])
def test_address_when_it_is_none_then_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no address"):
        AddressRanges().covers(text, 0)
    with pytest.raises(ValueError, match="is no address"):
        AddressCounts().count(text)


def test_ranges_when_there_are_many_then_all_are_found_and_none_beside_them() -> None:
    ranges = AddressRanges()
    for number in range(20_000):
        ranges.add(f"10.{number >> 8}.{number & 255}.0/25", 1 + number % 2)
    for number in range(20_000):
        assert ranges.covers(f"10.{number >> 8}.{number & 255}.77", 1) == (number % 2 == 1)
        assert not ranges.covers(f"10.{number >> 8}.{number & 255}.177", 0)
    assert ranges.sweep(1) == 10_000
    assert len(ranges) == 10_000
