"""Advantages against hand-computed numbers, torch in float64, and their invariants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.advantages.batch_std import batch_std_advantages
from tristream.learner.algorithms.advantages.group_std import group_std_advantages
from tristream.learner.algorithms.registry import make_algorithm

REWARDS = st.lists(st.floats(-10, 10), min_size=2, max_size=16)
GROUPS = st.lists(REWARDS, min_size=1, max_size=5)
EPSILON = 1e-6
NAMES = ("group_std", "group_mean", "leave_one_out", "batch_std")


def advantages_by_name(name: str, groups: list[list[float]], epsilon: float = EPSILON) -> list[tuple[float, ...]]:
    section = AlgorithmSection.model_validate({"advantage": name, "advantage_epsilon": epsilon})
    return make_algorithm(section).advantages(groups)


def of_one(name: str, rewards: list[float]) -> tuple[float, ...]:
    (advantages,) = advantages_by_name(name, [rewards])
    return advantages


def test_advantages_are_normalised_with_the_unbiased_deviation() -> None:
    assert of_one("group_std", [0.0, 1.0]) == pytest.approx((-math.sqrt(0.5), math.sqrt(0.5)), abs=1e-5)
    # Mean 0.4, variance (0.16 * 3 + 0.36 * 2) / 4 = 0.3.
    below, above = -0.4 / (math.sqrt(0.3) + 1e-6), 0.6 / (math.sqrt(0.3) + 1e-6)
    assert of_one("group_std", [0, 1, 0, 0, 1]) == pytest.approx((below, above, below, below, above), rel=1e-12)


@given(GROUPS, st.sampled_from([0.0, 1e-6, 1e-4, 0.1]))
def test_advantages_equal_those_of_torch_in_float64(groups: list[list[float]], epsilon: float) -> None:
    whole = torch.tensor([reward for rewards in groups for reward in rewards], dtype=torch.float64)
    for index, rewards in enumerate(groups):
        group = torch.tensor(rewards, dtype=torch.float64)
        centred = group - group.mean()
        others = torch.stack([group[torch.arange(len(group)) != i].mean() for i in range(len(group))])
        expected = {"group_mean": centred, "leave_one_out": group - others}
        if group.std() + epsilon > 1e-6:
            expected["group_std"] = centred / (group.std() + epsilon)
            expected["batch_std"] = centred / (whole.std() + epsilon)
        for name, values in expected.items():
            actual = torch.tensor(advantages_by_name(name, groups, epsilon)[index], dtype=torch.float64)
            torch.testing.assert_close(actual, values, rtol=1e-7, atol=1e-10, msg=name)


def test_the_run_file_names_advantages_and_what_is_added_to_the_deviation() -> None:
    section = AlgorithmSection(advantage="batch_std", advantage_epsilon=0.5)
    groups = [[0.0, 1.0], [5.0, 6.0, 7.0]]
    assert make_algorithm(section).advantages(groups) == batch_std_advantages(groups, epsilon=0.5)
    assert make_algorithm(AlgorithmSection()).advantages(groups) == group_std_advantages(groups, epsilon=1e-6)


def test_each_group_has_a_baseline_of_its_own() -> None:
    groups = [[0.0, 1.0], [5.0, 6.0, 7.0]]
    assert group_std_advantages(groups, epsilon=EPSILON) == [of_one("group_std", rewards) for rewards in groups]


@pytest.mark.parametrize("name", NAMES)
def test_one_reward_has_no_baseline_and_no_group_has_no_advantages(name: str) -> None:
    with pytest.raises(ValueError, match="baseline"):
        of_one(name, [1.0])
    assert advantages_by_name(name, []) == []


@given(st.sampled_from(NAMES), REWARDS)
def test_advantages_sum_to_zero_and_keep_the_order(name: str, rewards: list[float]) -> None:
    advantages = of_one(name, rewards)
    assert math.fsum(advantages) == pytest.approx(0.0, abs=1e-6)
    assert all(math.isfinite(advantage) for advantage in advantages)
    best = max(range(len(rewards)), key=lambda index: rewards[index])
    assert advantages[best] == max(advantages)


@given(st.sampled_from(NAMES), st.floats(-10, 10), st.integers(2, 16))
def test_equal_rewards_have_no_advantage(name: str, reward: float, size: int) -> None:
    assert of_one(name, [reward] * size) == pytest.approx([0.0] * size, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rewards_whose_squares_leave_the_range_of_a_float_have_advantages(name: str) -> None:
    assert all(map(math.isfinite, of_one(name, [1e308, -1e308, 0.0])))
    assert of_one(name, [1e200] * 4) == pytest.approx([0.0] * 4, abs=1e-6)
    assert of_one("group_std", [1e308, -1e308, 0.0]) == pytest.approx(of_one("group_std", [1.0, -1.0, 0.0]))
