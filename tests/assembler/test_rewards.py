"""Final rewards against hand-computed numbers and their invariants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tristream.assembler.rewards import final_reward, has_zero_variance
from tristream.wire.events import Combine, OnUnscored, RewardSpec, RewardTerm, TermMode

VALUES = st.floats(-10, 10)


def make_spec(
    weights: dict[str, float], combine: Combine = Combine.MEAN, on_unscored: OnUnscored = OnUnscored.LEAVE_OUT
) -> RewardSpec:
    return RewardSpec(
        terms=(RewardTerm(id="math", verifier="math", version="1", weights=weights),),
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


def test_two_terms_of_one_verifier_are_told_apart_by_their_id() -> None:
    spec = RewardSpec(
        terms=(
            RewardTerm(id="math", verifier="math", version="1", weights={"accuracy": 3.0}),
            RewardTerm(id="math-2", verifier="math", version="1", weights={"accuracy": 1.0}),
        ),
        ground_truth="4",
    )
    assert final_reward(spec, {"math": {"accuracy": 1.0}, "math-2": {"accuracy": 0.0}}) == 0.75


@given(VALUES, st.dictionaries(st.sampled_from(["accuracy", "format"]), VALUES), VALUES)
def test_whatever_a_shadow_says_the_reward_is_the_same(accuracy: float, said: dict[str, float], weight: float) -> None:
    spec = make_spec({"accuracy": 1.0})
    shadow = RewardTerm(id="shadow", verifier="math", version="2", weights={"accuracy": weight}, mode=TermMode.SHADOW)
    with_shadow = RewardSpec(terms=(shadow, *spec.terms), ground_truth="4")
    scored = {"math": {"accuracy": accuracy}}
    assert final_reward(with_shadow, {**scored, "shadow": said}) == final_reward(spec, scored)


@given(st.floats(-10, 10), st.integers(2, 16))
def test_equal_rewards_have_zero_variance(reward: float, size: int) -> None:
    assert has_zero_variance([reward] * size)
    assert not has_zero_variance([*[reward] * size, reward + 0.1])


def test_a_reward_alone_has_no_variance_to_be_zero() -> None:
    assert not has_zero_variance([1.0])
    assert not has_zero_variance([])


def test_a_negative_weight_is_a_penalty_that_never_inflates_the_rest() -> None:
    spec = make_spec({"accuracy": 1.0, "length": -0.5})
    assert final_reward(spec, {"math": {"accuracy": 1.0, "length": 0.0}}) == pytest.approx(2 / 3)
    assert final_reward(spec, {"math": {"accuracy": 1.0, "length": 1.0}}) == pytest.approx(1 / 3)
    assert final_reward(make_spec({"accuracy": 1.0, "length": -1.0}), {"math": {"accuracy": 1.0, "length": 0.0}}) == 0.5


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0, 1)), min_size=1, max_size=5))
def test_a_mean_never_leaves_the_range_of_its_components(pairs: list[tuple[float, float]]) -> None:
    spec = make_spec({f"c{i}": weight for i, (weight, _) in enumerate(pairs)})
    reward = final_reward(spec, {"math": {f"c{i}": value for i, (_, value) in enumerate(pairs)}})
    assert reward is not None
    assert -1 - 1e-9 <= reward <= 1 + 1e-9


def test_where_a_verifier_abstains_the_other_components_share_the_weight() -> None:
    spec = make_spec({"accuracy": 1.0, "style": 1.0})
    assert final_reward(spec, {"math": {"accuracy": 1.0, "style": None}}) == 1.0
    assert final_reward(spec, {"math": {"accuracy": None, "style": None}}) is None
    zeros = make_spec({"accuracy": 1.0, "style": 1.0}, on_unscored=OnUnscored.ZERO)
    assert final_reward(zeros, {"math": {"style": None}}) == 0.0
