"""The updates of a batch: how it is split, what they leave out, what is computed before them, and their sum."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training_groups import TEXT_RULES, advantages_of, make_groups
from tristream.config.algorithms import AlgorithmSection
from tristream.config.learner import LearnerSection
from tristream.config.load import load_run_file
from tristream.config.parts import LearnerSettings
from tristream.learner.algorithms.protocol import Algorithm
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import start_process_group
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.reference_policy import ReferencePolicy, load_reference
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.train_step import StepResult, make_loss_inputs, train_step
from tristream.learner.training.trained_policy import TrainedPolicy, load_policy
from tristream.learner.training.updates import (
    Answer,
    Update,
    answers_of,
    left_out_of,
    merge_results,
    run_updates,
    size_of,
    split_numbers,
)
from tristream.runtime.errors import UserError
from tristream.wire.batches import TrainingGroup

DEMO = Path(__file__).parents[2] / "examples/digits/run.toml"
GROUPS = make_groups(3, size=4, num_images=0, num_turns=2)


class Trainer:
    """An engine on a fresh copy of a small model."""

    def __init__(self, folder: Path) -> None:
        start_process_group()
        self._folder = folder
        self.engine = TrainingEngine(self.load(), LearnerSection(learning_rate=1e-2), precision="fp32")

    def load(self) -> TrainedPolicy:
        return load_policy(self._folder, precision="fp32", freeze=(), logprob_chunk_tokens=64)

    def run(
        self, groups: Sequence[TrainingGroup], section: AlgorithmSection, *, num_micro_batches: int = 1, steps: int = 1
    ) -> StepResult:
        algorithm = make_algorithm(section)
        reference = ReferencePolicy(self.load()) if algorithm.needs_reference else None
        for _step in range(steps):
            updates = updates_of(groups, algorithm, num_micro_batches)
            result = run_updates(self.engine, updates, algorithm, reference, step=1)
        return result

    def weights(self) -> Tensor:
        return torch.cat([tensor.flatten() for tensor in self.engine.full_weights().values()]).clone()


def updates_of(groups: Sequence[TrainingGroup], algorithm: Algorithm, num_micro_batches: int) -> list[Update]:
    answers = answers_of(groups)
    left_out = left_out_of(answers, algorithm)
    updates = []
    for numbers in split_numbers([group.group.number for group in groups], algorithm.updates_per_batch):
        own = [group for group in groups if group.group.number in numbers]
        micro_batches = pack_groups(own, {}, advantages_of(groups), num_micro_batches, TEXT_RULES)
        size = size_of(answers, numbers, left_out)
        updates.append(Update(micro_batches=micro_batches, size=size, left_out=left_out))
    return updates


@pytest.fixture
def trainers(text_checkpoint: Path) -> Iterator[tuple[Trainer, Trainer]]:
    """Two engines on the same weights."""
    pair = Trainer(text_checkpoint), Trainer(text_checkpoint)
    yield pair
    for trainer in pair:
        trainer.engine.close()


def cut_off(groups: Sequence[TrainingGroup], *keys: tuple[int, int]) -> list[TrainingGroup]:
    """The groups with these rollouts cut off."""
    return [
        replace(
            group,
            rollouts=tuple(
                replace(rollout, is_truncated=(group.group.number, rollout.index) in keys) for rollout in group.rollouts
            ),
        )
        for group in groups
    ]


def test_the_groups_of_a_batch_are_dealt_out_to_its_updates() -> None:
    assert split_numbers([3, 5, 8, 9, 11], 2) == [frozenset({3, 8, 11}), frozenset({5, 9})]
    assert split_numbers([3, 5], 4) == [frozenset({3}), frozenset({5})], "no update without a group"
    assert split_numbers([3, 5], 1) == [frozenset({3, 5})]


def test_sizes_of_updates_add_up_to_the_batch_and_tell_what_is_left_out() -> None:
    groups = cut_off(GROUPS, (0, 1), (2, 3))
    answers = answers_of(groups)
    assert answers[RolloutKey(group_number=0, index=1)] == Answer(
        num_tokens=GROUPS[0].rollouts[1].num_sampled_tokens, is_truncated=True
    )
    assert left_out_of(answers, make_algorithm(AlgorithmSection())) == frozenset()
    left_out = left_out_of(answers, make_algorithm(AlgorithmSection(overlong="mask")))
    assert left_out == {RolloutKey(group_number=0, index=1), RolloutKey(group_number=2, index=3)}
    first, second = (size_of(answers, numbers, left_out) for numbers in split_numbers([0, 1, 2], 2))
    assert (first.num_rollouts, second.num_rollouts) == (8, 4)
    assert (first.num_rollouts_left_out, second.num_rollouts_left_out) == (2, 0)
    assert first.num_tokens + second.num_tokens == sum(r.num_sampled_tokens for g in GROUPS for r in g.rollouts)
    assert first.num_tokens_left_out == (
        GROUPS[0].rollouts[1].num_sampled_tokens + GROUPS[2].rollouts[3].num_sampled_tokens
    )


def test_a_rollout_that_is_left_out_counts_for_nothing_in_the_loss() -> None:
    groups = cut_off(GROUPS, (1, 2))
    algorithm = make_algorithm(AlgorithmSection(overlong="mask"))
    (update,) = updates_of(groups, algorithm, 1)
    (batch,) = update.micro_batches
    inputs = make_loss_inputs(batch, batch.old_logprobs - 1, update.size, update.left_out)
    where = batch.rollouts.index(RolloutKey(group_number=1, index=2))
    start = int(batch.rollout_lengths[:where].sum())
    own = slice(start, start + int(batch.rollout_lengths[where]))
    for values in (inputs.logprobs, inputs.old_logprobs, inputs.advantages):
        assert not values[own].any()
    assert inputs.num_global_rollouts == 11
    assert inputs.num_global_tokens == len(batch.targets) - int(batch.rollout_lengths[where])
    assert int((inputs.advantages != 0).sum()) == inputs.num_global_tokens


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_a_rollout_that_is_left_out_trains_as_if_it_were_not_there(
    trainers: tuple[Trainer, Trainer], aggregation: str
) -> None:
    section = AlgorithmSection.model_validate({"overlong": "mask", "aggregation": aggregation})
    one, other = trainers
    one.run(cut_off(GROUPS, (1, 2)), section)
    shorter = replace(GROUPS[1], rollouts=tuple(r for r in GROUPS[1].rollouts if r.index != 2))
    other.run([GROUPS[0], shorter, GROUPS[2]], section)
    torch.testing.assert_close(one.weights(), other.weights(), rtol=1e-5, atol=1e-5)


def test_updates_of_a_batch_are_steps_one_after_the_other(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    section = AlgorithmSection(updates_per_batch=2, epochs=2)
    result = one.run(GROUPS, section)
    algorithm = make_algorithm(section)
    updates = updates_of(GROUPS, algorithm, 1)
    singles = [
        train_step(other.engine, update.micro_batches, algorithm, step=1, size=update.size)
        for update in [*updates, *updates]
    ]
    assert torch.equal(one.weights(), other.weights())
    assert result.metrics["model_tokens"] == sum(single.metrics["model_tokens"] for single in singles)
    means = [single.metrics["grad_norm"] for single in singles]
    assert min(means) < result.metrics["grad_norm"] < max(means)
    assert len(result.statistics) == 12, "one row a rollout"


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "gspo", "clip_low": 0.5, "clip_high": 0.5},
        {"importance": "mask", "importance_level": "sequence", "importance_high": 1e6},
        {"type": "grpo", "importance": "truncate", "importance_level": "geometric"},
        {"type": "cispo"},
    ],
)
def test_any_number_of_micro_batches_gives_the_same_updates(
    trainers: tuple[Trainer, Trainer], parameters: dict[str, object]
) -> None:
    section = AlgorithmSection.model_validate({"updates_per_batch": 2, "proximal": "recomputed", **parameters})
    one, other = trainers
    first = one.run(GROUPS, section, num_micro_batches=1, steps=2)
    second = other.run(GROUPS, section, num_micro_batches=7, steps=2)
    assert second.metrics["grad_norm"] == pytest.approx(first.metrics["grad_norm"], rel=1e-4)
    assert second.metrics["loss"] == pytest.approx(first.metrics["loss"], rel=1e-4, abs=1e-6)


def test_the_first_update_of_recomputed_old_policies_clips_nothing_and_later_ones_do(
    trainers: tuple[Trainer, Trainer],
) -> None:
    one, other = trainers
    clips = {"clip_low": 1e-4, "clip_high": 1e-4, "proximal": "recomputed"}
    assert one.run(GROUPS, AlgorithmSection.model_validate(clips)).metrics["clip_fraction"] == 0
    section = AlgorithmSection.model_validate({**clips, "epochs": 2})
    assert other.run(GROUPS, section).metrics["clip_fraction"] > 0.1
    sampled = AlgorithmSection.model_validate({**clips, "proximal": "sampled"})
    assert one.run(GROUPS, sampled).metrics["clip_fraction"] > 0.1, "these tokens were sampled by another policy"


def test_the_reference_is_the_model_before_training(trainers: tuple[Trainer, Trainer]) -> None:
    one, other = trainers
    weak, strong = AlgorithmSection(kl_coefficient=1e-6), AlgorithmSection(kl_coefficient=10.0)
    first = one.run(GROUPS, weak), other.run(GROUPS, strong)
    assert [result.metrics["kl_reference"] for result in first] == pytest.approx([0.0, 0.0], abs=1e-6)
    torch.testing.assert_close(one.weights(), other.weights(), rtol=1e-4, atol=1e-4)
    far, near = one.run(GROUPS, weak, steps=4), other.run(GROUPS, strong, steps=4)
    assert 0 < near.metrics["kl_reference"] < 0.8 * far.metrics["kl_reference"]


def test_a_reference_that_is_no_checkpoint_is_named_by_its_own_key(text_checkpoint: Path, tmp_path: Path) -> None:
    keys = ["learner.algorithm.type=grpo", f"learner.algorithm.reference={tmp_path}", f"model.path={text_checkpoint}"]
    settings = LearnerSettings.of(load_run_file(DEMO, keys, environment={}))
    policy = load_policy(text_checkpoint, precision="fp32", freeze=(), logprob_chunk_tokens=64)
    with pytest.raises(UserError, match=r"\[learner.algorithm\] reference = .*has no config.json"):
        load_reference(settings, policy)


def test_a_sampled_logprob_that_is_no_number_is_seen_where_a_mask_hides_it_from_the_loss(
    trainers: tuple[Trainer, Trainer],
) -> None:
    one, _ = trainers
    algorithm = make_algorithm(AlgorithmSection(proximal="recomputed", importance="mask", epochs=2))
    (update,) = updates_of(GROUPS, algorithm, 1)
    (batch,) = update.micro_batches
    spoilt = batch.old_logprobs.clone()
    spoilt[3] = math.nan
    before = one.weights()
    update = replace(update, micro_batches=[replace(batch, old_logprobs=spoilt)])
    result = run_updates(one.engine, [update], algorithm, None, step=1)
    assert result.metrics["skipped_updates"] == 2
    assert result.metrics["skipped_logprobs"] == 1
    assert torch.equal(one.weights(), before)


def test_merged_results_add_up_counts_and_average_the_rest() -> None:
    def result(loss: float, skipped: float, tokens: float) -> StepResult:
        return StepResult(
            metrics={"loss": loss, "skipped_updates": skipped, "skipped_loss": skipped, "model_tokens": tokens},
            layer_grad_norms={"layer": loss}, statistics=torch.full((2, 1), loss, dtype=torch.float64),
            forward_backward_seconds=1.0, optimizer_seconds=0.5,
        )  # fmt: skip

    merged = merge_results([result(1.0, 1.0, 10.0), result(4.0, 1.0, 20.0)], [100, 200], 1)
    assert merged.metrics == pytest.approx(
        {"loss": 3.0, "skipped_updates": 2.0, "skipped_loss": 1.0, "model_tokens": 30.0}
    )
    assert merged.layer_grad_norms == pytest.approx({"layer": 3.0})
    assert len(merged.statistics) == 2
    assert (merged.forward_backward_seconds, merged.optimizer_seconds) == (2.0, 1.0)
