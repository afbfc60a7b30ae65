"""Reading the log of a run for its audit, in the archive of its folder or on any bus."""

from collections.abc import Callable
from contextlib import closing
from typing import Any

from tristream.assembler.decoding import REWARD_FACTS, ROLLOUT_FACTS
from tristream.audit.findings import Check
from tristream.audit.log_facts import LogFacts
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Ledger
from tristream.wire.topics import ALL_TOPICS, COMMANDS, DEAD_LETTERS, OUTCOMES, POLICY, PROMPTS, STEPS, Topic

EFFECTS: tuple[Topic[Any], ...] = (OUTCOMES, STEPS, COMMANDS, DEAD_LETTERS)
"""Read before their causes."""
CAUSES: tuple[tuple[Topic[Any], ...], ...] = ((PROMPTS,), (ROLLOUT_FACTS, REWARD_FACTS))
COMPACTED = frozenset(topic.name for topic in ALL_TOPICS if topic.compacted)
MOST_NAMED = 5
"""Gaps of the archive that are named."""


class Gaps:
    """Finds offsets that an archive lacks, among the records that it is shown; used as a tap."""

    def __init__(self) -> None:
        self._next: dict[tuple[str, int], int] = {}
        self.num_records = 0
        self._lines: list[str] = []
        self._num_more = 0

    def observe(self, record: Record[bytes]) -> None:
        """Take a record as it is; a compacted topic may have gaps before it is archived."""
        self.num_records += 1
        if record.topic in COMPACTED:
            return
        key = (record.topic, record.partition)
        expected = self._next.get(key, 0)
        if record.offset > expected:
            if len(self._lines) < MOST_NAMED:
                name = f"{record.topic} partition {record.partition}"
                self._lines.append(f"{name}: offsets {expected}-{record.offset - 1} are not in the archive")
            else:
                self._num_more += 1
        self._next[key] = record.offset + 1

    def begin_log(self) -> None:
        """Offsets begin anew."""
        self._next.clear()

    def check(self) -> Check:
        """What is missing."""
        more = [f"{self._num_more} more gaps"] if self._num_more else []
        return Check(name="archive without gaps", num_checked=self.num_records, findings=(*self._lines, *more))


def read_archive(archive: ArchiveBus, facts: LogFacts) -> Check:
    """Read every log of an archive, in the order in which they were begun.

    Raises:
        UserError: a log was begun under another contract.
    """
    gaps = Gaps()
    for number, log_id in enumerate(archive.log_ids):
        log = archive.on_log(log_id)
        if number > 0:
            facts.begin_log(first_ledger(log))
            gaps.begin_log()
        read_bus(log, facts, gaps.observe)
    return gaps.check()


def first_ledger(log: ArchiveBus) -> Ledger | None:
    """The ledger from which a run went on, when it went on with this log."""
    for record in log.reader([POLICY]).read_to_end():
        ledger: Ledger = record.event.durable
        return ledger
    return None


def open_archive(folder: RunFolder, run: str, facts: LogFacts) -> ArchiveBus | None:
    """The archive of a run, if its folder has one."""
    archive = ArchiveBus(folder.archive, run, give_up=facts.refuse)
    return archive if archive.log_ids else None


def read_bus(bus: Bus, facts: LogFacts, tap: Callable[[Record[bytes]], None]) -> None:
    """Read one log to its end.

    Raises:
        UserError: it was begun under another contract.
        BusError: its end was not reached.
    """
    for topics in ((POLICY,), EFFECTS, *CAUSES):
        with closing(bus.reader(topics, tap=tap)) as reader:
            for record in reader.read_to_end():
                facts.observe(record)
