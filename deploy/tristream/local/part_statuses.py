"""What the processes of a run say of themselves: the newest status of each, followed on its topic.

Every part says something each second, so a topic that is silent while parts of this machine still write their status
files means that the broker does not answer.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from tristream.config.run_file import RunFile
from tristream.local.status_files import BROKER_PREFIX
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Reader
from tristream.wire.events import Command, Part, PartState, PartStatus
from tristream.wire.topics import COMMANDS, PARTS

SILENT_SECONDS = 60.0
"""A process that has told nothing for so long is not counted beside a newer one of its part."""
MAX_RECORDS = 5000
QUIET_SECONDS = 8.0
"""A topic on which nothing came for so long, while parts are at work, is one of a broker that does not answer."""
FRESH_SECONDS = 5.0
"""A status file that is not older is one of a process that lives."""

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
        self._heard = time.monotonic()

    def update(self) -> None:
        """Take in what was told since the last call.

        Raises:
            UserError: the log was begun under another contract.
        """
        while records := self._reader.poll(0.0, max_records=MAX_RECORDS):
            self._heard = time.monotonic()
            for record in records:
                self._take(record.event)

    def find_silence(self, files: Callable[[], Sequence[PartStatus]]) -> float:
        """For how many seconds the broker has not answered, as far as is known here; 0 if it does.

        What the parts of this machine wrote into their files is taken in, while nothing comes over the bus.

        Args:
            files: reads the status files.
        """
        quiet_seconds = time.monotonic() - self._heard
        if quiet_seconds < QUIET_SECONDS:
            return 0.0
        fresh_ns = time.time_ns() - int(FRESH_SECONDS * 1e9)
        fresh = [status for status in files() if status.created_ns >= fresh_ns]
        for status in fresh:
            known = self._by_instance.get((status.part, status.instance), status)
            self._take(replace(status, started_ns=known.started_ns, since_ns=known.since_ns))
        is_known = bool(self._by_instance) or any(status.waiting_for.startswith(BROKER_PREFIX) for status in fresh)
        return quiet_seconds if is_known else 0.0

    def _take(self, status: PartStatus) -> None:
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
def follow_run(
    run_file: RunFile, commands: Sequence[Command], *, say: Callable[[str], None], stop: threading.Event
) -> Iterator[tuple[PartStatuses, Reader]]:
    """Create the topics of a run, give commands, and follow what its parts tell from now on, and all its commands.

    Args:
        run_file: the run.
        commands: are on the log before this returns.
        say: told what is waited for while the broker does not answer.
        stop: ends the waiting for the broker.

    Raises:
        StoppedError: told to stop while the broker does not answer.
    """
    since_ns = time.time_ns()
    bus = KafkaBus(run_file.run.id, run_file.bus, "up", stop=stop, say=say)
    try:
        bus.create_topics()
        for command in commands:
            bus.publish(COMMANDS, command)
        bus.flush()
        reader, given = bus.reader([PARTS], is_patient=True), bus.reader([COMMANDS], is_patient=True)
        try:
            yield PartStatuses(reader, since_ns=since_ns), given
        finally:
            reader.close()
            given.close()
    finally:
        bus.close()
