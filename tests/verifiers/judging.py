"""A built-in verifier, called as the pool calls it."""

import json
from collections.abc import Mapping
from typing import Any

from tristream.verifiers.contract import Rollout, Score
from tristream.verifiers.pool.truths import Truths, parse_parameters
from tristream.verifiers.registry import BUILT_INS


def judge(
    name: str,
    text: str,
    ground_truth: str = "",
    params: Mapping[str, Any] | None = None,
    *,
    step: int = 1,
    total_steps: int = 100,
    num_sampled_tokens: int = 0,
) -> Score:
    """The score of an answer.

    Raises:
        Unscorable: the truth or the parameters are unusable.
    """
    definition = BUILT_INS[name]
    params_json = json.dumps(params or {})
    keywords = definition.check_parameters(parse_parameters(params_json))
    rollout = Rollout(
        text=text,
        ground_truth=ground_truth,
        truth=Truths(definition).truth(ground_truth, params_json, keywords),
        step=step,
        total_steps=total_steps,
        num_sampled_tokens=num_sampled_tokens,
    )
    value = definition(rollout, **keywords)
    if isinstance(value, Score):
        return value
    (component,) = definition.components
    return Score(components={component: value})
