"""What V-Triune's reward server makes of a request before it judges: its verifier, parameters and threshold.

Whatever makes that server's constructor fail is answered with zeros there, and so here: ``BrokenRequestError``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

VERIFIERS: Mapping[str, str] = {"mathverify": "math", "detection": "detection"}
"""The names that it knows, and what they are called here."""
REQUIRED = frozenset({"is_training", "step", "total_steps"})
OPTIONAL = frozenset({"image_path", "image_grid_thw", "verifier_style", "det_verifier_normalized", "det_reward_ratio"})
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
SCHEDULE = ((0.10, 0.85), (0.25, 0.95))
LAST_THRESHOLD = 0.99

Threshold = str | float
"""``dynamic``, ``average``, or one of ``THRESHOLDS``."""


class BrokenRequestError(ValueError):
    """Nothing is judged, and every reward is zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one answer is judged."""

    verifier: str
    """Name without version."""
    params: Mapping[str, Any]
    """The threshold of this step among them."""


def parse_threshold(text: str) -> Threshold:
    """The threshold that a server is started with.

    Raises:
        ValueError: it is none.
    """
    if text in ("dynamic", "average"):
        return text
    threshold = float(text)
    if threshold not in THRESHOLDS:
        raise ValueError(text)
    return threshold


def parse_setting(reward_verifier: str, parm_json: str, threshold: Threshold) -> Setting:
    """How an answer is judged by the fields of its request.

    Raises:
        BrokenRequestError: it is not judged at all.
    """
    verifier = VERIFIERS.get(reward_verifier)
    if verifier is None:
        raise BrokenRequestError(f"there is no verifier '{reward_verifier}'; there are {', '.join(VERIFIERS)}")
    try:
        parm = json.loads(parm_json)
    except (ValueError, RecursionError):
        raise BrokenRequestError("reward_verifier_parm is not JSON") from None
    if not isinstance(parm, dict) or not (REQUIRED <= parm.keys() <= REQUIRED | OPTIONAL):
        raise BrokenRequestError(
            f"reward_verifier_parm has {', '.join(sorted(REQUIRED))}, and may have {', '.join(sorted(OPTIONAL))}"
        )
    progress = _progress(parm)
    params: dict[str, Any] = {"style": "vtriune"}
    if verifier == "detection":
        params |= _detection_params(parm, threshold_at(progress) if threshold == "dynamic" else threshold)
    return Setting(verifier=verifier, params=params)


def threshold_at(progress: float) -> float:
    """The dynamic threshold.

    Example:
        >>> threshold_at(0.1), threshold_at(0.11), threshold_at(1.0)
        (0.85, 0.95, 0.99)
    """
    return next((threshold for limit, threshold in SCHEDULE if progress <= limit), LAST_THRESHOLD)


def _progress(parm: Mapping[str, Any]) -> float:
    try:
        return float(parm["step"]) / float(parm["total_steps"])
    except (TypeError, ValueError, ArithmeticError):
        raise BrokenRequestError("step and total_steps are not two numbers, the second not 0") from None


def _detection_params(parm: Mapping[str, Any], threshold: Threshold) -> dict[str, Any]:
    """Its own parameters as they are: what is wrong with them is the scorer's to judge."""
    if parm.get("det_reward_ratio", {}) is None:  # among parameters, null would mean that it is not given
        raise BrokenRequestError("det_reward_ratio is null")
    given = {name: value for name, value in parm.items() if name.startswith("det_") or name == "image_grid_thw"}
    return {**given, "threshold": threshold}
