"""The sink: every event of a run into ClickHouse, in batches, with each identity once.

    reader --poll--> rows by table --(flush_seconds or MAX_ROWS)--> insert --(pace)--> close --> commit

    waits for            unblocked by
    -------------------  ------------------------------------------------
    records              the bus; the sink sleeps between polls to stay cheap
    ClickHouse           an insert that succeeds (``writer``); nothing is polled meanwhile

The commit follows the insert and the closing, so a killed sink reads a batch again, the tables keep one row per
identity, and what it touched is closed again. Of two records of one identity the first on the log stays, whichever
process wrote it; one on a later log outranks it, because a resumed run may stand on a new, empty log. A record that
does not become a row goes to the dead letter topic with the reason.
"""

import base64
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tristream.monitoring.store.client import Client
from tristream.monitoring.store.closing import Closing
from tristream.monitoring.store.pace import Pace
from tristream.monitoring.store.run_facts import read_log_position
from tristream.monitoring.store.tables import STATUS_MINUTES, TABLES, Row
from tristream.monitoring.store.touched import Touched
from tristream.monitoring.store.writer import UNFIT, Writer
from tristream.runtime.archive.writer import ArchiveWriter
from tristream.runtime.bus.protocol import Bus, BusError, Record
from tristream.runtime.retry import retry
from tristream.wire.events import PartStatus, Prompt, Rollout
from tristream.wire.topics import ALL_TOPICS, DEAD_LETTERS, PARTS, PROMPTS, ROLLOUTS, STEPS

LOG = logging.getLogger("tristream.monitor")

READER_GROUP = "monitor"

MAX_ROWS = 20_000
"""Rows in memory that are written at once, however short the wait was."""

POLL_RECORDS = 2_000

RANK_BITS = 48
"""Of a rank, for the offset; above them is the position of the log."""

MAX_KNOWN_IMAGES = 100_000
"""Checksums kept of images that are written already."""

STEPS_SHARE = 0.1
"""So much of a core, at most, goes into closing steps: the database plans for a fifth of a second, for however few."""
OTHERS_SHARE = 0.05
"""So much, at most, into closing the rest."""

UNWATCHED_SECONDS = 5.0
"""So long, at most, a record waits before it is written while nobody looks: few large inserts and closings cost the
database less than many small ones."""

COMMIT_SECONDS = 5.0
"""So often, about, all that is left is closed at once, and what was read is committed."""

DRAIN_SECONDS = 20.0
"""At the stop, a log that gives nothing for so long is not read to its end."""


class Sink:
    """Moves records from the bus into ClickHouse; used by one thread.

    Args:
        bus: the run's bus.
        client: an open database with its tables; this thread's own.
        flush_seconds: longest time a record waits before it is archived, and, while somebody looks, written.
        is_watched: whether somebody looks. What nobody looks at is written within ``UNWATCHED_SECONDS``, and closed
            when it is committed.
        report: told again and again what is waited for; empty while writing works.
        stop: the part is told to stop.
        archive: keeps every record as it is, before it is written and committed.
    """

    def __init__(
        self,
        bus: Bus,
        client: Client,
        *,
        flush_seconds: float,
        is_watched: Callable[[], bool] = lambda: True,
        report: Callable[[str], None] = lambda _waiting_for: None,
        stop: threading.Event | None = None,
        archive: ArchiveWriter | None = None,
    ) -> None:
        self._bus = bus
        self._archive = archive
        self._stop = stop or threading.Event()
        self._writer = Writer(client, bus.run, report=report, pause=self._stay_in_group, stop=self._stop)
        self._flush_seconds = flush_seconds
        self._is_watched = is_watched
        self._report = report
        self._reader = bus.reader(
            ALL_TOPICS, group=READER_GROUP, tap=archive.append if archive else None, is_patient=True
        )
        self._records: list[Record[Any]] = []
        self._oldest_time = self._archived_time = 0.0
        self._log_id = bus.log_id()
        self._log_position: int | None = None
        self._closing: Closing | None = None
        self._touched = Touched()
        self._is_committed = True
        self._steps_pace, self._others_pace = Pace(STEPS_SHARE), Pace(OTHERS_SHARE)
        self._commit_pace = Pace(OTHERS_SHARE, COMMIT_SECONDS)
        self._known_images: set[str] = set()
        self._dead_lettered = False
        self.num_events = 0
        """Records written by this process."""

    def run(self) -> None:
        """Write until told to stop; then write all that was published before, and return.

        Raises:
            BusError: the end of the log could not be reached at the stop.
            TryAgainError: the database takes nothing at the stop; what is missing is read again at the next start.
        """
        while not self._stop.is_set():
            if self.step() < POLL_RECORDS:
                self._stop.wait(min(0.5, self._flush_seconds / 2))
        self.drain()

    def step(self) -> int:
        """Poll once, write if it is time, and return how many records came."""
        records = self._reader.poll(timeout_seconds=0.1, max_records=POLL_RECORDS)
        if records and not self._records:
            self._oldest_time = time.monotonic()
        self._records.extend(records)
        if self._records and self._is_time_to_write(records):
            self.flush()
        elif not self._records:  # a commit covers all that was polled
            self._close(is_last=False)
        elif time.monotonic() - self._archived_time >= self._flush_seconds:
            self._sync_archive()
        self._report("")
        return len(records)

    def _is_time_to_write(self, newest: Sequence[Record[Any]]) -> bool:
        if len(self._records) >= MAX_ROWS:
            return True
        waited_seconds = time.monotonic() - self._oldest_time
        if not self._is_watched():
            return waited_seconds >= max(self._flush_seconds, UNWATCHED_SECONDS)
        is_step_done = self._steps_pace.is_due and any(record.topic == STEPS.name for record in newest)
        return is_step_done or waited_seconds >= self._flush_seconds

    def drain(self) -> None:
        """Write everything that was published before this call.

        Raises:
            BusError: the end of the log could not be reached.
        """
        try:
            deadline = time.monotonic() + DRAIN_SECONDS
            while not self._reader.positions():  # a member has none before it has joined its group
                deadline = self._step_before(deadline)
            mark = self._reader.mark_end()
            while not self._reader.has_passed(mark):
                deadline = self._step_before(deadline)
        finally:
            self.flush(is_last=True)

    def _step_before(self, deadline: float) -> float:
        """Poll once and write if it is time; returns the new deadline, which moves on while records come."""
        if self.step():
            return time.monotonic() + DRAIN_SECONDS
        if time.monotonic() > deadline:
            raise BusError(f"the end of the log was not reached in {DRAIN_SECONDS:.0f} s")
        return deadline

    def flush(self, *, is_last: bool = False) -> None:
        """Write what was polled; then, if it is time, close what was touched and commit.

        Args:
            is_last: it is time.

        Raises:
            StoppedError: told to stop while the archive had no room.
        """
        self._sync_archive()
        if self._records:
            self._write_records()
            self._touched.add(self._records)
            self._is_committed = False
        self.num_events += len(self._records)
        self._records = []
        self._close(is_last=is_last)

    def _sync_archive(self) -> None:
        if self._archive is not None:
            retry(self._archive.sync, errors=(OSError,), say=self._say_archive_is_full, stop=self._stop)
        self._archived_time = time.monotonic()

    def _write_records(self) -> None:
        by_table: dict[str, list[Record[Any]]] = defaultdict(list)
        for record in self._records:
            by_table[record.topic].append(record)
        for topic, records in by_table.items():
            table = TABLES[topic]
            rows, kept = self._make_rows(topic, records)
            for refusal in self._writer.write(table.name, table.column_names, rows):
                self._give_up(kept[refusal.position], refusal.reason)
        self._insert_images([*by_table[PROMPTS.name], *by_table[ROLLOUTS.name]])
        self._insert_status_minutes(by_table[PARTS.name])

    def _close(self, *, is_last: bool) -> None:
        """Close what was touched, steps and the rest each as often as its share allows; commit when all is closed.

        While nobody looks, nothing is closed before it is time for all of it.
        """
        if self._is_committed and not is_last:
            return
        if self._closing is None:
            self._closing = Closing(self._writer, self._bus.run)
            self._closing.add_outdated(self._touched)
        if is_last or self._commit_pace.is_due:
            with self._commit_pace.counts():
                self._close_if(self._closing, steps=True, others=True)
        elif self._is_watched():
            self._close_if(self._closing, steps=self._steps_pace.is_due, others=self._others_pace.is_due)
        if not self._touched.has_steps and not self._touched.has_others:
            self._commit()

    def _close_if(self, closing: Closing, *, steps: bool, others: bool) -> None:
        if steps and self._touched.has_steps:
            with self._steps_pace.counts():
                closing.close_steps(self._touched)
        if others and self._touched.has_others:
            with self._others_pace.counts():
                closing.close_others(self._touched)

    def _commit(self) -> None:
        if self._dead_lettered:
            self._bus.flush()
            self._dead_lettered = False
        if not self._is_committed:
            self._reader.commit()
            self._is_committed = True

    def close(self) -> None:
        """Leave the reader group."""
        self._reader.close()
        if self._archive is not None:
            self._archive.close()

    def _make_rows(self, topic: str, records: Sequence[Record[Any]]) -> tuple[list[Row], list[Record[Any]]]:
        if self._log_position is None:
            self._log_position = read_log_position(self._writer, self._bus.run, self._log_id)
        first_rank = ((self._log_position + 1) << RANK_BITS) - 1
        rows: list[Row] = []
        kept: list[Record[Any]] = []
        for record in records:
            rank = first_rank - record.offset
            try:
                rows.append(TABLES[topic].to_row(record.event, rank))
                kept.append(record)
            except UNFIT as error:
                self._give_up(record, str(error))
        return rows, kept

    def _insert_images(self, records: Sequence[Record[Prompt] | Record[Rollout]]) -> None:
        rows: dict[str, dict[str, str]] = {}
        for record in records:
            for image in record.event.images:
                if image.sha256 not in self._known_images and image.sha256 not in rows:
                    rows[image.sha256] = {
                        "run": record.event.group.run,
                        "sha256": image.sha256,
                        "media_type": image.media_type,
                        "uri": image.uri,
                        "data_base64": base64.b64encode(image.data).decode(),
                    }
        if rows:
            values = [tuple(row.values()) for row in rows.values()]
            for refusal in self._writer.write("images", tuple(next(iter(rows.values()))), values):
                LOG.error("image %s does not fit its table: %s", values[refusal.position][1], refusal.reason)
        if len(self._known_images) > MAX_KNOWN_IMAGES:
            self._known_images.clear()  # one that comes again is written again, and counts once
        self._known_images.update(rows)

    def _insert_status_minutes(self, records: Sequence[Record[PartStatus]]) -> None:
        rows = [STATUS_MINUTES.to_row(record.event, record.offset) for record in records]
        if rows:
            for refusal in self._writer.write(STATUS_MINUTES.name, STATUS_MINUTES.column_names, rows):
                LOG.error("a status does not fit its table: %s", refusal.reason)

    def _say_archive_is_full(self, error: str) -> None:
        self._report(f"room for the archive ({error})")

    def _stay_in_group(self) -> None:
        """Keep the place in the reader group without taking records."""
        self._reader.pause()
        self._reader.poll(0.0)
        self._reader.resume()

    def _give_up(self, record: Record[Any], reason: str) -> None:
        """Send a record to the dead letter topic, unless it came from there."""
        if record.topic == DEAD_LETTERS.name:
            LOG.error("dead letter at offset %d does not fit its table: %s", record.offset, reason)
            return
        raw = Record(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            event=_encode_again(record),
            headers=record.headers,
        )
        self._bus.dead_letter(raw, f"does not fit its table: {reason}")
        self._dead_lettered = True


def _encode_again(record: Record[Any]) -> bytes:
    """The value of a record; empty if what was read cannot be written."""
    topic = next(topic for topic in ALL_TOPICS if topic.name == record.topic)
    try:
        return topic.codec.encode(record.event)
    except UNFIT:
        return b""
