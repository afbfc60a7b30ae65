"""What an audit says: checks, each with what it looked at and what it found, as ranges of numbers."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from tristream.wire.ledger import IntervalSet

MOST_RANGES = 6
"""Ranges that one finding names; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One promise of a run, and whether it was kept."""

    name: str
    """What was looked at, in words."""
    num_checked: int
    findings: tuple[str, ...] = ()
    """What is wrong, each in one line."""
    note: str = ""
    """What people should know of it though it is not wrong, such as why it could not be looked at."""
    is_skipped: bool = False

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


class Findings:
    """Collects numbers by what is wrong with them.

    Example:
        >>> findings = Findings("group")
        >>> for number in (17, 18, 19, 40):
        ...     findings.add(number, "no outcome")
        >>> findings.lines()
        ('groups 17-19, 40: no outcome',)
    """

    def __init__(self, noun: str) -> None:
        self._noun = noun
        self._numbers: dict[str, IntervalSet] = defaultdict(IntervalSet)

    def add(self, number: int, what: str) -> None:
        """Something is wrong with a number."""
        self._numbers[what].add(number)

    def add_all(self, numbers: Iterable[int], what: str) -> None:
        """The same is wrong with several numbers."""
        for number in numbers:
            self.add(number, what)

    def lines(self) -> tuple[str, ...]:
        """One line for each thing that is wrong, with the ranges of numbers it is true of."""
        return tuple(f"{name_ranges(self._noun, numbers)}: {what}" for what, numbers in self._numbers.items())


def name_ranges(noun: str, numbers: IntervalSet) -> str:
    """Numbers for people.

    Example:
        >>> name_ranges("step", IntervalSet.of([3, 4, 5, 9]))
        'steps 3-5, 9'
    """
    named = [
        str(interval.start) if interval.end == interval.start + 1 else f"{interval.start}-{interval.end - 1}"
        for interval in numbers.intervals[:MOST_RANGES]
    ]
    rest = sum(interval.end - interval.start for interval in numbers.intervals[MOST_RANGES:])
    text = ", ".join(named) + (f" and {rest} more" if rest else "")
    return f"{noun} {text}" if len(numbers) == 1 else f"{noun}s {text}"
