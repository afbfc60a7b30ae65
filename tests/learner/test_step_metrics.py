"""What is measured of a step: equal to what plain Python computes, however it is split, and loud about a NaN."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training_groups import TEXT_RULES, advantages_of, make_groups, make_outcome
from tristream.learner.algorithms.protocol import PolicyLoss
from tristream.learner.reports import explain_skip, rollout_metrics
from tristream.learner.training.flops import ModelFlops, model_flops, peak_flops_per_second
from tristream.learner.training.packing import MicroBatch, pack_groups
from tristream.learner.training.step_metrics import STATISTICS, metrics_of, skip_reasons, statistics_of, totals_of
from tristream.learner.training.trained_policy import load_policy


def make_micro_batches(num_micro_batches: int) -> list[MicroBatch]:
    groups = make_groups(3, num_images=0, seed=1, num_turns=2)
    return pack_groups(groups, {}, advantages_of(groups), num_micro_batches, TEXT_RULES)


def new_logprobs(batch: MicroBatch) -> Tensor:
    """What the trained policy gives its tokens: ratios between e^-1 and e^1, by the token alone."""
    return batch.old_logprobs + torch.sin(batch.targets.float() + 7 * batch.old_logprobs)


def no_loss(batch: MicroBatch) -> PolicyLoss:
    zeros = torch.zeros(len(batch.targets))
    ones = torch.ones(len(batch.targets))
    return PolicyLoss(
        loss=torch.zeros(()), is_clipped=zeros, kl_k1=zeros, kl_k3=zeros, ratio=ones, weight=ones, kl_reference=zeros
    )


def totals(batch: MicroBatch, logprobs: Tensor) -> Tensor:
    return totals_of(batch, no_loss(batch), logprobs, torch.ones(len(logprobs)))


def test_ratio_tail_and_effective_sample_size_are_those_of_the_plain_formulas() -> None:
    (batch,) = make_micro_batches(1)
    weights = [math.exp(value) for value in (new_logprobs(batch) - batch.old_logprobs).tolist()]
    metrics = metrics_of(totals(batch, new_logprobs(batch)), len(weights))
    size = sum(weights) ** 2 / (len(weights) * sum(weight**2 for weight in weights))
    assert 0.5 < size < 0.95
    assert metrics["effective_sample_size"] == pytest.approx(size, rel=1e-5)
    assert metrics["ratio_tail_share"] == pytest.approx(
        sum(weight > 2 or weight < 0.5 for weight in weights) / len(weights)
    )
    assert metrics["ratio_tail_share"] > 0.2


def test_equal_weights_have_the_full_sample_size_and_a_single_one_the_smallest() -> None:
    (batch,) = make_micro_batches(1)
    num_tokens = len(batch.targets)
    assert metrics_of(totals(batch, batch.old_logprobs), num_tokens)["effective_sample_size"] == pytest.approx(1.0)
    one = batch.old_logprobs.clone()
    one[0] += 18.0
    assert metrics_of(totals(batch, one), num_tokens)["effective_sample_size"] == pytest.approx(
        1 / num_tokens, rel=1e-3
    )


def test_tokens_that_the_policy_cannot_sample_are_in_no_ratio() -> None:
    (batch,) = make_micro_batches(1)
    is_trained = torch.arange(len(batch.targets)) % 3 > 0
    spoilt = torch.where(is_trained, batch.old_logprobs, torch.nan)
    metrics = metrics_of(totals(replace(batch, is_trained=is_trained), spoilt), len(is_trained))
    assert metrics["effective_sample_size"] == pytest.approx(1.0)
    assert metrics["ratio_tail_share"] == 0.0
    assert metrics["not_finite_tokens"] == 0


def test_any_split_into_micro_batches_gives_the_same_metrics() -> None:
    def measure(num_micro_batches: int) -> dict[str, float]:
        batches = make_micro_batches(num_micro_batches)
        parts = [totals(batch, new_logprobs(batch)) for batch in batches]
        return metrics_of(torch.stack(parts).sum(dim=0), sum(len(batch.targets) for batch in batches))

    one, three = measure(1), measure(3)
    for name in one.keys() - {"model_tokens", "attended_tokens"}:  # a group that is split repeats its prefix
        assert three[name] == pytest.approx(one[name], rel=1e-6), name


def test_mismatch_is_told_apart_by_the_age_of_the_rollout() -> None:
    groups = make_groups(3, num_images=0, seed=1)
    (batch,) = pack_groups(groups, {}, advantages_of(groups), 1, TEXT_RULES)
    outcomes = [make_outcome(random.Random(0), group, 1) for group in groups]
    rows = statistics_of(batch, no_loss(batch), new_logprobs(batch), torch.ones(len(batch.targets)))
    metrics = rollout_metrics([dict(zip(STATISTICS, row, strict=True)) for row in rows.tolist()], outcomes)
    ages = torch.tensor([key.index % 2 for key in batch.rollouts]).repeat_interleave(batch.rollout_lengths)
    gaps = (new_logprobs(batch) - batch.old_logprobs).abs()
    for age in (0, 1):
        expected = gaps[ages == age].mean().item()
        assert metrics[f"logprob_mismatch_age_{age}"] == pytest.approx(expected, rel=1e-5)
    assert metrics["max_ratio"] == pytest.approx(
        (new_logprobs(batch) - batch.old_logprobs).exp().max().item(), rel=1e-5
    )
    assert set(metrics) == {"logprob_mismatch_age_0", "logprob_mismatch_age_1", "max_ratio"}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["old_logprobs", "advantages", "logprobs", "reference_logprobs", "proximal_logprobs"])
def test_a_number_that_is_none_is_seen_wherever_it_comes_from_and_its_group_is_named(where: str, value: float) -> None:
    (batch,) = make_micro_batches(1)
    logprobs = batch.old_logprobs.clone()
    place = int(batch.rollout_lengths[:5].sum())  # the first token of the second group's second rollout
    batch = replace(batch, reference_logprobs=logprobs.clone(), proximal_logprobs=logprobs.clone())
    spoilt = (logprobs if where == "logprobs" else getattr(batch, where)).clone()
    spoilt[place] = value
    if where == "logprobs":
        logprobs = spoilt
    else:
        batch = replace(batch, **{where: spoilt})  # type: ignore[arg-type]
    metrics = metrics_of(totals(batch, logprobs), len(logprobs))
    reasons = skip_reasons(metrics, 1.0)
    assert reasons == {"skipped_loss": 0.0, "skipped_gradient": 0.0, "skipped_logprobs": 1.0}, (
        "though the loss hides it"
    )
    rows = statistics_of(batch, no_loss(batch), logprobs, torch.ones(len(logprobs)))
    named = rollout_metrics([dict(zip(STATISTICS, row, strict=True)) for row in rows.tolist()], [])
    assert explain_skip({"skipped_updates": 1.0, **reasons, **named}) == "not finite: logprobs, first in group 1"


def test_a_skip_is_explained_by_all_its_reasons_and_no_skip_by_nothing() -> None:
    fine = {"loss": 0.5, "not_finite_tokens": 0.0}
    assert explain_skip({"skipped_updates": 0.0, **skip_reasons(fine, 1.0)}) == ""
    reasons = skip_reasons({"loss": math.nan, "not_finite_tokens": 0.0}, math.inf)
    assert explain_skip({"skipped_updates": 1.0, **reasons}) == "not finite: loss and gradient"


# FLOPs -------------------------------------------------------------------------------------------


def test_model_flops_are_six_a_parameter_and_token_and_twelve_a_pair_and_unit_of_width(text_checkpoint: Path) -> None:
    policy = load_policy(text_checkpoint, precision="fp32", freeze=[], logprob_chunk_tokens=8)
    flops = model_flops(policy, torch.device("cpu"), "fp32")
    # Qwen2 of width 32: queries and output 32x32, keys and values 32x16, three projections 32x64, biases and norms.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 32 + 2 * 16 + 2 * 32
    assert flops.num_body_parameters == 2 * layer + 32
    assert (flops.num_head_parameters, flops.attention_width) == (64 * 32, 2 * 4 * 8)
    assert flops.peak_flops_per_second > 1e8
    expected = 6 * (flops.num_body_parameters * 10 + 2048 * 4) + 12 * 64 * 55
    assert flops.of_step(num_tokens=10, num_predicted=4, num_attended=55) == expected


def test_attention_sees_each_token_up_to_its_own_position_and_a_shared_prefix_once() -> None:
    groups = make_groups(1, size=3, num_images=0, seed=3)
    (batch,) = pack_groups(groups, {}, advantages_of(groups), 1, TEXT_RULES)
    attended = metrics_of(totals(batch, batch.old_logprobs), 1)["attended_tokens"]
    layout = batch.layout
    prefix = layout.prefix_rows.shape[1]
    expected = prefix * (prefix + 1) // 2
    for rollout in groups[0].rollouts:
        tail = rollout.num_tokens - 1 - prefix
        expected += sum(prefix + position for position in range(1, tail + 1))
    assert attended == expected


def test_a_known_device_has_the_peak_of_its_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bf16, fp32 in [("NVIDIA H100 80GB HBM3", 989e12, 67e12), ("NVIDIA L40S", 362e12, 91.6e12)]:
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert peak_flops_per_second(torch.device("cuda"), "bf16") == bf16
        assert peak_flops_per_second(torch.device("cuda"), "fp32") == fp32


def test_a_model_without_parameters_needs_nothing() -> None:
    flops = ModelFlops(num_body_parameters=0, num_head_parameters=0, attention_width=0, peak_flops_per_second=1.0)
    assert flops.of_step(num_tokens=5, num_predicted=5, num_attended=5) == 0
