"""A conversation with a run over its log: what was commanded so far, a request, and the dispatcher's answer to it."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.runtime.bus.protocol import Bus, Reader, Record
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import Command, PartStatus
from tristream.wire.identities import answered_id
from tristream.wire.topics import COMMANDS, EPOCH_HEADER, PARTS

PATIENCE_SECONDS = 20.0
"""How long the broker may take to answer at all."""
ANSWER_SECONDS = 10.0
"""How long the dispatcher may take to answer a request."""


def load_run(place: Path, overrides: Sequence[str] = ()) -> RunFile:
    """The run that a run file or a folder means, with the brokers on which it is.

    Args:
        place: a run file (TOML), its resolved JSON, or the folder of a run.
        overrides: ``key=value`` strings laid over it.

    Raises:
        UserError: it cannot be read, or nobody says on which brokers the run is.
    """
    settings = load_run_file(RunFolder(place).run_file if place.is_dir() else place, overrides)
    started = settings.run.folder.run_file
    if not settings.bus.bootstrap_servers and started.exists():
        bus = load_run_file(started, environment={}).bus
        settings = settings.model_copy(update={"bus": bus})
    if not settings.bus.bootstrap_servers:
        raise UserError(
            f"the run {settings.run.id} is on no broker yet",
            where=str(place),
            remedy="start it with `tristream up`, or name its brokers with --set bus.bootstrap_servers=HOST:PORT",
        )
    return settings


@dataclass(slots=True)
class RunConversation:
    """What is known of a run's commands, and a way to ask for more."""

    bus: Bus
    reader: Reader
    commands: list[Command]
    """Those that hold, in the order of the log, each once."""

    def ask(self, request: Command, answer_seconds: float = ANSWER_SECONDS) -> Command | None:
        """Put a request on the log and wait for its answer; None if the dispatcher has not answered in time.

        Raises:
            StoppedError: the broker does not answer.
        """
        self.bus.publish(COMMANDS, request)
        self.bus.flush()
        deadline = time.monotonic() + answer_seconds
        while time.monotonic() < deadline:
            for record in self.reader.poll(0.2):
                if is_answer(record) and answered_id(record.event.id) == request.id:
                    answer: Command = record.event
                    return answer
        return None

    def statuses(self) -> list[PartStatus]:
        """The newest status of each process."""
        reader = self.bus.reader([PARTS])
        try:
            newest = {record.key: record.event for record in reader.read_to_end()}
        finally:
            reader.close()
        return list(newest.values())


def is_answer(record: Record[Command]) -> bool:
    """Whether a command is one of the run itself, and not a request."""
    return EPOCH_HEADER in record.headers


def commands_that_hold(records: Sequence[Record[Command]]) -> list[Command]:
    """The commands of the run itself that it follows, each once, in the order of the log."""
    held = {record.event.id: record.event for record in records if is_answer(record) and not record.event.refusal}
    return list(held.values())


@contextmanager
def talk_to(settings: RunFile) -> Iterator[RunConversation]:
    """Connect to the log of a run and read its commands.

    Raises:
        TryAgainError: the broker does not answer.
    """
    from tristream.runtime.bus.kafka import KafkaBus

    patience = threading.Event()
    timer = threading.Timer(PATIENCE_SECONDS, patience.set)
    timer.daemon = True
    timer.start()
    try:
        bus = KafkaBus(settings.run.id, settings.bus, "command", stop=patience)
        try:
            reader = bus.reader([COMMANDS])
            try:
                commands = commands_that_hold(list(reader.read_to_end()))
                yield RunConversation(bus, reader, commands)
            finally:
                reader.close()
        finally:
            bus.close()
    except StoppedError:
        raise TryAgainError(f"the broker at {settings.bus.bootstrap_servers} does not answer") from None
    finally:
        timer.cancel()
