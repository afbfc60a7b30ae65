"""The verifiers that exist: one line each."""

from collections.abc import Iterable, Mapping, Sequence

from tristream.runtime.errors import UserError
from tristream.verifiers.scorers.counting import CountingVerifier
from tristream.verifiers.scorers.detection import DetectionVerifier
from tristream.verifiers.scorers.mathematics import MathVerifier
from tristream.verifiers.scorers.ocr import OcrVerifier
from tristream.verifiers.verifier import Verifier
from tristream.wire.verifiers import ALIASES, versioned_name

VERIFIERS: Mapping[str, type[Verifier]] = {
    verifier.name: verifier for verifier in (CountingVerifier, DetectionVerifier, MathVerifier, OcrVerifier)
}
"""Verifier classes by name."""


def select_verifiers(names: Sequence[str]) -> Mapping[str, type[Verifier]]:
    """Verifier classes by name; no names means all of them.

    Args:
        names: canonical names, as a loaded run file has them.

    Raises:
        UserError: a name is unknown.
    """
    unknown = [name for name in names if name not in VERIFIERS]
    if unknown:
        raise UserError(
            f"unknown verifier '{unknown[0]}'",
            where="[verification] verifiers",
            remedy=f"use one of: {', '.join(sorted([*VERIFIERS, *ALIASES]))}",
        )
    return {name: VERIFIERS[name] for name in sorted(set(names) or VERIFIERS)}


def by_versioned_name(verifiers: Iterable[type[Verifier]]) -> Mapping[str, type[Verifier]]:
    """Verifier classes by ``NAME@VERSION``: what a worker serves."""
    return {versioned_name(verifier.name, verifier.version): verifier for verifier in verifiers}
