"""The seam of algorithms: what a loss is given, and how the run file names one."""

import random
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from training_groups import TEXT_RULES, advantages_of, make_groups, make_outcome
from tristream.config.algorithms import AlgorithmSection
from tristream.config.learner import LearnerSection
from tristream.config.presets import PRESETS
from tristream.learner.algorithms.protocol import LossInputs
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.outcomes import with_advantages
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.train_step import BatchSize, make_loss_inputs
from tristream.runtime.errors import UserError


def make_inputs() -> tuple[LossInputs, torch.Tensor]:
    """What a loss is given of a packed batch whose second target cannot be sampled, and which targets can."""
    groups = make_groups(2, size=3, num_images=0, num_turns=2)
    (packed,) = pack_groups(groups, {}, advantages_of(groups), 1, TEXT_RULES)
    is_trained = torch.ones_like(packed.is_trained)
    is_trained[1] = False
    numbers = torch.arange(len(packed.targets), dtype=torch.float32) + 1
    batch = replace(packed, is_trained=is_trained, reference_logprobs=-numbers, proximal_logprobs=-2 * numbers)
    size = BatchSize(num_tokens=99, num_rollouts=7)
    return make_loss_inputs(batch, -3 * numbers, size), is_trained


def test_a_loss_sees_flat_tokens_with_the_boundaries_of_their_rollouts() -> None:
    inputs, _ = make_inputs()
    assert int(inputs.rollout_lengths.sum()) == len(inputs.logprobs) == len(inputs.old_logprobs)
    assert len(inputs.rollout_lengths) == 6
    assert (inputs.num_global_tokens, inputs.num_global_rollouts) == (99, 7)
    starts = inputs.rollout_lengths.cumsum(0) - inputs.rollout_lengths
    for start, length in zip(starts.tolist(), inputs.rollout_lengths.tolist(), strict=True):
        of_rollout = inputs.advantages[start : start + length]
        assert len(set(of_rollout[of_rollout != 0].tolist())) <= 1, "one advantage a rollout"


def test_inputs_that_later_algorithms_need_come_through_and_count_for_nothing_where_nothing_is_sampled() -> None:
    inputs, is_trained = make_inputs()
    numbers = torch.arange(len(is_trained), dtype=torch.float32) + 1
    assert inputs.reference_logprobs is not None
    assert inputs.proximal_logprobs is not None
    for values, factor in ((inputs.reference_logprobs, -1), (inputs.proximal_logprobs, -2), (inputs.logprobs, -3)):
        torch.testing.assert_close(values, torch.where(is_trained, factor * numbers, 0.0))
    assert inputs.advantages[1] == 0


def test_the_run_file_names_an_algorithm_with_its_parameters() -> None:
    section = LearnerSection.model_validate({"algorithm": {"type": "grpo", "clip_high": 0.5}}).algorithm
    assert (section.type, section.clip_high, section.aggregation) == ("grpo", 0.5, "sequence_mean")
    assert LearnerSection().algorithm == AlgorithmSection(type="vtriune")
    assert AlgorithmSection.model_validate_json(section.model_dump_json()) == section
    with pytest.raises(ValidationError, match="vtriune"):
        LearnerSection.model_validate({"algorithm": {"type": "unknown"}})


def test_presets_are_parameters_that_exist_and_differ_from_each_other() -> None:
    sections = {name: AlgorithmSection.model_validate({"type": name}) for name in PRESETS}
    for name, preset in PRESETS.items():
        defaults = AlgorithmSection()
        for parameter, value in preset.parameters.items():
            assert getattr(sections[name], parameter) == value != getattr(defaults, parameter)
    assert len({section.model_dump_json(exclude={"type"}) for section in sections.values()}) == len(PRESETS)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"importance": "mask"}, "need proximal"),
        ({"proximal": "recomputed", "importance": "mask", "importance_low": 3.0}, "importance_low"),
        ({"dual_clip": 1.1}, "dual_clip must be 0 or above"),
        ({"type": "cispo", "ratio_bound": 4.0}, "ratio_bound must be 0 or above"),
    ],
)
def test_parameters_that_make_no_sense_together_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AlgorithmSection.model_validate(parameters)


def test_an_algorithm_that_needs_the_longest_answer_asks_for_it() -> None:
    with pytest.raises(UserError, match="'dr_grpo' needs to know how long an answer can be"):
        make_algorithm(AlgorithmSection(type="dr_grpo"))
    assert make_algorithm(AlgorithmSection(type="dapo"), max_tokens=100).penalty(90) == pytest.approx(0.5)
    assert make_algorithm(AlgorithmSection(type="dapo", max_tokens=50), max_tokens=100).penalty(50) == 1.0
    assert make_algorithm(AlgorithmSection()).penalty(10**6) == 0


def test_a_penalty_changes_advantages_and_no_reward() -> None:
    (group,) = make_groups(1, size=3, num_images=0)
    outcome = make_outcome(random.Random(0), group, step=1)
    key = RolloutKey(group_number=group.group.number, index=1)
    (done,) = with_advantages(
        [outcome], make_algorithm(AlgorithmSection(advantage="group_mean")).advantages, {key: 3.0}
    )
    rewards = [rollout.reward for rollout in outcome.rollouts]
    assert [rollout.reward for rollout in done.rollouts] == rewards
    rewards[1] -= 3.0
    mean = sum(rewards) / 3
    assert [rollout.advantage for rollout in done.rollouts] == pytest.approx([reward - mean for reward in rewards])
