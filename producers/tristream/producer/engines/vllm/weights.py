"""A folder like a checkpoint's, from which vLLM reloads weights."""

import tempfile
from pathlib import Path


class CheckpointFolder:
    """A folder with the newest weights under the name that checkpoints have."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tristream-weights-")

    def link(self, weights: Path) -> Path:
        """Put weights in place of the ones before; returns the folder.

        Raises:
            OSError: the temporary folder cannot be written.
        """
        folder = Path(self._folder.name)
        link = folder / "model.safetensors"
        link.unlink(missing_ok=True)
        link.symlink_to(weights.resolve())
        return folder

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()
