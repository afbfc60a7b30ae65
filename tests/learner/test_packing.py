from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tristream.learner.training.logprobs import placeholder_token_ids
from tristream.learner.training.packing import MicroBatch, Unit, pack_groups, plan_units
from tristream.learner.training.trained_policy import PolicyModel, load_policy
from tristream.policy.attention.packing import build_layout
from tristream.policy.images import ImageLoader, ProcessedImage
from tristream.wire.batches import TrainingGroup
from tristream.wire.events import Image

MakeGroups = Callable[..., tuple[TrainingGroup, ...]]


def read_inline(image: Image) -> bytes:
    return image.data


def load_images(path: Path, groups: tuple[TrainingGroup, ...]) -> list[list[ProcessedImage]]:
    loader = ImageLoader(path, read_inline)
    return [[loader.load(image) for image in group.images] for group in groups]


def load_policy_of(path: Path, chunk_tokens: int = 1024) -> PolicyModel:
    return load_policy(path, precision="fp32", freeze=(), logprob_chunk_tokens=chunk_tokens)


def pack_for(path: Path, policy: PolicyModel, groups: tuple[TrainingGroup, ...], count: int) -> list[MicroBatch]:
    rules = policy.packing_rules()
    images = load_images(path, groups) if rules.image_token_id is not None else [[] for _ in groups]
    return pack_groups(groups, images, count, rules)


def score_alone(model: Any, group: TrainingGroup, images: list[ProcessedImage]) -> list[Tensor]:
    """Log-probabilities of each rollout in a plain forward pass of its own."""
    results = []
    for rollout in group.rollouts:
        ids = torch.tensor([rollout.prompt_tokens + rollout.completion_tokens])
        inputs: dict[str, Tensor] = {}
        if images:
            # mm_token_type_ids decides between M-RoPE and plain positions.
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
            inputs["pixel_values"] = torch.cat([image.pixel_values for image in images])
            inputs["image_grid_thw"] = torch.tensor([image.grid_thw for image in images])
        logits = model(input_ids=ids, **inputs).logits[0].float() / rollout.temperature
        excluded = list(placeholder_token_ids(model.config))
        logits[:, excluded] = -torch.inf
        start = len(rollout.prompt_tokens)
        log_distribution = torch.log_softmax(logits[start - 1 : -1], dim=-1)
        results.append(log_distribution.gather(1, ids[0, start:, None]).squeeze(1))
    return results


@pytest.mark.parametrize("num_micro_batches", [1, 2, 5])
@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_packed_logprobs_and_gradients_equal_those_of_each_rollout_alone(
    vision_checkpoint: Path, make_groups: MakeGroups, num_micro_batches: int, num_images: int
) -> None:
    groups = make_groups(3, num_images=num_images)
    assert_equals_alone(vision_checkpoint, groups, num_micro_batches)


def test_packed_text_model_equals_each_rollout_alone(text_checkpoint: Path, make_groups: MakeGroups) -> None:
    assert_equals_alone(text_checkpoint, make_groups(3, num_images=0), 2)


def assert_equals_alone(path: Path, groups: tuple[TrainingGroup, ...], num_micro_batches: int) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loader = AutoModelForImageTextToText if "vision" in path.name else AutoModelForCausalLM
    plain = loader.from_pretrained(path, attn_implementation="eager")
    images = load_images(path, groups) if "vision" in path.name else [[] for _ in groups]
    expected = {
        (group.group.number, rollout.index): logprobs
        for group, of_group in zip(groups, images, strict=True)
        for rollout, logprobs in zip(group.rollouts, score_alone(plain, group, of_group), strict=True)
    }
    torch.autograd.backward([logprobs.sin().sum() for logprobs in expected.values()])

    policy = load_policy_of(path, chunk_tokens=7)
    micro_batches = pack_for(path, policy, groups, num_micro_batches)
    assert len(micro_batches) == num_micro_batches
    for micro_batch in micro_batches:
        logprobs, _ = policy(micro_batch)
        torch.autograd.backward(logprobs.sin().sum())
        lengths = [len(rollout.completion_tokens) for rollout in micro_batch.rollouts]
        for rollout, actual in zip(micro_batch.rollouts, logprobs.split(lengths), strict=True):
            torch.testing.assert_close(
                actual, expected.pop((rollout.group_number, rollout.index)), atol=2e-5, rtol=1e-5
            )
    assert not expected
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in policy.checkpoint.named_parameters():
        if gradients[name] is None:
            assert parameter.grad is None, name
            continue
        torch.testing.assert_close(parameter.grad, gradients[name], atol=2e-4, rtol=1e-3, msg=name)


def test_each_unique_image_is_held_once_in_a_micro_batch(vision_checkpoint: Path, make_groups: MakeGroups) -> None:
    first, second = make_groups(2)
    twin = replace(second, images=first.images, rollouts=tuple(
        replace(rollout, prompt_tokens=first.rollouts[0].prompt_tokens) for rollout in second.rollouts
    ))  # fmt: skip
    policy = load_policy_of(vision_checkpoint)
    (micro_batch,) = pack_for(vision_checkpoint, policy, (first, twin), 1)
    assert len(micro_batch.images) == 1
    half = len(micro_batch.image_features) // 2
    assert micro_batch.image_features[:half].tolist() == micro_batch.image_features[half:].tolist()


def test_a_placeholder_without_a_feature_is_refused_with_the_name_of_the_group(
    vision_checkpoint: Path, make_groups: MakeGroups
) -> None:
    (group,) = make_groups(1, first=7)
    broken = replace(group, rollouts=tuple(
        replace(rollout, prompt_tokens=(60, *rollout.prompt_tokens)) for rollout in group.rollouts
    ))  # fmt: skip
    policy = load_policy_of(vision_checkpoint)
    with pytest.raises(ValueError, match=r"group test/7 has \d+ image placeholder tokens"):
        pack_for(vision_checkpoint, policy, (broken,), 1)


def test_a_sampled_placeholder_is_not_trained(vision_checkpoint: Path, make_groups: MakeGroups) -> None:
    (group,) = make_groups(1, size=2)
    spoilt = replace(group.rollouts[0], completion_tokens=(5, 60, 6), logprobs=(-1.0, -1.0, -1.0))
    policy = load_policy_of(vision_checkpoint)
    (micro_batch,) = pack_for(vision_checkpoint, policy, (replace(group, rollouts=(spoilt,)),), 1)
    assert micro_batch.is_trained.tolist() == [True, False, True]
    assert policy(micro_batch)[0][1] == -torch.inf


def test_more_micro_batches_than_rollouts_are_filled_with_what_counts_for_nothing(
    text_checkpoint: Path, make_groups: MakeGroups
) -> None:
    groups = make_groups(1, size=2, num_images=0)
    policy = load_policy_of(text_checkpoint)
    micro_batches = pack_for(text_checkpoint, policy, groups, 5)
    assert [micro_batch.is_filler for micro_batch in micro_batches].count(True) == 3
    assert sum(len(m.rollouts) for m in micro_batches if not m.is_filler) == 2


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    units=st.lists(
        st.tuples(st.integers(1, 6), st.lists(st.integers(0, 5), min_size=1, max_size=4)), min_size=1, max_size=4
    )
)
def test_layout_restores_each_token_exactly_once(units: list[tuple[int, list[int]]]) -> None:
    layout = build_layout(units)
    slots = torch.cat([layout.prompt_rows.flatten(), layout.completion_rows.flatten()])
    num_tokens = sum(prompt + sum(completions) for prompt, completions in units)
    assert slots[layout.restore].tolist() == list(range(num_tokens))


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 8), min_size=1, max_size=8), num_micro_batches=st.integers(1, 12))
def test_every_rollout_is_in_exactly_one_micro_batch(
    make_groups: MakeGroups, sizes: list[int], num_micro_batches: int
) -> None:
    groups = [
        make_groups(1, size=size, num_images=0, seed=number, first=number)[0] for number, size in enumerate(sizes)
    ]
    plan = plan_units(groups, num_micro_batches)
    assert len(plan) == num_micro_batches
    packed = sorted((r.group_number, r.index) for units in plan for unit in units for r in unit.rollouts)
    assert packed == sorted((r.group_number, r.index) for group in groups for r in group.rollouts)
    assert all(plan) or len(packed) < num_micro_batches


def test_micro_batches_are_balanced_by_tokens(make_groups: MakeGroups) -> None:
    groups = make_groups(16, size=4, num_images=0)
    loads = [sum(unit.num_tokens for unit in units) for units in plan_units(groups, 4)]
    largest = max(Unit(group=group, rollouts=group.rollouts).num_tokens for group in groups)
    assert max(loads) - min(loads) <= largest
