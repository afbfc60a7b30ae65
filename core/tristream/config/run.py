"""``[run]``: what the run is called, how long it is, and where its results go."""

from pathlib import Path

from pydantic import Field

from tristream.config.base import Section
from tristream.runtime.run_folder import RunFolder


class RunSection(Section):
    """What the run is called, how long it is, and where its results go."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    """Name of the run: part of the topic names and of the output folder."""
    seed: int = 1
    """Seed of the mix, the order of the samples, the sampling and the learner."""
    steps: int = Field(ge=1)
    """Optimizer steps of the whole run."""
    output: Path = Path("runs")
    """Folder of the run folders; the run writes to ``output/id``."""

    @property
    def folder(self) -> RunFolder:
        """Folder of this run's results."""
        return RunFolder(self.output / self.id)
