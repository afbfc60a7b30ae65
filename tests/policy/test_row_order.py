"""Rows stay in the order of their lengths, block by block, whoever comes and goes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tristream.policy.attention.row_order import BLOCK_ROWS, CHUNK_COST, Chunk, RowOrder, arrange, cheapest_chunks


@given(
    num_rows=st.integers(0, 40),
    num_joining=st.integers(0, 20),
    size=st.integers(1, 16),
    data=st.data(),
)
def test_an_exchange_keeps_who_stays_and_takes_who_joins(
    num_rows: int, num_joining: int, size: int, data: st.DataObject
) -> None:
    leaving = frozenset(row for row in range(num_rows) if data.draw(st.booleans()))
    sources = arrange([0] * num_rows, leaving, num_joining, size)
    staying = [row for row in range(num_rows) if row not in leaving]
    assert sorted(sources) == [*staying, *range(num_rows, num_rows + num_joining)]


def test_without_a_block_s_bound_only_the_last_rows_move() -> None:
    assert arrange([9, 8, 7, 6, 5], frozenset({1}), 1, 99) == [0, 5, 2, 3, 4]
    assert arrange([9, 8, 7, 6, 5], frozenset({1, 2}), 0, 99) == [0, 3, 4]
    assert arrange([], frozenset(), 3, 99) == [0, 1, 2]


@given(st.lists(st.tuples(st.integers(0, 8), st.lists(st.integers(0, 10**6), max_size=10)), max_size=30))
def test_no_row_is_longer_than_one_of_an_earlier_block(steps: list[tuple[int, list[int]]]) -> None:
    order = RowOrder(is_chunked=True)
    ages: list[int] = []
    for num_steps, choices in steps:
        for _ in range(num_steps):
            order.grow()
        ages = [age + num_steps for age in ages]
        leaving = {choice % len(ages) for choice in choices} if ages else set()
        sources = order.exchange(leaving, 3 * len(choices) + 1)
        before = [*ages, *[0] * (3 * len(choices) + 1)]
        ages = [before[source] for source in sources]
        assert order.lengths == ages
        assert order.longest == max(ages, default=0)
        blocks = [ages[start : start + BLOCK_ROWS] for start in range(0, len(ages), BLOCK_ROWS)]
        assert all(min(first) >= max(second) for first, second in itertools.pairwise(blocks))
        assert [row for chunk in order.chunks for row in range(chunk.start, chunk.end)] == list(range(len(ages)))
        assert all(chunk.num_columns == max(ages[chunk.start : chunk.end]) for chunk in order.chunks)


@given(st.lists(st.integers(0, 200), min_size=1, max_size=7))
def test_chunks_cost_as_little_as_those_of_all_ways_to_make_them(columns: list[int]) -> None:
    blocks = [Chunk(BLOCK_ROWS * n, BLOCK_ROWS * (n + 1), width) for n, width in enumerate(columns)]
    costs = []
    for cuts in itertools.product([False, True], repeat=len(columns) - 1):
        parts = [[columns[0]]]
        for is_cut, width in zip(cuts, columns[1:], strict=True):
            if is_cut:
                parts.append([width])
            else:
                parts[-1].append(width)
        costs.append(sum(CHUNK_COST + BLOCK_ROWS * len(part) * max(part) for part in parts))
    chunks = cheapest_chunks(blocks)
    assert sum(CHUNK_COST + (chunk.end - chunk.start) * chunk.num_columns for chunk in chunks) == min(costs)
