"""The life of a verifier that was added while the run goes on, as its worker reads it from the log.

It begins when the run follows the command ADD. Its answer to RETIRE says from which training prompt on nothing asks
for it; once all groups below are settled, by the ledger of the newest policy version, nothing is left to be done.
"""

import hashlib
from pathlib import Path

from tristream.runtime.bus.protocol import Record
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder
from tristream.verifiers.service.terms import Shadow
from tristream.wire.events import Command, CommandKind, Ledger, PolicyVersion
from tristream.wire.ledger import IntervalSet
from tristream.wire.topics import EPOCH_HEADER
from tristream.wire.verifiers import versioned_name


class Addition:
    """What the log says of one added verifier version.

    Args:
        run: id of the run.
        name: ``NAME@VERSION``.
    """

    def __init__(self, run: str, name: str) -> None:
        self._run = run
        self.name = name
        self.command: Command | None = None
        """The ADD of its newest life, as the run answered it."""
        self.added_ns = 0
        """When the broker took it."""
        self._retired: Command | None = None
        self._ledger = Ledger(step=0)

    def observe(self, record: Record[Command | PolicyVersion]) -> None:
        """Take in a command or a policy version."""
        event = record.event
        if isinstance(event, PolicyVersion):
            self._ledger = event.durable
        elif event.run == self._run and versioned_name(event.verifier, event.version) == self.name:
            self._take(event, record)

    @property
    def is_over(self) -> bool:
        """Whether it is retired, and every group that may have asked for it is settled."""
        if self._retired is None:
            return False
        return IntervalSet(self._ledger.settled).first_missing() >= self._retired.from_number

    def begin(self) -> Shadow:
        """How it scores rollouts that do not ask for it.

        Raises:
            UserError: nobody has added it.
        """
        if self.command is None:
            raise UserError(
                f"run {self._run} has no verifier {self.name}",
                where="--verifier",
                remedy=f"add it first: tristream verifiers add {self.name.partition('@')[0]}.py --run ...",
            )
        shadow = Shadow(
            verifier=self.command.verifier,
            version=self.command.version,
            sources=frozenset(self.command.sources),
            params_json=self.command.params_json,
            from_ns=0 if self.command.from_earliest else self.added_ns,
        )
        self.tell(shadow)
        return shadow

    def tell(self, shadow: Shadow) -> None:
        """Tell how it scores whether it is retired."""
        if self._retired is not None:
            shadow.retired_from_version = self._retired.from_version
            shadow.retired_from_number = self._retired.from_number

    def _take(self, command: Command, record: Record[Command | PolicyVersion]) -> None:
        if EPOCH_HEADER not in record.headers or command.refusal:
            return  # a request, or one that the run does not follow
        if command.kind is CommandKind.ADD and (self.command is None or self._retired is not None):
            self.command, self.added_ns, self._retired = command, record.timestamp_ns, None
        elif command.kind is CommandKind.RETIRE:
            self._retired = command


def find_code(command: Command, folder: RunFolder) -> str:
    """The entry point of an added verifier: the run's own copy of its file, if there is one.

    Raises:
        UserError: the file cannot be read, or is another one than the one that was added.
    """
    if not command.code_sha256:
        return command.entry_point
    given, _, function = command.entry_point.rpartition(":")
    copy = folder.verifier_file(versioned_name(command.verifier, command.version))
    path = copy if copy.exists() else Path(given)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(
            f"its code cannot be read: {error.strerror}",
            where=str(path),
            remedy=f"put the file that was added at {copy}",
        ) from None
    if digest != command.code_sha256:
        raise UserError(
            f"it is not the file that was added as {versioned_name(command.verifier, command.version)}",
            where=str(path),
            remedy=f"put that file at {copy}, or add the new one under another version",
        )
    return f"{path}:{function}"
