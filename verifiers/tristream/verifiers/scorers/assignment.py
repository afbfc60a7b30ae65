"""The assignment of rows to columns that gains most (Kuhn 1955, in the form with potentials).

A matching of boxes has a handful of rows, for which this needs microseconds and no compiled library.
"""

from collections.abc import Sequence

NO_ROW = 0


def best_assignment(gains: Sequence[Sequence[float]]) -> list[int]:
    """The column of each row, so that the sum of gains is largest and no column is used twice.

    Args:
        gains: rows of equal length; no more rows than columns. Takes time in rows squared times columns.
    """
    num_rows, num_columns = len(gains), len(gains[0])
    row_potentials = [0.0] * (num_rows + 1)
    column_potentials = [0.0] * (num_columns + 1)
    row_of = [NO_ROW] * (num_columns + 1)  # rows and columns count from 1; column 0 holds the row to be placed
    for row in range(1, num_rows + 1):
        row_of[0] = row
        came_from = _grow(gains, row_of, row_potentials, column_potentials)
        column = next(reversed(came_from))
        while column:
            row_of[column] = row_of[came_from[column]]
            column = came_from[column]
    columns = [0] * num_rows
    for column, row in enumerate(row_of[1:]):
        if row != NO_ROW:
            columns[row - 1] = column
    return columns


def _grow(
    gains: Sequence[Sequence[float]],
    row_of: Sequence[int],
    row_potentials: list[float],
    column_potentials: list[float],
) -> dict[int, int]:
    """Grow the tree of tight pairs from column 0 to a free column, which is the last key: column -> column before."""
    free = set(range(1, len(column_potentials)))
    slacks = dict.fromkeys(free, float("inf"))
    reached_by = dict.fromkeys(free, 0)
    came_from: dict[int, int] = {}
    current = 0
    while True:
        row = row_of[current]
        for column in free:
            slack = -gains[row - 1][column - 1] - row_potentials[row] - column_potentials[column]
            if slack < slacks[column]:
                slacks[column], reached_by[column] = slack, current
        nearest = min(free, key=lambda column: (slacks[column], column))
        step = slacks[nearest]
        for column in (0, *came_from):
            row_potentials[row_of[column]] += step
            column_potentials[column] -= step
        for column in free:
            slacks[column] -= step
        free.discard(nearest)
        came_from[nearest] = reached_by[nearest]
        current = nearest
        if row_of[nearest] == NO_ROW:
            return came_from
