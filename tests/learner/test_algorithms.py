"""The seam of algorithms: what a loss is given, and how the run file names one."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from training_groups import TEXT_RULES, advantages_of, make_groups
from tristream.config.algorithms import GrpoSection
from tristream.config.learner import LearnerSection
from tristream.learner.algorithms.protocol import LossInputs
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import BatchSize, make_loss_inputs


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
    assert section == GrpoSection(clip_high=0.5)
    inputs = LossInputs(
        logprobs=torch.tensor([1.0]), old_logprobs=torch.tensor([0.0]), advantages=torch.tensor([1.0]),
        rollout_lengths=torch.tensor([1]), num_global_tokens=1, num_global_rollouts=1,
    )  # fmt: skip
    assert float(make_algorithm(section).loss(inputs).loss) == pytest.approx(-1.5)
    with pytest.raises(ValidationError, match="grpo"):
        LearnerSection.model_validate({"algorithm": {"type": "unknown"}})
