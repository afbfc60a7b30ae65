"""The interval set behaves like a set of integers."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.wire.events import Interval
from tristream.wire.ledger import IntervalSet

NUMBERS = st.lists(st.integers(0, 60))


@given(NUMBERS)
def test_it_holds_exactly_what_was_added(numbers: list[int]) -> None:
    interval_set = IntervalSet.of(numbers)
    assert list(interval_set) == sorted(set(numbers))
    assert len(interval_set) == len(set(numbers))
    assert [number in interval_set for number in range(62)] == [number in set(numbers) for number in range(62)]


@given(NUMBERS)
def test_its_intervals_are_sorted_and_never_touch(numbers: list[int]) -> None:
    intervals = IntervalSet.of(numbers).intervals
    assert all(left.end < right.start for left, right in pairwise(intervals))
    assert IntervalSet(intervals) == IntervalSet.of(numbers)


@given(NUMBERS)
def test_the_first_missing_number_is_the_smallest_outside(numbers: list[int]) -> None:
    assert IntervalSet.of(numbers).first_missing() == min(set(range(62)) - set(numbers))


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        IntervalSet([Interval(start=3, end=3)])
