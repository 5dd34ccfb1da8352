"""The compiled histogram against its twin."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastim._core.histogram import DURATION_BOUNDS_NS, Histogram
from tests.reference import histogram as reference

VALUES = st.integers(-(2**40), 2**40)
BOUNDS = st.lists(VALUES, min_size=1, max_size=31, unique=True).map(sorted)


@given(bounds=BOUNDS, values=st.lists(VALUES), data=st.data())
def test_histogram_when_values_come_then_as_the_twin(
    bounds: list[int], values: list[int], data: st.DataObject
) -> None:
    compiled, twin = Histogram("What is measured.", bounds), reference.Histogram(bounds)
    edges = data.draw(st.lists(st.sampled_from(bounds)))
    for value in values + edges:
        compiled.observe(value)
        twin.observe(value)
    assert compiled.snapshot() == twin.snapshot()
    assert compiled.bounds == twin.bounds
    assert sum(compiled.snapshot()[0]) == len(values) + len(edges)


@pytest.mark.parametrize("bounds", [[], [1, 1], [2, 1], list(range(32))], ids=["none", "equal", "down", "32"])
def test_histogram_when_bounds_cannot_be_used_then_says_so(bounds: list[int]) -> None:
    with pytest.raises(ValueError, match="bound"):
        Histogram("What is measured.", bounds)


def test_histogram_when_copied_or_pickled_then_refused() -> None:
    with pytest.raises(TypeError):
        copy.copy(Histogram("What is measured."))
    with pytest.raises(TypeError):
        pickle.dumps(Histogram("What is measured."))


def test_histogram_when_its_default_is_taken_then_from_100_us_to_a_minute() -> None:
    histogram = Histogram("What is measured.")
    assert histogram.bounds == DURATION_BOUNDS_NS
    assert (histogram.bounds[0], histogram.bounds[-1]) == (100_000, 60_000_000_000)
    assert histogram.description == "What is measured."
