"""The records of the logs of a small run, its checkpoint and its store; tests change them and audit them."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

from kafka import KafkaProducer

from tristream.config.bus import BusSection
from tristream.config.run_file import RunFile
from tristream.runtime.archive.writer import ArchiveWriter
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.protocol import Record
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.batches import Commit
from tristream.wire.codecs.batches import commit_to_json
from tristream.wire.events import Ledger
from tristream.wire.topics import (
    ALL_TOPICS,
    COMMANDS,
    EPOCH_HEADER,
    FENCE_HEADER,
    OUTCOMES,
    POLICY,
    PROMPTS,
    STEPS,
    Topic,
    record_headers,
)

RUN = "honest"
NUM_STEPS, GROUPS_PER_STEP, GROUP_SIZE = 5, 3, 4
NUM_PARTITIONS, RECORDS_A_SYNC = 2, 40
OWNED = (PROMPTS, OUTCOMES, POLICY, STEPS, COMMANDS)
"""Topics of parts of which a run has one."""


@dataclass(slots=True, kw_only=True)
class Entry:
    """One record of a log, or a fence in some topics."""

    topic: Topic[Any]
    event: Any = None
    epoch: int | None = None
    is_fence: bool = False


@dataclass(slots=True, kw_only=True)
class RecordedRun:
    """The run as it is to be written; change it before that."""

    folder: RunFolder
    logs: list[list[Entry]] = field(default_factory=lambda: [[]])
    commit: Commit = field(default_factory=lambda: Commit(ledger=Ledger(step=0)))
    is_finished: bool = True

    @property
    def settings(self) -> RunFile:
        return RunFile.model_validate(
            {
                "run": {"id": RUN, "steps": NUM_STEPS, "output": str(self.folder.path.parent)},
                "model": {"path": "model"},
                "sources": [
                    {"name": "words", "train": "words.parquet", "eval": "held_out.parquet"},
                    {"name": "sums", "train": "sums.parquet"},
                ],
                "rollout": {"groups_per_step": GROUPS_PER_STEP, "group_size": GROUP_SIZE, "max_staleness": 1},
                "evaluation": {"every": 2},
            }
        )

    def add(self, topic: Topic[Any], event: Any, *, epoch: int | None = None) -> None:
        self.logs[-1].append(Entry(topic=topic, event=event, epoch=epoch))

    def fence(self, epoch: int, topics: Iterable[Topic[Any]] = OWNED) -> None:
        self.logs[-1] += [Entry(topic=topic, epoch=epoch, is_fence=True) for topic in topics]

    def find(self, topic: Topic[Any], matches: Callable[[Any], bool] = lambda _event: True) -> list[Entry]:
        """Records of a topic, on all logs."""
        found = [
            entry
            for log in self.logs
            for entry in log
            if entry.topic is topic and not entry.is_fence and matches(entry.event)
        ]
        assert found, "a change that changes nothing shows nothing"
        return found

    def change(self, topic: Topic[Any], matches: Callable[[Any], bool], **fields: Any) -> None:
        for entry in self.find(topic, matches):
            entry.event = replace(entry.event, **fields)

    def remove(self, topic: Topic[Any], matches: Callable[[Any], bool]) -> None:
        gone = {id(entry) for entry in self.find(topic, matches)}
        self.logs = [[entry for entry in log if id(entry) not in gone] for log in self.logs]

    def write(self) -> RunFolder:
        """Write the folder of the run, the archive of its logs in it."""
        folder = self.folder
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.run_file.write_text(self.settings.model_dump_json())
        if self.is_finished:
            folder.summary.write_text('{"steps": 5}')
        if self.commit.ledger.step:
            path = ledger_file(folder.checkpoint(self.commit.ledger.step))
            path.parent.mkdir(parents=True)
            path.write_text(commit_to_json(self.commit))
        for number, log in enumerate(self.logs):
            archive_log(folder.archive, f"log{number}", records_of(log))
        return folder


def records_of(log: Iterable[Entry]) -> list[Record[bytes]]:
    """The records of a log, as a broker keeps them."""
    ends: Counter[tuple[str, int]] = Counter()
    records: list[Record[bytes]] = []
    for entry in log:
        num_partitions = 1 if entry.topic.single_partition else NUM_PARTITIONS
        if entry.is_fence:
            key, value, headers = "fence", b"", {FENCE_HEADER: str(entry.epoch).encode()}
            partitions = range(num_partitions)
        else:
            key, value = entry.topic.key(entry.event), entry.topic.codec.encode(entry.event)
            headers = {name: text.encode() for name, text in record_headers(entry.topic, entry.event).items()}
            headers |= {} if entry.epoch is None else {EPOCH_HEADER: str(entry.epoch).encode()}
            partition = crc32(key.encode()) % num_partitions
            partitions = range(partition, partition + 1)
        for partition in partitions:
            place = (entry.topic.name, partition)
            records.append(
                Record(
                    topic=entry.topic.name,
                    partition=partition,
                    offset=ends[place],
                    key=key,
                    event=value,
                    headers=headers,
                    timestamp_ns=len(records),
                )
            )
            ends[place] += 1
    return records


def archive_log(archive: Path, log_id: str, records: Iterable[Record[bytes]]) -> None:
    """Keep records as the monitor does, a few at a time."""
    writer = ArchiveWriter(archive, log_id)
    for number, record in enumerate(records):
        writer.append(record)
        if number % RECORDS_A_SYNC == 0:
            writer.sync()
    writer.sync()
    writer.close()


def publish_log(run: RecordedRun, bus_section: BusSection) -> None:
    """Put the first log of a run on brokers, record by record, as it is."""
    bus = KafkaBus(run.settings.run.id, bus_section, "test")
    bus.create_topics()
    topics = {topic.name: topic for topic in ALL_TOPICS}
    producer = KafkaProducer(bootstrap_servers=bus_section.bootstrap_servers)
    for record in records_of(run.logs[0]):
        producer.send(
            bus.full_name(topics[record.topic]),
            value=record.event or None,
            key=record.key.encode(),
            headers=list(record.headers.items()),
            partition=record.partition,
        )
    producer.flush(20)
    producer.close()
    bus.close()
