"""GRPO against hand-computed numbers and its invariants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tristream.config.algorithms import GrpoSection
from tristream.learner.algorithms.grpo import group_advantages
from tristream.learner.algorithms.protocol import LossInputs, PolicyLoss
from tristream.learner.algorithms.registry import make_algorithm

LOGPROBS = st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=12)
REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


def loss_of(
    new: Tensor, old: Tensor, advantages: Tensor, num_global_tokens: int, section: GrpoSection | None = None
) -> PolicyLoss:
    inputs = LossInputs(
        logprobs=new,
        old_logprobs=old,
        advantages=advantages,
        rollout_lengths=torch.tensor([len(new)]),
        num_global_tokens=num_global_tokens,
        num_global_rollouts=1,
    )
    return make_algorithm(section or GrpoSection()).loss(inputs)


def test_advantages_are_normalised_with_the_unbiased_deviation() -> None:
    assert group_advantages([0.0, 1.0]) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)), abs=1e-5)
    # Mean 0.4, variance (0.16 * 3 + 0.36 * 2) / 4 = 0.3.
    below, above = -0.4 / (math.sqrt(0.3) + 1e-6), 0.6 / (math.sqrt(0.3) + 1e-6)
    assert group_advantages([0, 1, 0, 0, 1]) == pytest.approx((below, above, below, below, above), rel=1e-12)


def test_each_group_has_a_baseline_of_its_own() -> None:
    groups = [[0.0, 1.0], [5.0, 6.0, 7.0]]
    assert make_algorithm(GrpoSection()).advantages(groups) == [group_advantages(rewards) for rewards in groups]


def test_one_reward_has_no_baseline() -> None:
    with pytest.raises(ValueError, match="baseline"):
        group_advantages([1.0])


@given(REWARDS)
def test_advantages_sum_to_zero_and_keep_the_order(rewards: list[float]) -> None:
    advantages = group_advantages(rewards)
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-6)
    assert all(math.isfinite(advantage) for advantage in advantages)
    best = max(range(len(rewards)), key=lambda index: rewards[index])
    assert advantages[best] == max(advantages)


@given(st.floats(-10, 10), st.integers(2, 16))
def test_equal_rewards_have_no_advantage(reward: float, size: int) -> None:
    assert group_advantages([reward] * size) == pytest.approx([0.0] * size, abs=1e-6)


def test_rewards_whose_squares_leave_the_range_of_a_float_have_advantages() -> None:
    assert group_advantages([1e308, -1e308, 0.0]) == pytest.approx(group_advantages([1.0, -1.0, 0.0]))
    assert group_advantages([1e200] * 4) == pytest.approx([0.0] * 4, abs=1e-6)


def test_loss_equals_hand_computed_numbers() -> None:
    ratios = torch.tensor([1.0, 1.5, 1.5, 0.5, 0.5], dtype=torch.float64)
    advantages = torch.tensor([2.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    new = ratios.log().requires_grad_()
    result = loss_of(new, torch.zeros(5, dtype=torch.float64), advantages, 10)
    # -min(rA, clip(r, 0.8, 1.28) A): -2, -1.28, 1.5, -0.5, 0.8
    assert result.loss.item() == pytest.approx((-2 - 1.28 + 1.5 - 0.5 + 0.8) / 10)
    assert result.is_clipped.tolist() == [0, 1, 0, 0, 1]
    torch.autograd.backward(result.loss)
    assert new.grad is not None
    assert new.grad.tolist() == pytest.approx([-0.2, 0, 0.15, -0.05, 0])


def test_the_clip_range_is_that_of_the_run_file() -> None:
    ratio, zero = torch.tensor([1.5, 0.5]).log(), torch.zeros(2)
    section = GrpoSection(clip_low=0.6, clip_high=0.4)
    result = loss_of(ratio, zero, torch.tensor([1.0, -1.0]), 1, section)
    assert result.loss.item() == pytest.approx(-1.4 + 0.5)
    assert result.is_clipped.tolist() == [1, 0]


@settings(deadline=None)
@given(tokens=LOGPROBS)
def test_on_policy_gradient_is_minus_the_advantage_over_the_token_count(
    tokens: list[tuple[float, float, float]],
) -> None:
    new = torch.tensor([token[0] for token in tokens], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([token[2] for token in tokens], dtype=torch.float64)
    torch.autograd.backward(loss_of(new, new.detach(), advantages, len(tokens)).loss)
    assert new.grad is not None
    torch.testing.assert_close(new.grad, -advantages / len(tokens))


@settings(deadline=None)
@given(tokens=LOGPROBS, cut=st.integers(0, 12))
def test_parts_of_a_batch_add_up_to_the_whole(tokens: list[tuple[float, float, float]], cut: int) -> None:
    new, old, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    parts = [slice(None, cut), slice(cut, None)]
    total = sum(loss_of(new[part], old[part], advantages[part], len(tokens)).loss.item() for part in parts)
    assert total == pytest.approx(loss_of(new, old, advantages, len(tokens)).loss.item(), abs=1e-9)


@settings(deadline=None)
@given(tokens=LOGPROBS)
def test_a_clipped_token_has_no_gradient_and_others_do(tokens: list[tuple[float, float, float]]) -> None:
    values = torch.tensor(tokens, dtype=torch.float64)
    new = values[:, 0].clone().requires_grad_()
    result = loss_of(new, values[:, 1], values[:, 2], 1)
    torch.autograd.backward(result.loss)
    assert new.grad is not None
    assert bool((new.grad[result.is_clipped.bool()] == 0).all())
    assert bool((result.kl_k3 >= -1e-9).all())


def test_an_extreme_ratio_stays_finite() -> None:
    new = torch.tensor([0.0, -500.0], requires_grad=True)
    result = loss_of(new, torch.tensor([-500.0, 0.0]), torch.tensor([-1.0, 1.0]), 2)
    torch.autograd.backward(result.loss)
    assert math.isfinite(result.loss.item())
    assert new.grad is not None
    assert bool(new.grad.isfinite().all())
