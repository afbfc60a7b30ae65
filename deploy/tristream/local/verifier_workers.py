"""The workers of verifiers that were added while a run goes on: one process a version, kept until it is done.

    commands --> an ADD that is answered --> its file is kept in the run's folder --> tristream verify --verifier ...

A worker that ends with 0 is done: its version is retired. One that crashes is started again. One that refuses its input
is given up and named, and the run goes on without it: sources that need it wait.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tristream.cli.parts import PART_COMMANDS
from tristream.cli.run_conversation import is_answer
from tristream.local.part_process import PartProcess
from tristream.runtime.bus.protocol import Reader, Record
from tristream.runtime.durable_files import write_durably
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.codecs.batches import commit_from_json
from tristream.wire.events import Command, CommandKind, Part
from tristream.wire.ledger import IntervalSet
from tristream.wire.verifiers import versioned_name

MakeProcess = Callable[[str], PartProcess]
"""Makes the process of ``NAME@VERSION``; it is not started."""


class VerifierWorkers:
    """Keeps the workers of one run; used by one thread.

    Args:
        folder: the run's.
        reader: reads the topic ``COMMANDS`` alone, from its beginning.
        make_process: makes a worker.
        say: told what people should know.
    """

    def __init__(
        self, folder: RunFolder, reader: Reader, make_process: MakeProcess, say: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._reader = reader
        self._make_process = make_process
        self._say = say
        self.commands: dict[str, Command] = {}
        """Those that hold, by id, in the order of the log."""
        self._processes: dict[str, PartProcess] = {}
        """By ``NAME@VERSION``."""
        self._given_up: set[str] = set()

    def read_commands(self) -> None:
        """Take in what was commanded before, and start a worker for each version that may still have work.

        Raises:
            BusError: the end of the commands was not reached.
            StoppedError: told to stop while the broker does not answer.
        """
        self._start_new(list(self._reader.read_to_end()))

    def watch(self) -> list[str]:
        """Start workers for what was added, and again those that died; returns the instances that died."""
        while records := self._reader.poll(0.0):
            self._start_new(records)
        died = []
        for name, process in self._processes.items():
            if name in self._given_up:
                continue
            try:
                news = process.watch()
            except UserError as error:
                self._given_up.add(name)
                died.append(process.instance)
                self._say(f"the worker of {name} is given up, and the run goes on without it: {error}")
                continue
            if news:
                died.append(process.instance)
                self._say(news)
        return died

    def processes(self) -> Sequence[PartProcess]:
        """The workers."""
        return list(self._processes.values())

    def _start_new(self, records: Sequence[Record[Command]]) -> None:
        """Take commands in, and then start the workers of the versions that they added."""
        added: dict[str, Command] = {}
        for record in records:
            command: Command = record.event
            if not is_answer(record) or command.refusal or command.id in self.commands:
                continue
            self.commands[command.id] = command
            name = versioned_name(command.verifier, command.version)
            if command.kind is CommandKind.ADD:
                added[name] = command
            elif command.kind is CommandKind.RETIRE and command.from_number <= self._num_settled():
                added.pop(name, None)
        for name, command in added.items():
            self._start(name, command)

    def _start(self, name: str, command: Command) -> None:
        process = self._processes.get(name)
        if process is not None and not process.is_done and name not in self._given_up:
            return
        try:
            keep_code(command, self._folder)
        except UserError as error:
            self._say(f"{name} has no worker: {error}")
            return
        self._given_up.discard(name)
        self._processes[name] = self._make_process(name)
        self._processes[name].start()
        self._say(f"{name} is added; its worker starts")

    def _num_settled(self) -> int:
        """Groups with smaller numbers are settled, as the newest checkpoint says."""
        for checkpoint in self._folder.find_checkpoints()[-1:]:
            ledger = commit_from_json(ledger_file(checkpoint).read_text(encoding="utf-8")).ledger
            return IntervalSet(ledger.settled).first_missing()
        return 0


def worker_process(name: str, folder: RunFolder, secrets: Mapping[str, str] = MappingProxyType({})) -> PartProcess:
    """The worker of ``NAME@VERSION``; it ends by itself once its version is retired and has no work left."""
    return PartProcess(
        Part.VERIFIER,
        PART_COMMANDS[Part.VERIFIER].name,
        folder,
        finishes=True,
        secrets=secrets,
        arguments=("--verifier", name),
        name=f"{Part.VERIFIER}-{name}",
    )


def keep_code(command: Command, folder: RunFolder) -> None:
    """Copy the file of a verifier into the run's folder, where no later edit changes it.

    Raises:
        UserError: the file cannot be read or copied, or is another one than was added.
    """
    if not command.code_sha256:
        return
    name = versioned_name(command.verifier, command.version)
    kept = folder.verifier_file(name)
    if kept.exists() and _sha256(kept.read_bytes()) == command.code_sha256:
        return
    path = Path(command.entry_point.rpartition(":")[0])
    try:
        content = path.read_bytes()
        if _sha256(content) != command.code_sha256:
            raise UserError(
                f"it was changed after {name} was added", where=str(path), remedy="raise its version, and add that"
            )
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_durably(kept, lambda temporary: temporary.write_bytes(content))
    except OSError as error:
        where = str(error.filename or path)
        raise UserError(f"{error.strerror}", where=where, remedy="see that it can be read and written") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
