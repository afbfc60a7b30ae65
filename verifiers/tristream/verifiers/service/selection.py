"""Which verifiers a worker serves: the built-in ones and the run file's plug-ins, or those that it names."""

from collections.abc import Mapping

from tristream.config.verification import VerificationSection
from tristream.runtime.errors import UserError
from tristream.wire.verifiers import ALIASES, BUILT_IN_VERSIONS, versioned_name


def select_served(section: VerificationSection) -> Mapping[str, str]:
    """Entry points by ``NAME@VERSION``; empty ones of built-in verifiers.

    Raises:
        UserError: the section names a verifier that there is not.
    """
    built_in = {versioned_name(name, version): "" for name, version in BUILT_IN_VERSIONS.items()}
    known = {**built_in, **section.plug_ins}
    if not section.verifiers:
        return known
    served = {name: known[name] for name in known if {name, name.partition("@")[0]} & set(section.verifiers)}
    missing = set(section.verifiers) - set(served) - {name.partition("@")[0] for name in served}
    if missing:
        names = sorted({*(name.partition("@")[0] for name in known), *ALIASES})
        raise UserError(
            f"unknown verifier '{min(missing)}'",
            where="[verification] verifiers",
            remedy=f"use one of: {', '.join(names)}, or name your own in verification.plug_ins",
        )
    return served
