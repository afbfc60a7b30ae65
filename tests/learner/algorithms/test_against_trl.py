"""Losses and advantages against TRL 1.16, in float64: its own code, called on given tensors without a trainer."""

import math
from collections import defaultdict
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.trainer.utils import nanstd

from flat_tokens import LENGTHS, LONGEST, make_inputs, value_and_gradient
from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.advantages.batch_std import batch_std_advantages
from tristream.learner.algorithms.advantages.group_mean import group_mean_advantages
from tristream.learner.algorithms.advantages.group_std import group_std_advantages
from tristream.learner.algorithms.protocol import LossInputs

TYPES = {"grpo": "sequence_mean", "dapo": "token_mean", "dr_grpo": "fixed_length"}
"""TRL's loss types by what they are here."""
CASES = [
    *product(TYPES, ["token", "sequence"], [0.0, 0.04], [0.0, 1.5], [False, True]),
    *product(["cispo"], ["token", "sequence"], [0.0, 0.04], [0.0], [False, True]),
]
CISPO_CAP = 1.4


def padded(values: Tensor) -> Tensor:
    """Flat tokens as rows of equal length; what is not a token is 0."""
    return torch.nn.utils.rnn.pad_sequence(list(torch.split(values, list(LENGTHS))), batch_first=True)


def unpadded(rows: Tensor) -> Tensor:
    return torch.cat([row[:length] for row, length in zip(rows, LENGTHS, strict=True)])


def trainer_with(kind: str, level: str, beta: float, delta: float, *, weighs: bool, logprobs: Tensor) -> Any:
    """What TRL's loss reads of a trainer."""
    same: Any = lambda values, **_options: values  # noqa: E731
    return SimpleNamespace(
        accelerator=SimpleNamespace(
            num_processes=1, gather=same, gather_for_metrics=same, reduce=same, sync_gradients=True
        ),
        _metrics={"train": defaultdict(list)},
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(delta=delta or None, use_bias_correction_kl=False, steps_per_generation=1),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=level,
        beta=beta,
        loss_type=kind,
        epsilon_low=0.2,
        epsilon_high=CISPO_CAP if kind == "cispo" else 0.28,
        use_vllm=weighs,
        vllm_importance_sampling_correction=weighs,
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_args, **_options: (logprobs, torch.zeros_like(logprobs), None),
    )


def trl_value_and_gradient(
    inputs: LossInputs, kind: str, level: str, beta: float, delta: float, *, weighs: bool
) -> tuple[float, Tensor]:
    assert inputs.proximal_logprobs is not None
    assert inputs.reference_logprobs is not None
    logprobs = padded(inputs.logprobs.detach()).requires_grad_()
    mask = padded(torch.ones_like(inputs.advantages))
    ends = inputs.rollout_lengths.cumsum(0) - 1
    nothing = torch.zeros(len(LENGTHS), 1, dtype=torch.long)
    given = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.zeros_like(mask, dtype=torch.long),
        "completion_mask": mask,
        "advantages": inputs.advantages[ends],
        "old_per_token_logps": padded(inputs.proximal_logprobs),
        "ref_per_token_logps": padded(inputs.reference_logprobs),
        "num_items_in_batch": mask.sum(),
        "importance_sampling_ratio": padded((inputs.proximal_logprobs - inputs.old_logprobs).exp().clamp(max=2.0)),
    }
    trainer = trainer_with(kind, level, beta, delta, weighs=weighs, logprobs=logprobs)
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, given)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), unpadded(gradient)


def section_for(kind: str, level: str, beta: float, delta: float, *, weighs: bool) -> AlgorithmSection:
    is_cispo = kind == "cispo"
    return AlgorithmSection.model_validate(
        {
            "ratio": level,
            "loss": "cispo" if is_cispo else "clipped",
            "clip_low": 1.0 if is_cispo else 0.2,
            "clip_high": CISPO_CAP - 1 if is_cispo else 0.28,
            "aggregation": TYPES.get(kind, "token_mean"),
            "kl_coefficient": beta,
            "ratio_bound": delta,
            "proximal": "recomputed",
            "importance": "truncate" if weighs else "none",
        }
    )


@pytest.mark.parametrize(("kind", "level", "beta", "delta", "weighs"), CASES)
def test_value_and_gradient_are_those_of_trl(kind: str, level: str, beta: float, delta: float, weighs: bool) -> None:
    inputs = make_inputs()
    expected, expected_gradient = trl_value_and_gradient(inputs, kind, level, beta, delta, weighs=weighs)
    value, gradient = value_and_gradient(inputs, section_for(kind, level, beta, delta, weighs=weighs))
    assert math.isclose(value, expected, rel_tol=0, abs_tol=1e-10)
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-10)


def test_the_cases_tell_losses_apart() -> None:
    inputs = make_inputs()
    values = {trl_value_and_gradient(inputs, *case[:4], weighs=case[4])[0] for case in CASES}
    assert len(values) == len(CASES), "each option makes a difference on these tokens"


def test_advantages_are_those_of_trl() -> None:
    # TRL takes n / (n - 1) in float32: 3 / 2 and 9 / 8 are exact in it.
    groups = [[1.0, 0.0, 0.0], [0.0, 0.5, 0.25], [1.0, 0.5, 0.2]]
    rewards = torch.tensor(groups, dtype=torch.float64)
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    expected = {
        group_std_advantages: centred / (nanstd(rewards, dim=1)[:, None] + 1e-4),
        batch_std_advantages: centred / (nanstd(rewards) + 1e-4),
    }
    assert torch.equal(torch.tensor(group_mean_advantages(groups), dtype=torch.float64), centred)
    for advantages, values in expected.items():
        actual = torch.tensor(advantages(groups, epsilon=1e-4), dtype=torch.float64)
        torch.testing.assert_close(actual, values, rtol=0, atol=1e-10)
