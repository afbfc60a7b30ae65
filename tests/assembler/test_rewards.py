"""Final rewards and advantages against hand-computed numbers and their invariants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.assembler.rewards import final_reward, group_advantages, has_zero_variance
from tristream.wire.events import Combine, OnUnscored, RewardSpec, RewardTerm

REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=16)


def make_spec(
    weights: dict[str, float], combine: Combine = Combine.MEAN, on_unscored: OnUnscored = OnUnscored.LEAVE_OUT
) -> RewardSpec:
    return RewardSpec(
        terms=(RewardTerm(verifier="math", weights=weights),),
        ground_truth="4",
        combine=combine,
        on_unscored=on_unscored,
    )


def test_a_wrong_answer_in_the_right_format_earns_the_share_of_the_format() -> None:
    spec = make_spec({"accuracy": 1.0, "format": 0.1})
    assert final_reward(spec, {"math": {"accuracy": 0.0, "format": 1.0}}) == pytest.approx(0.090909, abs=1e-6)


def test_a_sum_is_not_normalised() -> None:
    spec = make_spec({"accuracy": 1.0, "format": 0.5}, Combine.SUM)
    assert final_reward(spec, {"math": {"accuracy": 1.0, "format": 1.0}}) == 1.5


def test_a_missing_score_is_not_a_number_unless_the_sample_says_zero() -> None:
    assert final_reward(make_spec({"accuracy": 1.0}), {}) is None
    assert final_reward(make_spec({"accuracy": 1.0}), {"math": {"accuracy": math.nan}}) is None
    assert final_reward(make_spec({"accuracy": 1.0}, on_unscored=OnUnscored.ZERO), {}) == 0.0


def test_a_component_without_weight_need_not_be_scored() -> None:
    assert final_reward(make_spec({"accuracy": 1.0, "format": 0.0}), {"math": {"accuracy": 0.25}}) == 0.25


def test_advantages_are_normalised_with_the_unbiased_deviation() -> None:
    assert group_advantages([0.0, 1.0]) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)), abs=1e-5)


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
def test_equal_rewards_have_zero_variance_and_no_advantage(reward: float, size: int) -> None:
    assert has_zero_variance([reward] * size)
    assert group_advantages([reward] * size) == pytest.approx([0.0] * size, abs=1e-6)
