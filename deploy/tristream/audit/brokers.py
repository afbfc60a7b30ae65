"""Reading the log of a run on its brokers, without dead letters, and not for ever if they do not answer.

The end of a topic is found by a barrier, a record without a value; all else is left as it is.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.admin import KafkaAdminClient

from tristream.audit.log_facts import LogFacts
from tristream.audit.reading import read_bus
from tristream.config.run_file import RunFile
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.kafka_clients import close_in_background, connect, insist
from tristream.runtime.bus.protocol import BusError, Record
from tristream.runtime.errors import StoppedError, UserError
from tristream.wire.topics import PROMPTS

LOOK_SECONDS = 0.5
MOST_SILENT_SECONDS = 30.0
"""Brokers from which nothing comes for so long do not answer."""


class ReadOnlyKafkaBus(KafkaBus):
    """The brokers of a run, for readers that publish no dead letters."""

    def __init__(self, settings: RunFile, facts: LogFacts, stop: threading.Event) -> None:
        super().__init__(settings.run.id, settings.bus, "audit", stop=stop)
        self._facts = facts

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """A record is void, or cannot be decoded."""
        self._facts.refuse(record, error)

    def has_log(self) -> bool:
        """Whether the brokers have the topics of the run; asking makes none."""
        admin = connect(KafkaAdminClient, self.settings, self.patience, client_id=f"{self.client_id}-admin")
        try:
            return self.full_name(PROMPTS) in insist(self.patience, admin.list_topics)
        finally:
            close_in_background(admin)


def read_brokers(settings: RunFile, facts: LogFacts) -> None:
    """Read the log of a run to its end; brokers that have none leave the facts empty.

    Raises:
        UserError: no brokers are named, or the log was begun under another contract.
        BusError: they do not answer.
    """
    if not settings.bus.bootstrap_servers:
        raise UserError(
            "there is neither an archive of the log nor a broker to read it from",
            where=str(settings.run.folder),
            remedy="give the folder of a run that `tristream up` ran, or --run with [bus] bootstrap_servers",
        )
    silence = _Silence(MOST_SILENT_SECONDS)
    try:
        with silence.ends_reading():
            bus = ReadOnlyKafkaBus(settings, facts, silence.stop)
            try:
                if bus.has_log():
                    read_bus(bus, facts, silence.note)
            finally:
                bus.close()
    except StoppedError:
        raise BusError(f"the brokers at {settings.bus.bootstrap_servers} do not answer") from None


class _Silence:
    """Stops a reader to which nothing came for too long."""

    def __init__(self, most_seconds: float) -> None:
        self._most_seconds = most_seconds
        self._heard = time.monotonic()
        self.stop = threading.Event()

    def note(self, _record: Record[bytes]) -> None:
        """Something came."""
        self._heard = time.monotonic()

    @contextmanager
    def ends_reading(self) -> Iterator[None]:
        """Watch while the block runs."""
        is_over = threading.Event()

        def watch() -> None:
            while not is_over.wait(LOOK_SECONDS):
                if time.monotonic() - self._heard > self._most_seconds:
                    self.stop.set()

        watcher = threading.Thread(target=watch, name="audit-silence", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            is_over.set()
            watcher.join()
