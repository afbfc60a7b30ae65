"""Weights of policy versions in the store: safetensors with Hugging Face names, and which to keep."""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tristream.config.parts import LearnerSettings
from tristream.runtime.errors import UserError
from tristream.runtime.hooks import reach
from tristream.runtime.store import BlobStore
from tristream.wire.events import Weights


def weights_path(version: int) -> str:
    """Where the weights of a version are in the store."""
    return f"weights/{version}/model.safetensors"


def publish_weights(store: BlobStore, version: int, tensors: Mapping[str, Tensor]) -> Weights:
    """Write the weights of a version to the store, atomically, and return where they are.

    Raises:
        UserError: the disk is full.
    """
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        try:
            save_file(dict(tensors), path, metadata={"format": "pt"})
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            uri = store.write_file(weights_path(version), path)
        except Exception as error:
            # safetensors wraps the system's error in one of its own, of which only the text is left.
            if "No space left" not in str(error):
                raise
            raise UserError(
                "the disk is full, so that weights cannot be written",
                where=store.uri,
                remedy="free space and start the same command again",
            ) from None
    reach("weights.written")
    return Weights(version=version, uri=uri, sha256=digest)


def remove_old_weights(store: BlobStore, version: int, settings: LearnerSettings) -> None:
    """Delete the weights that fell out of use with ``version``; evaluated versions stay.

    Kept are the newest ``max_staleness + 3``: what producers may still fetch.
    """
    old = version - (settings.rollout.max_staleness + 3)
    if old >= 0 and not settings.evaluation.is_due(old, settings.run.steps):
        store.delete(f"{store.uri}/{weights_path(old)}")


def model_fingerprint(path: Path) -> str:
    """Fingerprint of a model folder: its config, and name, size and first mebibyte of each weights file."""
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
    return digest.hexdigest()[:16]
