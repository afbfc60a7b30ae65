"""Sets of group numbers: as sorted disjoint intervals, and as a checksum."""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator

from tristream.wire.events import Interval


class IntervalSet:
    """A set of group numbers stored as sorted, disjoint, half-open intervals.

    Example:
        >>> numbers = IntervalSet.of([0, 1, 2, 5])
        >>> numbers.intervals
        (Interval(start=0, end=3), Interval(start=5, end=6))
        >>> 3 in numbers
        False
    """

    def __init__(self, intervals: Iterable[Interval] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for interval in intervals:
            self._add_range(interval.start, interval.end)

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "IntervalSet":
        """Build the set from single numbers."""
        result = cls()
        for number in numbers:
            result.add(number)
        return result

    @property
    def intervals(self) -> tuple[Interval, ...]:
        """The intervals in ascending order."""
        pairs = zip(self._starts, self._ends, strict=True)
        return tuple(Interval(start=start, end=end) for start, end in pairs)

    def add(self, number: int) -> None:
        """Add one number; adding it twice changes nothing."""
        self._add_range(number, number + 1)

    def first_missing(self) -> int:
        """The smallest number >= 0 that is not in the set."""
        return self._ends[0] if self._starts and self._starts[0] == 0 else 0

    def _add_range(self, start: int, end: int) -> None:
        if start >= end:
            raise ValueError(f"interval [{start}, {end}) is empty")
        first = bisect_right(self._ends, start - 1)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def __contains__(self, number: int) -> bool:
        position = bisect_right(self._starts, number) - 1
        return position >= 0 and number < self._ends[position]

    def __iter__(self) -> Iterator[int]:
        for start, end in zip(self._starts, self._ends, strict=True):
            yield from range(start, end)

    def __len__(self) -> int:
        return sum(self._ends) - sum(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IntervalSet) and self.intervals == other.intervals

    def __hash__(self) -> int:
        return hash(self.intervals)

    def __repr__(self) -> str:
        return f"IntervalSet({self.intervals})"


def number_checksum(numbers: Iterable[int]) -> int:
    """Checksum of a set of group numbers that can be added to: the sum, modulo 2**64, of a hash of each.

    Two different sets have the same checksum only by chance, about once in 2**64.
    """
    return sum(map(_hash_number, numbers)) % 2**64


def _hash_number(number: int) -> int:
    digest = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
