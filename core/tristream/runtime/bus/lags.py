"""How much the readers of a bus have not read yet."""

from collections import Counter
from collections.abc import Mapping


class ReaderLags:
    """What each open reader has not read yet, by topic; any thread may look."""

    def __init__(self) -> None:
        self._by_reader: dict[int, Mapping[str, int]] = {}

    def note(self, reader: object, lags: Mapping[str, int]) -> None:
        """Keep what a reader has not read."""
        self._by_reader[id(reader)] = lags

    def forget(self, reader: object) -> None:
        """A reader is closed."""
        self._by_reader.pop(id(reader), None)

    def total(self) -> Mapping[str, int]:
        """The records of all readers, by topic; of a topic that two of them read both lags count."""
        total: Counter[str] = Counter()
        for lags in list(self._by_reader.values()):
            total.update(lags)
        return dict(total)
