"""Weights where servers find them: a folder with one file, which is a link to those that were fetched.

    STORE/weights/7/0-ab12.safetensors
    STORE/weights/.servers-INSTANCE/3/model.safetensors -> ../../7/0-ab12.safetensors

The link is relative, so that servers may see ``STORE/weights`` under another path.
"""

import os
import shutil
import uuid
from pathlib import Path

from tristream.runtime.errors import UserError


class WeightsFolders:
    """Makes the folders of one engine and removes them."""

    def __init__(self, seen_at: Path | None) -> None:
        """Take where servers see the folder above the one that weights are in; None: under the same path."""
        self._seen_at = seen_at
        self._name = f".servers-{uuid.uuid4().hex[:12]}"
        self._made: dict[int, Path] = {}

    def make(self, number: int, weights: Path) -> str:
        """Make a folder for weights and return its path as servers see it.

        Raises:
            UserError: no folder can be made there.
        """
        weights = weights.resolve()
        top = weights.parent.parent
        folder = top / self._name / str(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "model.safetensors").symlink_to(os.path.relpath(weights, folder))
        except OSError as error:
            raise UserError(
                f"no folder for the servers can be made beside the weights ({error})",
                where=str(folder),
                remedy="let the producer write there",
            ) from None
        self._made[number] = folder
        return str(folder if self._seen_at is None else self._seen_at / folder.relative_to(top))

    def remove_before(self, number: int) -> None:
        """Remove the folders of earlier numbers."""
        for earlier in [made for made in self._made if made < number]:
            folder = self._made.pop(earlier)
            shutil.rmtree(folder, ignore_errors=True)
            try:
                folder.parent.rmdir()
            except OSError:
                pass  # others are in it
