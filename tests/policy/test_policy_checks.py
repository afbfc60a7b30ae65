"""A policy that is not computed right is refused before it samples or trains, by name and by place."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_families import IMAGE, TAKEN
from training_groups import make_given, make_groups, make_rollout, make_sampled, sampled_as, wrap_rollouts
from tristream.learner.training.policy_check import (
    MAX_REAL_TOKENS,
    check_on_batch,
    check_policy,
    make_probe_groups,
)
from tristream.learner.training.sequences import PackingRules
from tristream.learner.training.trained_policy import TrainedPolicy
from tristream.policy.attention.decoding_cache import DecodingCache
from tristream.policy.images import ProcessedImage
from tristream.policy.loading import load_model, longest_sequence
from tristream.producer.engines.transformers.decoding_policy import DecodingPolicy
from tristream.producer.engines.transformers.policy_check import check_decoding
from tristream.runtime.errors import UserError

FAMILIES = {family.name: family for family in TAKEN}


class WithoutDeepstack(TrainedPolicy):
    """Forgets the features that Qwen3-VL adds behind its first layers."""

    def _features(self, images: Sequence[ProcessedImage]) -> tuple[Tensor, Sequence[Tensor]]:
        return super()._features(images)[0], ()


class WithoutTurns(TrainedPolicy):
    """Takes all tokens for those of one position."""

    def packing_rules(self) -> PackingRules:
        return replace(super().packing_rules(), positions=lambda tokens, _images: torch.zeros(1, len(tokens)).long())


class OnePositionOff(DecodingPolicy):
    """Places sampled tokens one further than they are."""

    def decode(self, tokens_B: Tensor, position_B: Tensor, cache: DecodingCache) -> Tensor:  # noqa: N803
        return super().decode(tokens_B, position_B + 1, cache)


def write(name: str, folder: Path) -> Path:
    return FAMILIES[name].write(folder)


def make_policy(path: Path, kind: type[TrainedPolicy] = TrainedPolicy, precision: str = "fp32") -> TrainedPolicy:
    return kind(load_model(path, precision), logprob_chunk_tokens=64)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_that_are_forgotten_are_found_with_the_layer_that_lacks_them(precision: str, tmp_path: Path) -> None:
    path = write("qwen3_vl", tmp_path)
    check_policy(make_policy(path, precision=precision))
    with pytest.raises(UserError) as refused:
        check_policy(make_policy(path, WithoutDeepstack, precision))
    said = str(refused.value)
    assert said.startswith(f"[model] path = {path}: the qwen3_vl model is not computed right")
    assert "packed rollouts" in said
    assert "part from it in layer 1 of 3 or what is added behind it; take a model of the table" in said


def test_dropout_is_found(tmp_path: Path) -> None:
    policy = make_policy(write("gpt2", tmp_path))
    policy.checkpoint.transformer.h[1].mlp.dropout.p = 0.1
    with pytest.raises(UserError, match=r"the gpt2 model is not computed right.* in layer 2 of 3"):
        check_policy(policy)


def test_another_head_is_found(tmp_path: Path) -> None:
    policy = make_policy(write("llama", tmp_path))
    own = policy.checkpoint.lm_head
    policy.checkpoint.get_output_embeddings = lambda: nn.Sequential(own, nn.Hardtanh(-3.0, 3.0))
    with pytest.raises(UserError, match=r"the llama model is not computed right.* only in the head"):
        check_policy(policy)


def test_weights_that_are_no_numbers_are_found(tmp_path: Path) -> None:
    policy = make_policy(write("llama", tmp_path))
    with torch.no_grad():
        policy.checkpoint.model.layers[2].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(UserError, match="inf nats"):
        check_policy(policy)


def test_what_cannot_be_computed_at_all_is_said_in_one_line(tmp_path: Path) -> None:
    policy = make_policy(write("qwen2", tmp_path))
    policy.checkpoint.model.layers[0].self_attn.q_proj = nn.Linear(31, 32)
    with pytest.raises(UserError, match=r"the qwen2 model cannot compute packed rollouts \(.*shape") as refused:
        check_policy(policy)
    assert "\n" not in str(refused.value)


def test_tokens_in_other_places_are_found_in_decoding(tmp_path: Path) -> None:
    path = write("qwen3_vl", tmp_path)
    assert check_decoding(DecodingPolicy(path)) < 1e-5
    with pytest.raises(UserError, match=r"the qwen3_vl model .*sampled tokens .* in layer 1 of 3"):
        check_decoding(OnePositionOff(path))


def test_the_policy_is_left_as_it_was(tmp_path: Path) -> None:
    policy = make_policy(write("qwen2_5_vl", tmp_path))
    policy.checkpoint.model.visual.requires_grad_(False)
    policy.train()
    attention, random_state = policy.decoder.config._attn_implementation, torch.get_rng_state()
    modes = [module.training for module in policy.modules()]
    check_policy(policy)
    assert policy.decoder.config._attn_implementation == attention
    assert [module.training for module in policy.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in policy.parameters())


def test_short_rollouts_of_a_batch_are_held_against_the_model(tmp_path: Path) -> None:
    path = write("llama", tmp_path)
    groups = make_groups(3, num_images=0, num_turns=2)
    difference = check_on_batch(make_policy(path), groups, {})
    assert difference is not None
    assert 0 < difference < 1e-5
    with pytest.raises(UserError, match=r"not computed right.* in layer 1 of 3"):
        check_on_batch(make_policy(path, WithoutTurns), groups, {})


def test_rollouts_that_cannot_be_compared_are_left_out(tmp_path: Path) -> None:
    policy = make_policy(write("qwen3_vl", tmp_path))
    generator = random.Random(1)
    prompt = make_given(generator)
    long = make_rollout(0, [prompt, sampled_as([5] * MAX_REAL_TOKENS)])
    placeholder = make_rollout(1, [prompt, sampled_as([5, IMAGE, 6])])
    empty = make_rollout(2, [prompt])
    assert check_on_batch(policy, [wrap_rollouts(0, [long, placeholder, empty])], {}) is None
    assert check_on_batch(policy, [], {}) is None
    fine = make_rollout(3, [prompt, make_sampled(generator)])
    assert check_on_batch(policy, [wrap_rollouts(0, [long, fine, placeholder, empty])], {}) is not None


def test_probes_share_prefixes_have_further_turns_and_all_images(tmp_path: Path) -> None:
    groups, images = make_probe_groups(make_policy(write("qwen3_vl", tmp_path)))
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert {len(rollout.segments) for rollout in rollouts} == {2, 4}
    assert {image.sha256 for rollout in rollouts for image in rollout.images} == set(images)
    assert len(images) == 3
    assert all(len({rollout.segments[0] for rollout in group.rollouts}) == 1 for group in groups)


@pytest.mark.parametrize(
    ("name", "changes", "longest"),
    [
        ("llama", {}, 128),
        ("mistral", {}, 96),
        ("gemma3_text", {}, 96),
        ("gemma3_text", {"layer_types": ["full_attention"] * 3}, 128),
        ("mistral", {"sliding_window": 4096}, 128),
        ("qwen2", {"sliding_window": 8, "use_sliding_window": False}, 128),
    ],
)
def test_sequences_fit_into_positions_and_sliding_windows(name: str, changes: dict[str, Any], longest: int) -> None:
    family = FAMILIES[name]
    assert longest_sequence(replace(family, changes={**family.changes, **changes}).config()) == longest
