"""Parameters that the built-in verifiers share."""

from collections.abc import Iterable
from typing import Literal

from tristream.verifiers.contract import Unscorable
from tristream.verifiers.definition import VerifierDefinition

Style = Literal["standard", "vtriune"]
"""``standard`` is the right reward; ``vtriune`` is V-Triune's published one, its bugs included."""

VTRIUNE_REQUEST = frozenset(
    {
        "is_training",
        "step",
        "total_steps",
        "image_path",
        "image_grid_thw",
        "verifier_style",
        "det_verifier_normalized",
        "det_reward_ratio",
    }
)
"""What V-Triune's trainer writes into the parameters of every row, whatever its verifier is."""


def refuse_unknown(definition: VerifierDefinition, names: Iterable[str]) -> None:
    """Refuse parameters that a verifier does not have, but for those of V-Triune's requests, which are ignored.

    Raises:
        Unscorable: says which, and which there are.
    """
    unknown = sorted(set(names) - VTRIUNE_REQUEST)
    if unknown:
        known = ", ".join(definition.parameters.model_fields) or "none"
        raise Unscorable(f"{definition.name} has no parameter {unknown[0][:80]!r}; it has {known}")
