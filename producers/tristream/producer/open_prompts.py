"""Which prompts of the log are in work, and up to where everything is delivered, partition by partition.

    offsets      0   1   2   3   4   5   6
    delivered    x   x   -   x   -   x          next to be polled: 6, to be committed: 2

A prompt that is read again while it is in work, since its partition went away and came back, is not begun twice.
"""

from collections import defaultdict
from collections.abc import Mapping

from tristream.runtime.bus.protocol import Record
from tristream.wire.events import Prompt

Partition = tuple[str, int]


class OpenPrompts:
    """The prompts that were taken and are not delivered, by group id and by their places on the log."""

    def __init__(self) -> None:
        self._places: dict[str, list[tuple[Partition, int]]] = {}
        self._open: defaultdict[Partition, dict[int, str]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._places)

    def take(self, record: Record[Prompt]) -> bool:
        """Note that a prompt was read; says whether it is to be begun, as it is not in work already."""
        group_id, partition = record.event.group.id, (record.topic, record.partition)
        is_new = group_id not in self._places
        self._places.setdefault(group_id, []).append((partition, record.offset))
        self._open[partition][record.offset] = group_id
        return is_new

    def deliver(self, group_id: str) -> None:
        """Note that all rollouts of a prompt are on the log."""
        for partition, offset in self._places.pop(group_id, ()):
            if self._open[partition].get(offset) == group_id:
                del self._open[partition][offset]

    def handled(self, positions: Mapping[Partition, int]) -> dict[Partition, int]:
        """Offset of the first record that is not handled, of each partition that this reader has.

        Args:
            positions: offset of the next record to be polled, of these partitions; others are forgotten, as another
                member of the group reads them.
        """
        for gone in self._open.keys() - positions.keys():
            del self._open[gone]
        return {partition: min(self._open[partition], default=position) for partition, position in positions.items()}
