"""What holds for every algorithm, whatever its parameters."""

import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flat_tokens import loss_of, make_inputs, part_of
from tristream.config.algorithms import AlgorithmSection
from tristream.config.presets import PRESETS
from tristream.learner.algorithms.protocol import LossInputs, PolicyLoss

PROXIMAL = st.one_of(
    st.fixed_dictionaries({"proximal": st.just("sampled")}),
    st.fixed_dictionaries(
        {
            "proximal": st.just("recomputed"),
            "importance": st.sampled_from(["none", "truncate", "mask"]),
            "importance_level": st.sampled_from(["token", "sequence", "geometric"]),
        }
    ),
)
CHOICES = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(PRESETS))},
    optional={
        "ratio": st.sampled_from(["token", "sequence"]),
        "loss": st.sampled_from(["clipped", "cispo"]),
        "aggregation": st.sampled_from(["token_mean", "sequence_mean", "fixed_length"]),
        "dual_clip": st.sampled_from([0.0, 6.0]),
        "ratio_bound": st.sampled_from([0.0, 5.5]),
        "kl_coefficient": st.sampled_from([0.0, 0.1]),
        "kl_estimator": st.sampled_from(["k1", "k2", "k3"]),
    },
)
SECTIONS = st.builds(lambda one, two: AlgorithmSection.model_validate({**one, **two}), CHOICES, PROXIMAL)
LENGTHS = st.lists(st.integers(1, 7), min_size=1, max_size=6)


@settings(deadline=None)
@given(SECTIONS, LENGTHS, st.integers(0, 6), st.integers(0, 99))
def test_parts_of_a_batch_add_up_to_the_whole(
    section: AlgorithmSection, lengths: list[int], cut: int, seed: int
) -> None:
    inputs = make_inputs(lengths, seed)
    whole = loss_of(inputs, section)
    cut = min(cut, len(lengths))
    parts = [loss_of(part_of(inputs, *ends), section) for ends in ((0, cut), (cut, len(lengths))) if ends[0] < ends[1]]
    assert math.fsum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), abs=1e-12)
    for field in fields(PolicyLoss):
        if field.name != "loss":
            joined = torch.cat([getattr(part, field.name) for part in parts])
            torch.testing.assert_close(joined, getattr(whole, field.name), rtol=0, atol=1e-14)


@settings(deadline=None)
@given(SECTIONS.filter(lambda section: section.loss == "clipped" and section.ratio == "token"), st.integers(0, 99))
def test_a_clipped_token_has_no_gradient_and_others_do(section: AlgorithmSection, seed: int) -> None:
    inputs = make_inputs(seed=seed)
    result = loss_of(inputs, section.model_copy(update={"kl_coefficient": 0.0, "importance": "none"}))
    (gradient,) = torch.autograd.grad(result.loss, inputs.logprobs)
    assert torch.equal(gradient == 0, result.is_clipped.bool())
    assert bool((result.kl_k3 >= 0).all())


@pytest.mark.parametrize("name", PRESETS)
def test_the_first_update_of_fresh_rollouts_goes_along_the_advantage(name: str) -> None:
    """There the gradient is that of the plain policy gradient, up to positive weights."""
    inputs = make_inputs()
    own = inputs.logprobs.detach()
    inputs = replace(inputs, old_logprobs=own, proximal_logprobs=own, reference_logprobs=own)
    (gradient,) = torch.autograd.grad(
        loss_of(inputs, AlgorithmSection.model_validate({"type": name})).loss, inputs.logprobs
    )
    assert bool((gradient.sign() == -inputs.advantages.sign()).all())


@settings(deadline=None)
@given(SECTIONS)
def test_an_extreme_ratio_stays_finite(section: AlgorithmSection) -> None:
    far = torch.tensor([0.0, -500.0, -1.0], requires_grad=True)
    others = torch.tensor([-500.0, 0.0, -1.0])
    inputs = LossInputs(
        logprobs=far, old_logprobs=others, advantages=torch.tensor([-1.0, 1.0, 1.0]),
        rollout_lengths=torch.tensor([1, 2]), num_global_tokens=3, num_global_rollouts=2,
        reference_logprobs=others, proximal_logprobs=others,
    )  # fmt: skip
    loss = loss_of(inputs, section).loss
    (gradient,) = torch.autograd.grad(loss, far)
    assert math.isfinite(loss.item())
    assert bool(gradient.isfinite().all())


@settings(deadline=None)
@given(SECTIONS, st.sampled_from(["logprobs", "advantages"]))
def test_what_is_not_a_number_makes_a_loss_that_is_none(section: AlgorithmSection, name: str) -> None:
    inputs = make_inputs()
    values = getattr(inputs, name).detach().clone()
    values[3] = math.nan
    assert math.isnan(loss_of(replace(inputs, **{name: values}), section).loss.item())


@pytest.mark.parametrize("name", PRESETS)
def test_a_sampled_logprob_that_is_no_number_is_seen_in_the_loss(name: str) -> None:
    inputs = make_inputs()
    values = inputs.old_logprobs.clone()
    values[3] = math.nan
    section = AlgorithmSection.model_validate({"type": name})
    assert math.isnan(loss_of(replace(inputs, old_logprobs=values), section).loss.item())


@settings(deadline=None)
@given(SECTIONS)
def test_tokens_that_count_for_nothing_have_no_loss(section: AlgorithmSection) -> None:
    zeros = torch.zeros(3, dtype=torch.float64)
    inputs = LossInputs(
        logprobs=zeros.clone().requires_grad_(), old_logprobs=zeros, advantages=zeros,
        rollout_lengths=torch.tensor([1, 2]), num_global_tokens=0, num_global_rollouts=0,
        reference_logprobs=zeros, proximal_logprobs=zeros,
    )  # fmt: skip
    loss = loss_of(inputs, section).loss
    assert loss.item() == 0


def test_without_recomputation_the_old_policy_of_the_only_update_is_the_trained_one_itself() -> None:
    inputs = replace(make_inputs(), proximal_logprobs=None)
    section = AlgorithmSection(proximal="recomputed", importance="truncate", importance_high=1.2)
    result = loss_of(inputs, section)
    assert torch.equal(result.ratio, torch.ones_like(result.ratio))
    expected = (inputs.logprobs - inputs.old_logprobs).exp().clamp(max=1.2).detach()
    torch.testing.assert_close(result.weight, expected)
    assert not result.weight.requires_grad


def test_a_kl_term_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        loss_of(replace(make_inputs(), reference_logprobs=None), AlgorithmSection(type="grpo"))
