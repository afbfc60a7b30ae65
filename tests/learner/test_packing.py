"""Packed rollouts of any shape have the log-probabilities and gradients that each has alone."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from training_groups import (
    IMAGE_TOKEN,
    advantages_of,
    given_with,
    is_sampled_of,
    key_of,
    make_given,
    make_groups,
    make_image,
    make_rollout,
    make_sampled,
    sampled_as,
    split_scores,
    tokens_of,
    units_of,
    wrap_rollouts,
)
from tristream.learner.training.packing import MicroBatch, pack_groups
from tristream.learner.training.sequences import PackingRules, RolloutKey
from tristream.learner.training.trained_policy import TrainedPolicy, load_policy
from tristream.policy.images import ImageLoader, ProcessedImage
from tristream.policy.tokens import excluded_token_ids
from tristream.wire.arrays import Tokens
from tristream.wire.batches import TrainingGroup, TrainingRollout
from tristream.wire.events import Image, given

Groups = Sequence[TrainingGroup]
Scores = dict[RolloutKey, Tensor]


def read_inline(image: Image) -> bytes:
    return image.data


def load_images(path: Path, groups: Groups) -> dict[str, ProcessedImage]:
    loader = ImageLoader(path, read_inline)
    return {
        image.sha256: loader.load(image) for group in groups for rollout in group.rollouts for image in rollout.images
    }


def load_policy_of(path: Path, chunk_tokens: int = 1024) -> TrainedPolicy:
    return load_policy(path, precision="fp32", freeze=(), logprob_chunk_tokens=chunk_tokens)


def pack_for(path: Path, rules: PackingRules, groups: Groups, count: int) -> list[MicroBatch]:
    return pack_groups(groups, load_images(path, groups), advantages_of(groups), count, rules)


def score_alone(model: Any, rollout: TrainingRollout, images: dict[str, ProcessedImage]) -> Tensor:
    """Log-probabilities of the sampled tokens of a rollout in a plain forward pass of its own."""
    ids = torch.tensor([tokens_of(rollout)])
    inputs: dict[str, Tensor] = {}
    if rollout.images:
        of_rollout = [images[image.sha256] for image in rollout.images]
        # mm_token_type_ids decides between M-RoPE and plain positions.
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
        inputs["pixel_values"] = torch.cat([image.pixel_values for image in of_rollout])
        inputs["image_grid_thw"] = torch.tensor([image.grid_thw for image in of_rollout])
    logits = model(input_ids=ids, **inputs).logits[0].float() / rollout.temperature
    logits[:, list(excluded_token_ids(model.config))] = -torch.inf
    of_next = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[0, 1:, None]).squeeze(1)
    return of_next[torch.tensor(is_sampled_of(rollout)[1:])]


def load_plain(path: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader = AutoModelForImageTextToText if "vision" in path.name else AutoModelForCausalLM
    return loader.from_pretrained(path, attn_implementation="eager")


def assert_equals_alone(path: Path, groups: Groups, num_micro_batches: int) -> None:
    plain = load_plain(path)
    images = load_images(path, groups)
    expected: Scores = {
        key_of(group, rollout): score_alone(plain, rollout, images) for group in groups for rollout in group.rollouts
    }
    torch.autograd.backward([logprobs.sin().sum() for logprobs in expected.values()])

    policy = load_policy_of(path, chunk_tokens=7)
    micro_batches = pack_for(path, policy.packing_rules(), groups, num_micro_batches)
    assert len(micro_batches) == num_micro_batches
    for micro_batch in micro_batches:
        logprobs, _ = policy(micro_batch)
        torch.autograd.backward(logprobs.sin().sum())
        for key, actual in split_scores(micro_batch, logprobs).items():
            torch.testing.assert_close(actual, expected.pop(key), atol=2e-5, rtol=1e-5)
    assert not expected
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in policy.checkpoint.named_parameters():
        if gradients[name] is None:
            assert parameter.grad is None, name
            continue
        torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-4, rtol=1e-3, msg=name)


# Log-probabilities and gradients -----------------------------------------------------------------


@pytest.mark.parametrize("num_micro_batches", [1, 2, 5])
@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_packed_logprobs_and_gradients_equal_those_of_each_rollout_alone(
    vision_checkpoint: Path, num_micro_batches: int, num_images: int
) -> None:
    assert_equals_alone(vision_checkpoint, make_groups(3, num_images=num_images), num_micro_batches)


def test_packed_text_model_equals_each_rollout_alone(text_checkpoint: Path) -> None:
    assert_equals_alone(text_checkpoint, make_groups(3, num_images=0, num_turns=3), 2)


@pytest.mark.parametrize("num_micro_batches", [1, 2, 7])
def test_ragged_turns_with_images_in_later_ones_equal_each_rollout_alone(
    vision_checkpoint: Path, num_micro_batches: int
) -> None:
    groups = make_groups(3, num_images=1, num_turns=3, seed=4)
    turns = {len(rollout.segments) // 2 for group in groups for rollout in group.rollouts}
    images = {len(rollout.images) for group in groups for rollout in group.rollouts}
    assert turns == {1, 2, 3}
    assert len(images) > 1
    assert_equals_alone(vision_checkpoint, groups, num_micro_batches)


def make_forks(second_images: Sequence[Image], seed: int = 0) -> TrainingGroup:
    """Rollouts that share prompt, answer and the text of the next turn, whose image is one of these."""
    generator = random.Random(seed)
    prompt, answer = make_given(generator, 1), make_sampled(generator)
    state = generator.getstate()
    rollouts = []
    for index, image in enumerate(second_images):
        generator.setstate(state)
        turn = given_with(generator, [image])
        rollouts.append(make_rollout(index, [prompt, answer, turn, sampled_as([7 + index, 5, 9])]))
    return wrap_rollouts(seed, rollouts)


def image_of_two_cells(seed: int) -> Image:
    """One of many images that all have two placeholders, side by side."""
    generator = random.Random(seed)
    while True:
        image = make_image(generator)
        if given_with(random.Random(0), [image]).tokens.to_list().count(IMAGE_TOKEN) == 2:
            return image


def test_a_prefix_goes_on_through_sampled_tokens_and_an_image_that_all_rollouts_have(vision_checkpoint: Path) -> None:
    group = make_forks([image_of_two_cells(1)] * 3)
    policy = load_policy_of(vision_checkpoint)
    (micro_batch,) = pack_for(vision_checkpoint, policy.packing_rules(), [group], 1)
    assert len(micro_batch.images) == 2
    assert micro_batch.num_tokens == group.rollouts[0].num_tokens - 3 + 3 * 2
    assert_equals_alone(vision_checkpoint, [group], 1)


def test_a_prefix_ends_where_equal_placeholders_stand_for_different_images(vision_checkpoint: Path) -> None:
    group = make_forks([image_of_two_cells(1), image_of_two_cells(2), image_of_two_cells(1)])
    first, second, _ = group.rollouts
    assert tokens_of(first)[:-3] == tokens_of(second)[:-3]
    policy = load_policy_of(vision_checkpoint)
    (micro_batch,) = pack_for(vision_checkpoint, policy.packing_rules(), [group], 1)
    prompt_and_answer = sum(len(segment.tokens) for segment in first.segments[:2])
    text_before = first.segments[2].tokens.to_list().index(IMAGE_TOKEN)
    shared = prompt_and_answer + text_before
    assert micro_batch.num_tokens == shared + 3 * (first.num_tokens - 1 - shared)
    assert len(micro_batch.images) == 3, "the first and third rollout's image is held once"
    assert_equals_alone(vision_checkpoint, [group], 1)


def test_equal_rollouts_and_one_that_is_the_beginning_of_another_have_no_tails_of_their_own(
    text_checkpoint: Path,
) -> None:
    prompt = given(Tokens.of([5, 6, 7]))
    long, short = sampled_as([8, 9, 10, 11]), sampled_as([8, 9])
    group = wrap_rollouts(0, [make_rollout(index, [prompt, end]) for index, end in enumerate([long, short, long])])
    (unit,) = units_of(group)
    assert unit.prefix_length == 4
    assert unit.tail_lengths == [2, 0, 2]
    assert_equals_alone(text_checkpoint, [group], 1)


def test_rollouts_that_do_not_begin_alike_are_computed_apart(text_checkpoint: Path) -> None:
    prompts = [given(Tokens.of([first, 6, 7])) for first in (5, 6, 5)]
    group = wrap_rollouts(
        0, [make_rollout(index, [prompt, sampled_as([8, 9])]) for index, prompt in enumerate(prompts)]
    )
    assert sorted(len(unit.sequences) for unit in units_of(group)) == [1, 2]
    assert_equals_alone(text_checkpoint, [group], 1)


# Targets -----------------------------------------------------------------------------------------


def test_tokens_of_a_tool_are_read_but_never_predicted(text_checkpoint: Path) -> None:
    policy = load_policy_of(text_checkpoint)
    scores: list[Tensor] = []
    for last_of_tool in (42, 43):
        tool = given(Tokens.of([40, 41, last_of_tool]))
        segments = [given(Tokens.of([5, 6])), sampled_as([8, 9]), tool, sampled_as([10, 11])]
        group = wrap_rollouts(0, [make_rollout(0, segments)])
        (micro_batch,) = pack_for(text_checkpoint, policy.packing_rules(), [group], 1)
        assert micro_batch.targets.tolist() == [8, 9, 10, 11], "no given token is a target"
        scores.append(policy(micro_batch)[0])
    assert torch.equal(scores[0][:2], scores[1][:2]), "what came before does not know the tool's answer"
    assert not torch.equal(scores[0][2:], scores[1][2:]), "what came after has read it"


def test_predicting_a_tool_s_token_has_no_gradient(text_checkpoint: Path) -> None:
    prompt, tool = given(Tokens.of([5, 6])), given(Tokens.of([40, 41, 42]))
    group = wrap_rollouts(0, [make_rollout(0, [prompt, sampled_as([8]), tool, sampled_as([10])])])
    policy = load_policy_of(text_checkpoint)
    hidden: list[Tensor] = []
    policy.decoder.register_forward_hook(lambda _module, _inputs, output: hidden.append(output.last_hidden_state))
    (micro_batch,) = pack_for(text_checkpoint, policy.packing_rules(), [group], 1)
    logprobs, _ = policy(micro_batch)
    (gradient,) = torch.autograd.grad(logprobs.sum(), hidden)
    predicts = gradient[0].abs().sum(dim=1) > 0
    # [5, 6, 8, 40, 41, 42]: 6 predicts 8, and 42 predicts 10.
    assert predicts.tolist() == [False, True, False, False, False, True]


def test_a_sampled_placeholder_is_not_trained(vision_checkpoint: Path) -> None:
    (group,) = make_groups(1, size=2)
    prompt = group.rollouts[0].segments[0]
    spoilt = replace(group.rollouts[0], segments=(prompt, sampled_as([5, IMAGE_TOKEN, 6])))
    policy = load_policy_of(vision_checkpoint)
    rules = policy.packing_rules()
    (micro_batch,) = pack_for(vision_checkpoint, rules, [replace(group, rollouts=(spoilt,))], 1)
    assert micro_batch.is_trained.tolist() == [True, False, True]
    assert policy(micro_batch)[0][1] == -torch.inf


def test_a_sampled_placeholder_stands_for_no_image_of_a_later_turn(vision_checkpoint: Path) -> None:
    generator = random.Random(2)
    prompt, turn = make_given(generator, 0), make_given(generator, 1)
    rollouts = [
        make_rollout(index, [prompt, sampled_as([5, token, 6]), turn, sampled_as([7])])
        for index, token in enumerate([IMAGE_TOKEN, 9])
    ]
    policy = load_policy_of(vision_checkpoint)
    micro_batches = pack_for(vision_checkpoint, policy.packing_rules(), [wrap_rollouts(0, rollouts)], 2)
    spoilt, whole = micro_batches
    assert torch.equal(spoilt.positions, whole.positions)
    assert torch.equal(spoilt.image_positions, whole.image_positions)


# Images -----------------------------------------------------------------------------


def test_each_unique_image_is_held_once_in_a_micro_batch(vision_checkpoint: Path) -> None:
    first, second = make_groups(2)
    prompt = first.rollouts[0].segments[0]
    twin = replace(second, rollouts=tuple(replace(r, segments=(prompt, *r.segments[1:])) for r in second.rollouts))
    rules = load_policy_of(vision_checkpoint).packing_rules()
    (micro_batch,) = pack_for(vision_checkpoint, rules, (first, twin), 1)
    assert len(micro_batch.images) == 1
    half = len(micro_batch.image_features) // 2
    assert micro_batch.image_features[:half].tolist() == micro_batch.image_features[half:].tolist()


def test_a_placeholder_without_a_feature_is_refused_with_the_name_of_the_group(vision_checkpoint: Path) -> None:
    (group,) = make_groups(1, first=7)
    prompt = group.rollouts[0].segments[0]
    longer = replace(prompt, tokens=Tokens.of([IMAGE_TOKEN, *prompt.tokens.to_list()]))
    broken = replace(group, rollouts=tuple(replace(r, segments=(longer, *r.segments[1:])) for r in group.rollouts))
    rules = load_policy_of(vision_checkpoint).packing_rules()
    with pytest.raises(ValueError, match=r"group test/7 has \d+ image placeholder tokens"):
        pack_for(vision_checkpoint, rules, (broken,), 1)
