"""Up to where all records of a partition are settled, whatever the order in which they were."""


class LowWater:
    """Which records of one partition are in hand.

    Example:
        >>> records = LowWater(5)
        >>> [records.take(offset) for offset in (5, 6, 7, 6)]
        [True, True, True, False]
        >>> records.settle(6), records.mark
        (True, 5)
        >>> records.settle(5), records.mark
        (True, 7)
    """

    __slots__ = ("_open", "next", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        """Every record below was settled before."""
        self.next = start
        """One more than the largest offset that was taken."""
        self._open: dict[int, None] = {}
        """Offsets in hand, the smallest one first: they are taken in ascending order."""

    def take(self, offset: int) -> bool:
        """Take a record into hand; False if it was taken before."""
        if offset < self.next:
            return False
        self._open[offset] = None
        self.next = offset + 1
        return True

    def settle(self, offset: int) -> bool:
        """Note that nothing is left to be done for a record; False if it is not in hand."""
        if offset not in self._open:
            return False
        del self._open[offset]
        return True

    @property
    def mark(self) -> int:
        """Every record below it is settled; what is at it or above is read again after a crash."""
        return next(iter(self._open), self.next)
