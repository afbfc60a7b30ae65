"""The sink: every event of a run into ClickHouse, in batches, with each identity once.

    reader --poll--> rows by table --(flush_seconds or MAX_ROWS)--> insert --> commit

    waits for            unblocked by
    -------------------  ------------------------------------------------
    records              the bus; the sink sleeps between polls to stay cheap
    ClickHouse           an insert that succeeds; nothing is polled meanwhile

The commit follows the insert, so a killed sink reads a batch again, and the tables keep one row per
identity. A record whose values do not fit its columns goes to the dead letter topic with the reason.
"""

import base64
import logging
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from tristream.config.sources import SourceSection
from tristream.monitoring.store.clickhouse import INSERT_SETTINGS
from tristream.monitoring.store.client import Client
from tristream.monitoring.store.tables import TABLES, Row
from tristream.runtime.bus.protocol import Bus, Record
from tristream.wire.events import Prompt, Rollout
from tristream.wire.topics import ALL_TOPICS, DEAD_LETTERS, PROMPTS, ROLLOUTS

LOG = logging.getLogger("tristream.monitor")

READER_GROUP = "monitor"

MAX_ROWS = 20_000
"""Rows in memory that are written at once, however short the wait was."""

POLL_RECORDS = 2_000

_UNFIT = (TypeError, ValueError, OverflowError, struct.error)
"""What encoding a row raises before anything is sent; UnicodeEncodeError is a ValueError."""


def write_sources(client: Client, run: str, sources: Sequence[SourceSection]) -> None:
    """Keep what the run file says of each source, for the views."""
    now_ns = time.time_ns()
    rows = [
        {
            "run": run,
            "source": source.name,
            "position": position,
            "metric": source.metric,
            "weight": source.weight,
            "created": now_ns,
            "rank": now_ns,
        }
        for position, source in enumerate(sources)
    ]
    values = [tuple(row.values()) for row in rows]
    client.insert("sources", values, column_names=tuple(rows[0]), settings=INSERT_SETTINGS)


class Sink:
    """Moves records from the bus into ClickHouse; used by one thread.

    Args:
        bus: the run's bus.
        client: an open database with its tables; this thread's own.
        flush_seconds: longest time a record waits before it is written.
        report: told again and again what is waited for; empty while writing works.
    """

    def __init__(
        self,
        bus: Bus,
        client: Client,
        *,
        flush_seconds: float,
        report: Callable[[str], None] = lambda _waiting_for: None,
    ) -> None:
        self._bus = bus
        self._client = client
        self._flush_seconds = flush_seconds
        self._report = report
        self._reader = bus.reader(ALL_TOPICS, group=READER_GROUP)
        self._records: list[Record[Any]] = []
        self._oldest_time = 0.0
        # A later session outranks an earlier one, because a resumed run may stand on a new, empty log.
        self._session = int(time.time()) << 32
        self._known_images: set[str] = set()
        self._dead_lettered = False
        self.num_events = 0
        """Records written by this process."""

    def run(self, stop: threading.Event) -> None:
        """Write until told to stop; then write all that was published before, and return.

        Raises:
            BusError: the end of the log could not be reached at the stop.
        """
        while not stop.is_set():
            if self.step() < POLL_RECORDS:
                stop.wait(min(0.5, self._flush_seconds / 2))
        self.drain()

    def step(self) -> int:
        """Poll once, write if it is time, and return how many records came."""
        records = self._reader.poll(timeout_seconds=0.1, max_records=POLL_RECORDS)
        self._take(records)
        waited_seconds = time.monotonic() - self._oldest_time
        if self._records and (waited_seconds >= self._flush_seconds or len(self._records) >= MAX_ROWS):
            self.flush()
        self._report("")
        return len(records)

    def drain(self) -> None:
        """Write everything that was published before this call.

        Raises:
            BusError: the end of the log could not be reached.
        """
        try:
            self._take(self._reader.read_to_end())
        finally:
            self.flush()

    def flush(self) -> None:
        """Write what was polled, then commit it."""
        by_table: dict[str, list[Record[Any]]] = defaultdict(list)
        for record in self._records:
            by_table[record.topic].append(record)
        for topic, records in by_table.items():
            table = TABLES[topic]
            rows, kept = self._make_rows(topic, records)
            self._insert(table.name, table.column_names, rows, kept)
        self._insert_images([*by_table[PROMPTS.name], *by_table[ROLLOUTS.name]])
        if self._dead_lettered:
            self._bus.flush()
            self._dead_lettered = False
        if self._records:
            self._reader.commit()
        self.num_events += len(self._records)
        self._records = []

    def close(self) -> None:
        """Leave the reader group."""
        self._reader.close()

    def _take(self, records: Sequence[Record[Any]]) -> None:
        if records and not self._records:
            self._oldest_time = time.monotonic()
        self._records.extend(records)

    def _make_rows(self, topic: str, records: Sequence[Record[Any]]) -> tuple[list[Row], list[Record[Any]]]:
        rows: list[Row] = []
        kept: list[Record[Any]] = []
        for record in records:
            rank = self._session | (0xFFFF_FFFF - min(record.offset, 0xFFFF_FFFF))
            try:
                rows.append(TABLES[topic].to_row(record.event, rank))
                kept.append(record)
            except _UNFIT as error:
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
            self._insert("images", tuple(next(iter(rows.values()))), values)
        self._known_images.update(rows)

    def _insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Row], records: Sequence[Record[Any]] = ()
    ) -> None:
        """Insert rows; when some do not fit, halve until those are alone."""
        if not rows:
            return
        try:
            self._insert_when_possible(table, columns, rows)
        except _UNFIT as error:
            if len(rows) == 1:
                if records:
                    self._give_up(records[0], str(error))
                return
            middle = len(rows) // 2
            self._insert(table, columns, rows[:middle], records[:middle])
            self._insert(table, columns, rows[middle:], records[middle:])

    def _insert_when_possible(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Insert; a server that cannot be reached is waited for without end."""
        from clickhouse_connect.driver.exceptions import DataError, OperationalError

        waited = False
        while True:
            try:
                self._client.insert(table, rows, column_names=columns, settings=INSERT_SETTINGS)
                break
            except DataError as error:
                raise ValueError(str(error)) from error
            except OperationalError as error:
                if not waited:
                    LOG.warning("insert into %s failed, trying again: %s", table, error)
                waited = True
                self._report("ClickHouse to take inserts")
                time.sleep(1.0)

    def _give_up(self, record: Record[Any], reason: str) -> None:
        """Send a record to the dead letter topic, unless it came from there."""
        if record.topic == DEAD_LETTERS.name:
            LOG.error("dead letter at offset %d does not fit its table: %s", record.offset, reason)
            return
        topic = next(topic for topic in ALL_TOPICS if topic.name == record.topic)
        raw = Record(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            event=topic.codec.encode(record.event),
            headers=record.headers,
        )
        self._bus.dead_letter(raw, f"does not fit its table: {reason}")
        self._dead_lettered = True
