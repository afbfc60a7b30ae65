"""The folder of a run: where everything in it is."""

import re
from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_PREFIX = "step-"
UNFINISHED_SUFFIXES = (".tmp", ".old")
"""Of a checkpoint that is being written, and of one that is set aside until another is in its place."""

_CHECKPOINT_NAME = re.compile(rf"{CHECKPOINT_PREFIX}(?P<step>[0-9]+)(-e(?P<epoch>[0-9]+))?")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths in ``output/id``; nothing is made by asking for them.

    Example:
        >>> RunFolder(Path("runs/digits")).checkpoint(10).name
        'step-000010'
        >>> RunFolder(Path("runs/digits")).checkpoint(10, epoch=3).name
        'step-000010-e3'
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def run_file(self) -> Path:
        """The run file as it was resolved, JSON."""
        return self.path / "run.json"

    @property
    def lock(self) -> Path:
        """Held by the one process that works in the folder."""
        return self.path / "lock"

    @property
    def summary(self) -> Path:
        """The run in numbers; it exists once the run is finished."""
        return self.path / "summary.json"

    @property
    def report(self) -> Path:
        """The report for people."""
        return self.path / "report.html"

    @property
    def logs(self) -> Path:
        """Folder of the logs of parts and broker."""
        return self.path / "logs"

    def log(self, name: str) -> Path:
        """Log of a part or of the broker."""
        return self.logs / f"{name}.log"

    @property
    def status(self) -> Path:
        """Folder of the status files, for probes."""
        return self.path / "status"

    @property
    def store(self) -> Path:
        """Where weights and large images go, unless the run file names another place."""
        return self.path / "store"

    @property
    def verifiers(self) -> Path:
        """Folder of the files of verifiers that were added while the run went on, as they were then."""
        return self.path / "verifiers"

    def verifier_file(self, versioned_name: str) -> Path:
        """Where the file of ``NAME@VERSION`` is kept."""
        return self.verifiers / f"{versioned_name}.py"

    @property
    def clickhouse(self) -> Path:
        """Folder of the embedded database."""
        return self.path / "clickhouse"

    @property
    def query_token(self) -> Path:
        """What the monitor's HTTP queries ask for, readable by its owner alone; there is none for this machine only."""
        return self.path / "query-token"

    @property
    def archive(self) -> Path:
        """Folder of the records as they were on the log."""
        return self.path / "archive"

    @property
    def faust(self) -> Path:
        """Folder that Faust wants to have."""
        return self.path / "faust"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int, epoch: int = 0) -> Path:
        """Folder of the checkpoint of a step that a learner of this epoch wrote."""
        return self.checkpoints / f"{CHECKPOINT_PREFIX}{step:06d}{f'-e{epoch}' if epoch else ''}"

    def find_checkpoints(self) -> list[Path]:
        """Whole checkpoints, by epoch and then by step, so that the last one is that of the newest learner.

        One that is being written, or set aside, has a suffix and is left out.
        """
        whole = [
            (checkpoint_epoch(path), step, path)
            for path in self.checkpoints.glob(f"{CHECKPOINT_PREFIX}*")
            if (step := checkpoint_step(path)) is not None and ledger_file(path).exists()
        ]
        return [path for _, _, path in sorted(whole)]

    def find_unfinished_checkpoints(self) -> list[Path]:
        """Folders that an interrupted writing or replacing of a checkpoint left."""
        return sorted(
            path
            for suffix in UNFINISHED_SUFFIXES
            for path in self.checkpoints.glob(f"{CHECKPOINT_PREFIX}*{suffix}")
            if _CHECKPOINT_NAME.fullmatch(path.name.removesuffix(suffix))
        )


def checkpoint_step(path: Path) -> int | None:
    """Step of a checkpoint folder, or None if the name is not one of a whole checkpoint."""
    match = _CHECKPOINT_NAME.fullmatch(path.name)
    return int(match["step"]) if match else None


def checkpoint_epoch(path: Path) -> int:
    """Epoch of the learner that wrote a checkpoint folder; 0 if its name says none."""
    match = _CHECKPOINT_NAME.fullmatch(path.name)
    return int(match["epoch"] or 0) if match else 0


def ledger_file(checkpoint: Path) -> Path:
    """File in a checkpoint that holds its ledger and the outcomes not yet acknowledged (a ``Commit`` as JSON)."""
    return checkpoint / "ledger.json"
