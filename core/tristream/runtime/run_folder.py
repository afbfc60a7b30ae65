"""The folder of a run: where everything in it is."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINT_PREFIX = "step-"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths in ``output/id``; nothing is made by asking for them.

    Example:
        >>> RunFolder(Path("runs/digits")).checkpoint(10).name
        'step-000010'
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
    def clickhouse(self) -> Path:
        """Folder of the embedded database."""
        return self.path / "clickhouse"

    @property
    def faust(self) -> Path:
        """Folder that Faust wants to have."""
        return self.path / "faust"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.checkpoints / f"{CHECKPOINT_PREFIX}{step:06d}"

    def find_checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first; one that is being written has a suffix."""
        names = (path for path in self.checkpoints.glob(f"{CHECKPOINT_PREFIX}*") if checkpoint_step(path) is not None)
        return sorted(
            (path for path in names if ledger_file(path).exists()), key=lambda path: checkpoint_step(path) or 0
        )


def checkpoint_step(path: Path) -> int | None:
    """Step of a checkpoint folder, or None if the name is not one of a whole checkpoint."""
    number = path.name.removeprefix(CHECKPOINT_PREFIX)
    return int(number) if number.isdigit() else None


def ledger_file(checkpoint: Path) -> Path:
    """File in a checkpoint that holds its ledger and the outcomes not yet acknowledged (a ``Commit`` as JSON)."""
    return checkpoint / "ledger.json"
