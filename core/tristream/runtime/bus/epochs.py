"""Which epoch a partition belongs to, and which records are void for that, as every reader sees it.

- A fence hands its partition over to its epoch. A record of another epoch, earlier or later, is void after it: a
  record alone takes nothing over.
- Where the fence lies before what is read, the greatest epoch of the records counts until a fence comes.
- Epochs grow by one with each process. One that is far from those before is taken for a stray: its records are void,
  and its fence counts once a record of the same epoch follows.
- A topic with a single writer, once it belongs to an epoch, has no records without one.
- A record whose epoch is no number is void everywhere.

Who may write a topic can forge all of this; keeping others out is for the access lists of the broker.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tristream.runtime.bus.protocol import Record
from tristream.wire.topics import BARRIER_HEADER, EPOCH_HEADER, FENCE_HEADER, Topic

LOOK_BACK_RECORDS = 200
"""Records before the place where a reader begins that tell it which epoch has taken over by then."""
MOST_JUMP = 1000
"""Epochs that are farther apart do not follow one another."""
MAX_EPOCH_DIGITS = 16

LookBack = Callable[[str, int, int], Iterable[Record[bytes]]]
"""The records of a topic and a partition just before an offset."""


class Epochs:
    """Knows the epoch of each partition, among the records that a reader sees in order."""

    def __init__(self, look_back: LookBack) -> None:
        self._partitions: dict[tuple[str, int], _Partition] = {}
        self._look_back = look_back

    def find_void(self, topic: Topic[Any], record: Record[bytes]) -> str | None:
        """Take a record or a fence of a topic; says why it is void, if it is."""
        key = (record.topic, record.partition)
        partition = self._partitions.get(key)
        if partition is None:
            if not (topic.single_writer or EPOCH_HEADER in record.headers or FENCE_HEADER in record.headers):
                return None
            partition = self._partitions[key] = _Partition(has_single_writer=topic.single_writer)
            for before in self._look_back(*key, record.offset) if record.offset > 0 else ():
                partition.find_void(before)
        return partition.find_void(record)

    def forget(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Know nothing of partitions that another reader of the group reads for a while."""
        for key in partitions:
            self._partitions.pop(key, None)


@dataclass(slots=True, kw_only=True)
class _Partition:
    """What is known of one partition."""

    has_single_writer: bool
    newest: int | None = None
    is_fenced: bool = False
    """Whether the newest epoch is that of a fence, and not only of records."""
    distant: int | None = None
    """Epoch of a fence that is far beyond all before."""

    def find_void(self, record: Record[bytes]) -> str | None:
        """Take the next record or fence; says why it is void, if it is."""
        header = record.headers.get(FENCE_HEADER)
        if header is not None:
            epoch = _to_epoch(header)
            return f"void: {_show(header)} is no epoch" if epoch is None else self._take_fence(epoch)
        header = record.headers.get(EPOCH_HEADER)
        if header is not None:
            epoch = _to_epoch(header)
            return f"void: {_show(header)} is no epoch" if epoch is None else self._take_record(epoch)
        if self.newest is not None and self.has_single_writer and BARRIER_HEADER not in record.headers:
            return f"void: written without an epoch, and epoch {self.newest} has taken over"
        return None

    def _take_fence(self, epoch: int) -> str | None:
        if self._follows(epoch, 0 if self.newest is None else self.newest):
            self.newest, self.is_fenced = epoch, True
            return None
        if self.newest is None or epoch > self.newest:
            self.distant = epoch
            return None
        return f"void: a fence of epoch {epoch}, and epoch {self.newest} has taken over"

    def _take_record(self, epoch: int) -> str | None:
        if epoch == self.distant:
            self.newest, self.is_fenced, self.distant = epoch, True, None
        if self.newest is None or (not self.is_fenced and self._follows(epoch, self.newest)):
            self.newest = epoch
        if epoch == self.newest:
            return None
        if epoch < self.newest:
            return f"void: written under epoch {epoch}, and epoch {self.newest} has taken over"
        return f"void: written under epoch {epoch}, which has not taken over from epoch {self.newest}"

    def _follows(self, epoch: int, newest: int) -> bool:
        is_stray = not self.is_fenced and newest > epoch + MOST_JUMP
        return newest <= epoch <= newest + MOST_JUMP or is_stray


def _to_epoch(header: bytes) -> int | None:
    return int(header) if header.isdigit() and len(header) <= MAX_EPOCH_DIGITS else None


def _show(header: bytes) -> str:
    return repr(header[:40].decode(errors="replace"))
