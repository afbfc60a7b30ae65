"""Two opinions on the same rollouts, compared source by source: pure functions of rewards."""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop
from itertools import count

EQUAL = 1e-6
"""Rewards that differ by less agree; advantages nearer to 0 have no sign."""
MOST_DISAGREEMENTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One rollout with what it was worth, and what it would be worth."""

    number: int
    """Of its group."""
    index: int
    step: int
    old: float
    new: float
    text: str
    """Its answer, cut."""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How two opinions on one source differ."""

    source: str
    num_rollouts: int
    """Rollouts with both rewards."""
    num_unscored: int
    """Rollouts that were worth something, and that are not scored."""
    old_mean: float
    new_mean: float
    agreement: float
    """Share of equal rewards."""
    rank_correlation: float | None
    """Spearman's; None where one opinion is always the same."""
    num_sign_changes: int
    """Rollouts whose advantage, their reward minus the mean of their group, has the other sign."""
    disagreements: tuple[Judged, ...]
    """The largest, largest first."""


@dataclass(slots=True)
class SourceOpinions:
    """The opinions on one source, group by group; keeps two numbers of each rollout."""

    source: str
    num_unscored: int = 0
    _old: "array[float]" = field(default_factory=lambda: array("d"))
    _new: "array[float]" = field(default_factory=lambda: array("d"))
    _num_sign_changes: int = 0
    _largest: list[tuple[float, int, Judged]] = field(default_factory=list)
    _order: "count[int]" = field(default_factory=count)

    def add(self, group: Sequence[Judged]) -> None:
        """Take the rollouts of one group that have both rewards."""
        if not group:
            return
        self._old.extend(judged.old for judged in group)
        self._new.extend(judged.new for judged in group)
        self._num_sign_changes += count_sign_changes([j.old for j in group], [j.new for j in group])
        for judged in group:
            difference = abs(judged.new - judged.old)
            if difference < EQUAL:
                continue
            entry = (difference, -next(self._order), judged)
            if len(self._largest) < MOST_DISAGREEMENTS:
                heappush(self._largest, entry)
            else:
                heappushpop(self._largest, entry)

    def compare(self) -> Comparison:
        """How they differ."""
        number = len(self._old)
        agreeing = sum(abs(new - old) < EQUAL for old, new in zip(self._old, self._new, strict=True))
        return Comparison(
            source=self.source,
            num_rollouts=number,
            num_unscored=self.num_unscored,
            old_mean=math.fsum(self._old) / number if number else 0.0,
            new_mean=math.fsum(self._new) / number if number else 0.0,
            agreement=agreeing / number if number else 0.0,
            rank_correlation=rank_correlation(self._old, self._new),
            num_sign_changes=self._num_sign_changes,
            disagreements=tuple(judged for *_, judged in sorted(self._largest, reverse=True)),
        )


def count_sign_changes(old: Sequence[float], new: Sequence[float]) -> int:
    """Rollouts of a group whose advantage is above 0 by one opinion and below 0 by the other.

    Example:
        >>> count_sign_changes([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
        2
    """
    old_mean, new_mean = math.fsum(old) / len(old), math.fsum(new) / len(new)
    return sum(_sign(before - old_mean) * _sign(after - new_mean) < 0 for before, after in zip(old, new, strict=True))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values sharing their mean rank; None where a side has one value only.

    Example:
        >>> rank_correlation([1, 2, 3], [10, 20, 15])
        0.5
    """
    if len(first) < 2:
        return None
    one, other = _ranks(first), _ranks(second)
    middle = (len(first) + 1) / 2
    products = math.fsum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    spread = math.sqrt(_spread(one, middle)) * math.sqrt(_spread(other, middle))
    return products / spread if spread else None


def _spread(ranks: Iterable[float], middle: float) -> float:
    return math.fsum((rank - middle) ** 2 for rank in ranks)


def _ranks(values: Sequence[float]) -> "array[float]":
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = array("d", bytes(8 * len(values)))
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            ranks[place] = (start + 1 + end) / 2
        start = end
    return ranks


def _sign(value: float) -> int:
    return (value > EQUAL) - (value < -EQUAL)
