"""The verifiers that ship with tristream: their names and versions, known to whoever pins or serves them.

A version changes whenever a score could change. A sample names a verifier; the dispatcher pins the version,
and a worker that serves exactly that version scores the rollout.
"""

from collections.abc import Iterable, Mapping

BUILT_IN_VERSIONS: Mapping[str, str] = {
    "choice": "1",
    "counting": "1",
    "detection": "2",
    "exact": "1",
    "format": "1",
    "length": "1",
    "math": "2",
    "number": "1",
    "ocr": "1",
    "regex": "1",
}
"""Version by name."""

ALIASES: Mapping[str, str] = {"mathverify": "math"}
"""Other names that samples use, such as V-Triune's, and what they mean."""


def canonical_name(name: str) -> str:
    """The name behind an alias; other names stay as they are."""
    return ALIASES.get(name, name)


def versioned_name(name: str, version: str) -> str:
    """``NAME@VERSION``, as record headers and consumer groups say it."""
    return f"{name}@{version}"


def pinned_versions(plug_ins: Iterable[str]) -> dict[str, str]:
    """Version by name that the terms of rows are given: of the built-in verifiers and of the run file's plug-ins.

    Args:
        plug_ins: each as ``NAME@VERSION``; the last one of a name counts, also before a built-in one.
    """
    return {**BUILT_IN_VERSIONS, **{name: version for name, _, version in (each.partition("@") for each in plug_ins)}}
