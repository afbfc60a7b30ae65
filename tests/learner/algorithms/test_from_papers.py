"""What TRL does not have, against the papers' formulas: plain autograd in float64, one rollout and token at a time."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from flat_tokens import LONGEST, loss_of, make_inputs, value_and_gradient
from tristream.config.algorithms import AlgorithmSection
from tristream.config.presets import PRESETS
from tristream.learner.algorithms.overlong_penalty import overlong_penalty
from tristream.learner.algorithms.protocol import LossInputs

CLIPS = {"clip_low": 0.2, "clip_high": 0.28}
TokenLoss = Callable[[Tensor, Tensor, float], Tensor]
"""From ratio, log-probability and advantage of one token."""


def ppo(ratio: Tensor, _logprob: Tensor, advantage: float) -> Tensor:
    return -min(ratio * advantage, torch.clip(ratio, 0.8, 1.28) * advantage)


def dual_clip_ppo(ratio: Tensor, logprob: Tensor, advantage: float) -> Tensor:
    """Ye et al. 2019, equation 5: the objective of a negative advantage is at least c times it."""
    objective = -ppo(ratio, logprob, advantage)
    return (
        -torch.maximum(objective, torch.tensor(1.5 * advantage, dtype=torch.float64)) if advantage < 0 else -objective
    )


def cispo_with_two_bounds(ratio: Tensor, logprob: Tensor, advantage: float) -> Tensor:
    """MiniMax-M1, equations 4 and 5."""
    return -torch.clip(ratio, 0.8, 1.28).detach() * advantage * logprob


def rows_of(inputs: LossInputs, **tensors: Tensor) -> list[dict[str, Tensor]]:
    """The tokens of each rollout by themselves."""
    lengths = inputs.rollout_lengths.tolist()
    parts = {name: torch.split(values, lengths) for name, values in tensors.items()}
    return [{name: values[row] for name, values in parts.items()} for row in range(len(lengths))]


def plain_loss(
    inputs: LossInputs,
    token_loss: TokenLoss,
    *,
    old: Tensor,
    weights: Callable[[Tensor], Tensor] = torch.ones_like,
    penalty: Callable[[Tensor], Tensor] = torch.zeros_like,
    is_sequence_mean: bool = False,
    is_sequence_ratio: bool = False,
) -> tuple[float, Tensor]:
    """A loss by its definition, with weights of log(proximal / sampled) and a penalty of log(reference / new)."""
    assert inputs.proximal_logprobs is not None
    assert inputs.reference_logprobs is not None
    total = torch.zeros((), dtype=torch.float64)
    for row in rows_of(
        inputs, new=inputs.logprobs, old=old, sampled=inputs.old_logprobs, proximal=inputs.proximal_logprobs,
        reference=inputs.reference_logprobs, advantage=inputs.advantages,
    ):  # fmt: skip
        log_ratios = row["new"] - row["old"]
        if is_sequence_ratio:
            log_ratios = (log_ratios.sum() / len(log_ratios)).expand(len(log_ratios))
        weight = weights(row["proximal"] - row["sampled"])
        extra = penalty(row["reference"] - row["new"])
        losses = [
            weight[t] * token_loss(log_ratios[t].exp(), row["new"][t], float(row["advantage"][t])) + extra[t]
            for t in range(len(log_ratios))
        ]
        total = total + torch.stack(losses).sum() / (len(losses) if is_sequence_mean else 1)
    total = total / (len(inputs.rollout_lengths) if is_sequence_mean else len(inputs.logprobs))
    (gradient,) = torch.autograd.grad(total, inputs.logprobs)
    return total.item(), gradient


def check(inputs: LossInputs, parameters: dict[str, Any], expected: tuple[float, Tensor]) -> None:
    value, gradient = value_and_gradient(inputs, AlgorithmSection.model_validate(parameters))
    assert math.isclose(value, expected[0], rel_tol=0, abs_tol=1e-10)
    torch.testing.assert_close(gradient, expected[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("parameters", "token_loss"),
    [
        ({}, ppo),
        ({"dual_clip": 1.5}, dual_clip_ppo),
        ({"loss": "cispo", **CLIPS}, cispo_with_two_bounds),
    ],
)
@pytest.mark.parametrize(("aggregation", "is_mean"), [("token_mean", False), ("sequence_mean", True)])
@pytest.mark.parametrize("proximal", ["sampled", "recomputed"])
def test_token_losses_are_those_of_the_papers(
    parameters: dict[str, Any], token_loss: TokenLoss, aggregation: str, is_mean: bool, proximal: str
) -> None:
    inputs = make_inputs()
    assert inputs.proximal_logprobs is not None
    old = inputs.old_logprobs if proximal == "sampled" else inputs.proximal_logprobs
    expected = plain_loss(inputs, token_loss, old=old, is_sequence_mean=is_mean)
    check(inputs, {**parameters, "aggregation": aggregation, "proximal": proximal}, expected)


def test_gspo_has_one_ratio_a_rollout() -> None:
    def gspo(ratio: Tensor, _logprob: Tensor, advantage: float) -> Tensor:
        return -min(ratio * advantage, torch.clip(ratio, 1 - 3e-4, 1 + 4e-4) * advantage)

    inputs = make_inputs()
    expected = plain_loss(inputs, gspo, old=inputs.old_logprobs, is_sequence_mean=True, is_sequence_ratio=True)
    check(inputs, {"type": "gspo"}, expected)


LEVELS: dict[str, Callable[[Tensor], Tensor]] = {
    "token": lambda log_weights: log_weights.exp(),
    "sequence": lambda log_weights: log_weights.sum().exp().expand(len(log_weights)),
    "geometric": lambda log_weights: log_weights.mean().exp().expand(len(log_weights)),
}
BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "truncate": lambda weights: weights.clip(0.9, 1.3),
    "mask": lambda weights: weights * ((weights >= 0.9) & (weights <= 1.3)),
}


@pytest.mark.parametrize(("level", "bound"), list(product(LEVELS, BOUNDS)))
def test_importance_weights_are_those_of_the_papers(level: str, bound: str) -> None:
    inputs = make_inputs()
    assert inputs.proximal_logprobs is not None
    weigh: Callable[[Tensor], Tensor] = lambda log_weights: BOUNDS[bound](LEVELS[level](log_weights))  # noqa: E731
    expected = plain_loss(inputs, ppo, old=inputs.proximal_logprobs, weights=weigh)
    parameters = {
        "proximal": "recomputed", "importance": bound, "importance_level": level,
        "importance_low": 0.9, "importance_high": 1.3,
    }  # fmt: skip
    check(inputs, parameters, expected)
    plain = plain_loss(inputs, ppo, old=inputs.proximal_logprobs)
    assert abs(plain[0] - expected[0]) > 1e-4, "the weights make a difference"


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        ("k1", lambda x: -x),
        ("k2", lambda x: 0.5 * x**2),
        ("k3", lambda x: torch.exp(x) - 1 - x),
    ],
)
def test_kl_estimators_are_those_of_schulman(estimator: str, formula: Callable[[Tensor], Tensor]) -> None:
    inputs = make_inputs()
    expected = plain_loss(inputs, ppo, old=inputs.old_logprobs, penalty=lambda x: 0.3 * formula(x))
    check(inputs, {"kl_coefficient": 0.3, "kl_estimator": estimator}, expected)
    loss = loss_of(inputs, AlgorithmSection.model_validate({"kl_coefficient": 0.3, "kl_estimator": estimator}))
    assert inputs.reference_logprobs is not None
    torch.testing.assert_close(loss.kl_reference, formula(inputs.reference_logprobs - inputs.logprobs).detach())


def test_every_preset_is_the_loss_of_its_paper() -> None:
    inputs = make_inputs()
    values = {name: value_and_gradient(inputs, AlgorithmSection.model_validate({"type": name}))[0] for name in PRESETS}
    token_mean = plain_loss(inputs, ppo, old=inputs.old_logprobs)[0]

    def narrow(ratio: Tensor, _logprob: Tensor, advantage: float) -> Tensor:
        return -min(ratio * advantage, torch.clip(ratio, 0.8, 1.2) * advantage)

    def cut_above(ratio: Tensor, logprob: Tensor, advantage: float) -> Tensor:
        return -ratio.clip(max=5.0).detach() * advantage * logprob

    k3_of: Callable[[Tensor], Tensor] = lambda x: 0.04 * (torch.exp(x) - 1 - x)  # noqa: E731
    old, num_tokens = inputs.old_logprobs, len(inputs.logprobs)
    expected = {
        "vtriune": token_mean,
        "dapo": token_mean,
        "grpo": plain_loss(inputs, narrow, old=old, penalty=k3_of, is_sequence_mean=True)[0],
        "dr_grpo": plain_loss(inputs, narrow, old=old)[0] * num_tokens / (len(inputs.rollout_lengths) * LONGEST),
        "cispo": plain_loss(inputs, cut_above, old=old)[0],
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-10)


def test_the_overlong_penalty_is_that_of_dapo() -> None:
    def dapo(length: int) -> float:
        """Equation 13 with a longest answer of 20480 tokens, the last 4096 of them the cache."""
        if length <= 16384:
            return 0.0
        return (16384 - length) / 4096 if length <= 20480 else -1.0

    for length in (0, 1, 16384, 16385, 18432, 20479, 20480, 30000):
        penalty = overlong_penalty(length, penalty=1.0, share=0.2, max_tokens=20480)
        assert penalty == pytest.approx(-dapo(length), abs=1e-12)
    assert overlong_penalty(20480, penalty=0.5, share=0.2, max_tokens=20480) == 0.5
