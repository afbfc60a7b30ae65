"""Where the weights of policy versions are in the store: ``weights/VERSION/EPOCH-SHA256.safetensors``."""

import re
from dataclasses import dataclass

from tristream.runtime.store import BlobStore

FOLDER = "weights"
SHOWN_DIGITS = 16
"""Hex digits of the checksum in a name."""

_NAME = re.compile(rf"(?P<epoch>[0-9]+)-(?P<sha256>[0-9a-f]{{{SHOWN_DIGITS}}})\.safetensors(?P<unfinished>\..+)?")
_ADDRESS = re.compile(rf".*/{FOLDER}/(?P<version>[0-9]+)/[^/]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsName:
    """What the name of a file of weights says."""

    epoch: int
    """Of the learner that wrote it."""
    digits: str
    """The first hex digits of its checksum."""
    is_finished: bool
    """Whether it is whole, and not what an interrupted writing left."""


def weights_folder(version: int) -> str:
    """Folder of a version, from the root of the store."""
    return f"{FOLDER}/{version}"


def weights_file(version: int, epoch: int, sha256: str) -> str:
    """File of the weights of a version, from the root of the store."""
    return f"{weights_folder(version)}/{epoch}-{sha256[:SHOWN_DIGITS]}.safetensors"


def read_weights_name(uri: str) -> WeightsName | None:
    """What the name of a file says; None if it is none of weights."""
    found = _NAME.fullmatch(uri.rpartition("/")[2])
    if found is None:
        return None
    return WeightsName(epoch=int(found["epoch"]), digits=found["sha256"], is_finished=not found["unfinished"])


def find_weights(store: BlobStore) -> dict[int, str]:
    """Addresses of all whole weights by version, ascending; of several learners the newest one's.

    Raises:
        StoreUnavailableError: the store does not answer.
    """
    newest: dict[int, tuple[int, str]] = {}
    for uri in store.find(FOLDER):
        name, address = read_weights_name(uri), _ADDRESS.fullmatch(uri)
        if name is None or address is None or not name.is_finished:
            continue
        version = int(address["version"])
        newest[version] = max(newest.get(version, (-1, "")), (name.epoch, uri))
    return {version: uri for version, (_, uri) in sorted(newest.items())}
