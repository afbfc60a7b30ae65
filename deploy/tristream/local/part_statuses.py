"""What the processes of a run say of themselves: the newest status of each, followed on its topic."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Reader
from tristream.wire.events import Part, PartState, PartStatus
from tristream.wire.topics import PARTS

SILENT_SECONDS = 60.0
"""A process that has told nothing for so long is not counted beside a newer one of its part."""
MAX_RECORDS = 5000

Statuses = Mapping[Part, Sequence[PartStatus]]
"""By part: its processes, oldest first, at least one; a part of which none has said a word is missing."""


class PartStatuses:
    """Follows the topic of the statuses; used by one thread.

    Args:
        reader: reads the topic ``PARTS`` alone.
        since_ns: statuses of before are those of an earlier start of the run, and are ignored.
    """

    def __init__(self, reader: Reader, *, since_ns: int) -> None:
        self._reader = reader
        self._since_ns = since_ns
        self._by_instance: dict[tuple[Part, str], PartStatus] = {}
        self._died_ns: dict[tuple[Part, str], int] = {}

    def update(self) -> None:
        """Take in what was told since the last call.

        Raises:
            UserError: the log was begun under another contract.
        """
        while records := self._reader.poll(0.0, max_records=MAX_RECORDS):
            for record in records:
                status: PartStatus = record.event
                key = (status.part, status.instance)
                if status.created_ns >= self._since_ns and status.started_ns >= self._died_ns.get(key, 0):
                    self._by_instance[key] = status

    def forget(self, part: Part, instance: str) -> None:
        """A process has died; what it still told just before is not taken in."""
        self._died_ns[part, instance] = time.time_ns()
        self._by_instance.pop((part, instance), None)

    def newest(self, part: Part) -> PartStatus | None:
        """The status of the process that was started last, or None if there is none."""
        return max(self._of(part), key=lambda status: status.started_ns, default=None)

    def by_part(self) -> Statuses:
        """The processes of each part: the one that was started last, and all others that are at work."""
        return {part: instances for part in Part if (instances := self._instances(part))}

    def _instances(self, part: Part) -> list[PartStatus]:
        newest = self.newest(part)
        heard_ns = time.time_ns() - int(SILENT_SECONDS * 1e9)
        instances = [
            status
            for status in self._of(part)
            if status is newest or (status.state is not PartState.DONE and status.created_ns >= heard_ns)
        ]
        return sorted(instances, key=lambda status: status.started_ns)

    def _of(self, part: Part) -> list[PartStatus]:
        return [status for status in self._by_instance.values() if status.part is part]


@contextmanager
def follow_statuses(run_file: RunFile) -> Iterator[PartStatuses]:
    """Create the topics of a run and follow what its parts tell from now on.

    Raises:
        UserError: no broker answers.
    """
    since_ns = time.time_ns()
    bus = KafkaBus(run_file.run.id, run_file.bus, "up")
    try:
        bus.create_topics()
        reader = bus.reader([PARTS])
        try:
            yield PartStatuses(reader, since_ns=since_ns)
        finally:
            reader.close()
    finally:
        bus.close()
