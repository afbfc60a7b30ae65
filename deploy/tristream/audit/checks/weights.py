"""The weights that are in the store are those that were announced."""

import hashlib
from collections.abc import Callable

import fsspec

from tristream.audit.findings import Check
from tristream.audit.log_facts import LogFacts
from tristream.wire.events import Weights

CHUNK_BYTES = 2**24


def check_weights(facts: LogFacts, locate: Callable[[str], str], *, num_versions: int) -> Check:
    """Compare the files of the newest versions with their checksums; older ones may be gone.

    Args:
        facts: what the log says.
        locate: where a file is, by its address when it was announced.
        num_versions: how many versions are looked at.
    """
    findings, num_checked = [], 0
    newest = facts.newest_version
    for version in sorted(facts.announced)[-num_versions:]:
        weights = facts.announced[version].weights
        try:
            sha256 = hash_file(locate(weights.uri))
        except FileNotFoundError:
            if version == newest:
                findings.append(f"version {version}: its weights are not in the store")
            continue
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            return Check(
                name="weights as announced",
                num_checked=num_checked,
                findings=tuple(findings),
                note=f"the store cannot be read ({reason})",
                is_skipped=True,
            )
        num_checked += 1
        findings += _compare(weights, version, sha256)
    return Check(name="weights as announced", num_checked=num_checked, findings=tuple(findings))


def _compare(weights: Weights, version: int, sha256: str) -> list[str]:
    if sha256 != weights.sha256:
        return [f"version {version}: its file has sha256 {sha256[:12]}..., announced was {weights.sha256[:12]}..."]
    folder = weights.uri.rpartition("/")[0].rpartition("/")[2]
    return [] if folder == str(version) else [f"version {version}: its file is in the folder of version {folder}"]


def hash_file(uri: str) -> str:
    """The sha256 of a file, in hex.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    digest = hashlib.sha256()
    with fsspec.open(uri, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
