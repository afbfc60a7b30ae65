"""The best assignment of rows to columns."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.verifiers.scorers.assignment import best_assignment
from tristream.verifiers.scorers.matching import match_best

numbers = st.one_of(st.just(0.0), st.sampled_from([0.5, 0.75, 1.0]), st.floats(0, 1))
matrices = st.tuples(st.integers(1, 4), st.integers(0, 2)).flatmap(
    lambda shape: st.lists(
        st.lists(numbers, min_size=sum(shape), max_size=sum(shape)), min_size=shape[0], max_size=shape[0]
    )
)


@given(matrices)
def test_it_gains_as_much_as_the_best_of_all_assignments(gains: list[list[float]]) -> None:
    columns = best_assignment(gains)
    assert len(set(columns)) == len(gains)
    best = max(
        sum(row[column] for row, column in zip(gains, chosen, strict=True))
        for chosen in itertools.permutations(range(len(gains[0])), len(gains))
    )
    assert sum(row[column] for row, column in zip(gains, columns, strict=True)) == pytest.approx(best)


@given(st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.floats(0.1, 1), max_size=10))
def test_the_best_matching_of_pairs_uses_nothing_twice_and_gains_most(gains: dict[tuple[int, int], float]) -> None:
    pairs = [(iou, row, column) for (row, column), iou in gains.items()]
    matched = match_best(pairs)
    assert len({row for _, row, _ in matched}) == len({column for _, _, column in matched}) == len(matched)
    best = max(
        sum(pair[0] for pair in chosen)
        for size in range(min(len(pairs), 4) + 1)
        for chosen in itertools.combinations(pairs, size)
        if len({pair[1] for pair in chosen}) == len({pair[2] for pair in chosen}) == size
    )
    assert sum(pair[0] for pair in matched) == pytest.approx(best)
