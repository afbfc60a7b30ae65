"""The verifiers that exist: one line each."""

from collections.abc import Mapping, Sequence

from tristream.runtime.errors import UserError
from tristream.verifiers.scorers.counting import CountingVerifier
from tristream.verifiers.scorers.detection import DetectionVerifier
from tristream.verifiers.scorers.mathematics import MathVerifier
from tristream.verifiers.scorers.ocr import OcrVerifier
from tristream.verifiers.verifier import Verifier

VERIFIERS: Mapping[str, type[Verifier]] = {
    verifier.name: verifier for verifier in (CountingVerifier, DetectionVerifier, MathVerifier, OcrVerifier)
}
"""Verifier classes by name."""

ALIASES: Mapping[str, str] = {"mathverify": MathVerifier.name}
"""Other names that samples use, such as V-Triune's, and what they mean."""


def canonical_name(name: str) -> str:
    """The registered name behind an alias; other names stay as they are."""
    return ALIASES.get(name, name)


def select_verifiers(names: Sequence[str]) -> Mapping[str, type[Verifier]]:
    """Verifier classes by canonical name; no names means all of them.

    Raises:
        UserError: a name is unknown.
    """
    unknown = [name for name in names if canonical_name(name) not in VERIFIERS]
    if unknown:
        raise UserError(
            f"unknown verifier '{unknown[0]}'",
            where="[verification] verifiers",
            remedy=f"use one of: {', '.join(sorted([*VERIFIERS, *ALIASES]))}",
        )
    wanted = {canonical_name(name) for name in names} or set(VERIFIERS)
    return {name: VERIFIERS[name] for name in sorted(wanted)}
