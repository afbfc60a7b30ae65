"""The verifiers that ship with tristream: their names and versions, known to whoever pins or serves them.

A version changes whenever a score could change. A sample names a verifier; the dispatcher pins the version,
and a worker that serves exactly that version scores the rollout.
"""

from collections.abc import Mapping

BUILT_IN_VERSIONS: Mapping[str, str] = {"counting": "1", "detection": "1", "math": "1", "ocr": "1"}
"""Version by name."""

ALIASES: Mapping[str, str] = {"mathverify": "math"}
"""Other names that samples use, such as V-Triune's, and what they mean."""


def canonical_name(name: str) -> str:
    """The name behind an alias; other names stay as they are."""
    return ALIASES.get(name, name)


def versioned_name(name: str, version: str) -> str:
    """``NAME@VERSION``, as record headers and consumer groups say it."""
    return f"{name}@{version}"
