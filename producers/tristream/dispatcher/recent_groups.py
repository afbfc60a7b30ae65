"""What became of the newest groups of one source, in the order of their dispatch: a pure state machine.

Dropped groups have their outcome at once, trained ones only when a checkpoint makes them durable. So outcomes are
not counted as they come: a group without one stands between its neighbours and may still be trained.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping

from tristream.wire.events import DropReason


class RecentGroups:
    """The newest groups of a source.

    Args:
        size: how many are kept; more than can be in flight.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._numbers: list[int] = []
        self._outcomes: dict[int, DropReason | None] = {}
        """Why a group was dropped, or None if it was trained; a group without outcome is missing."""

    def observe_dispatched(self, number: int) -> None:
        """A group is on the log; groups may be told in any order, with repeats."""
        if self._position(number) is not None:
            return
        insort(self._numbers, number)
        if len(self._numbers) > self._size:
            self._outcomes.pop(self._numbers.pop(0), None)

    def observe_outcome(self, number: int, drop_reason: DropReason | None) -> None:
        """A group was trained (no reason) or dropped; the first outcome counts, and old groups do not."""
        if self._position(number) is not None:
            self._outcomes.setdefault(number, drop_reason)

    def longest_run(self, since: int) -> tuple[DropReason | None, int]:
        """The newest reason and the most groups in a row, all dropped for it, after which no other outcome came.

        Args:
            since: groups with smaller numbers do not count. Stale ones never do: they tell nothing of their source.
        """
        reason: DropReason | None = None
        longest = length = 0
        for number in self._numbers[bisect_left(self._numbers, since) :]:
            if number not in self._outcomes:
                length = 0
                continue
            outcome = self._outcomes[number]
            if outcome is DropReason.STALE:
                continue
            if outcome is not reason:
                reason, longest, length = outcome, 0, 0
            length += 1
            longest = max(longest, length)
        return (reason, longest) if reason is not None else (None, 0)

    def num_followed(self, since: int) -> int:
        """How many groups from a number on are followed by one that has an outcome, or have one."""
        decided = [number for number in self._outcomes if number >= since]
        return len(self._up_to(max(decided))) - bisect_left(self._numbers, since) if decided else 0

    def has_trained(self, since: int) -> bool:
        """Whether a group from a number on was trained."""
        return any(reason is None and number >= since for number, reason in self._outcomes.items())

    def drop_shares(self) -> Mapping[DropReason, float]:
        """Share of the groups that were dropped, by reason; of the groups up to the newest one with an outcome."""
        if not self._outcomes:
            return {}
        num_groups = len(self._up_to(max(self._outcomes)))
        counts = Counter(reason for reason in self._outcomes.values() if reason is not None)
        return {reason: count / num_groups for reason, count in counts.items()}

    def _up_to(self, number: int) -> list[int]:
        return self._numbers[: bisect_left(self._numbers, number + 1)]

    def _position(self, number: int) -> int | None:
        position = bisect_left(self._numbers, number)
        return position if self._numbers[position : position + 1] == [number] else None
