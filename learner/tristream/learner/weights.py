"""Weights of policy versions in the store: safetensors with Hugging Face names, and which to keep.

    weights/VERSION/EPOCH-SHA256.safetensors

The name holds the epoch, so that a learner that was frozen never writes or removes a file of its successor.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from tristream.config.parts import LearnerSettings
from tristream.learner.waiting import needs_space
from tristream.runtime.hooks import reach
from tristream.runtime.store import BlobError, BlobStore
from tristream.runtime.weight_names import read_weights_name, weights_file, weights_folder
from tristream.wire.events import Weights


def publish_weights(
    store: BlobStore, version: int, tensors: Mapping[str, Tensor], settings: LearnerSettings, *, epoch: int = 0
) -> Weights:
    """Put the weights of a version into the store, atomically, and return where they are.

    An evaluated version that is there already, as after a resume, is where it was: answers may be under way that
    name it. Of another one, what learners before the last one wrote is removed.

    Raises:
        NoSpaceError: the disk is full.
        StoreUnavailableError: the store does not answer.
    """
    from safetensors.torch import save_file

    with needs_space(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file(dict(tensors), path, metadata={"format": "pt"})
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        uri = _find_evaluated(store, version, sha256) if _is_evaluated(version, settings) else None
        if uri is None:
            with needs_space(store.uri):
                uri = store.write_file(weights_file(version, epoch, sha256), path)
    reach("weights.written")
    _remove(store, version, newest_epoch=epoch - 2, only_unfinished=_is_evaluated(version, settings))
    return Weights(version=version, uri=uri, sha256=sha256)


def remove_old_weights(store: BlobStore, version: int, settings: LearnerSettings, *, epoch: int = 0) -> None:
    """Delete the weights that fell out of use with ``version``, those of earlier learners too; evaluated ones stay.

    Kept are the newest ``max_staleness + 3`` versions: what producers may still fetch.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    old = version - (settings.rollout.max_staleness + 3)
    if old >= 0 and not _is_evaluated(old, settings):
        _remove(store, old, newest_epoch=epoch)


def _is_evaluated(version: int, settings: LearnerSettings) -> bool:
    return settings.evaluation.is_due(version, settings.run.steps)


def _find_evaluated(store: BlobStore, version: int, sha256: str) -> str | None:
    """Where the same weights are already; they are whole."""
    for uri in store.find(weights_folder(version)):
        name = read_weights_name(uri)
        if name and sha256.startswith(name.digits) and name.is_finished:
            try:
                store.fetch(uri, sha256)
            except BlobError:
                continue
            return uri
    return None


def _remove(store: BlobStore, version: int, *, newest_epoch: int, only_unfinished: bool = False) -> None:
    """Delete the files of a version that learners up to an epoch wrote, or those alone that they did not finish."""
    for uri in store.find(weights_folder(version)):
        name = read_weights_name(uri)
        if name and name.epoch <= newest_epoch and not (name.is_finished and only_unfinished):
            store.delete(uri)


def model_fingerprint(path: Path) -> str:
    """Fingerprint of a model folder: its config, and name, size and first mebibyte of each weights file."""
    digest = hashlib.sha256((path / "config.json").read_bytes())
    for file in sorted(path.glob("*.safetensors")):
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
    return digest.hexdigest()[:16]
