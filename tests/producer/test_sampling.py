"""Tokens come with their probability, cut as asked, and with the log-probability of the whole distribution."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tristream.producer.engines.transformers.sampling import (
    CANDIDATES,
    UNIFORM_BITS,
    SamplingTensors,
    invert_cumulative,
    sample_tokens,
    truncate,
)
from tristream.wire.events import Sampling

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
CPU = torch.device("cpu")


def make_sampling(temperature: float = 1.0, **changes: Any) -> Sampling:
    return Sampling(**({"temperature": temperature, "top_p": 1.0, "max_tokens": 9, "seed": 1} | changes))


def sample_grid(logits: torch.Tensor, sampling: Sampling) -> tuple[list[float], torch.Tensor]:
    """Shares of the tokens over evenly spread uniform numbers, and the log-probability that came with each."""
    uniforms = (torch.arange(1000) + 0.5) / 1000
    tokens, logprobs = sample_tokens(logits.expand(1000, -1), SamplingTensors.of([sampling] * 1000, CPU), uniforms)
    by_token = torch.full((len(logits),), -torch.inf)
    by_token[tokens] = logprobs
    return (torch.bincount(tokens, minlength=len(logits)) / 1000).tolist(), by_token


def test_tokens_come_in_proportion_to_their_probability() -> None:
    shares, logprobs = sample_grid(LOGITS, make_sampling())
    assert shares == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=2e-3)
    torch.testing.assert_close(logprobs, LOGITS)


def test_temperature_sharpens_both_tokens_and_logprobs() -> None:
    expected = torch.softmax(LOGITS / 0.5, dim=-1)
    shares, logprobs = sample_grid(LOGITS, make_sampling(0.5))
    assert shares == pytest.approx(expected.tolist(), abs=2e-3)
    torch.testing.assert_close(logprobs, expected.log())


def test_temperature_zero_takes_the_most_likely_token_with_its_plain_logprob() -> None:
    shares, logprobs = sample_grid(LOGITS, make_sampling(0.0, top_p=0.5))
    assert shares == [1.0, 0.0, 0.0, 0.0]
    assert logprobs[0].item() == pytest.approx(LOGITS[0].item())


@pytest.mark.parametrize(
    ("cut", "expected"),
    [
        ({"top_p": 0.7}, [0.0, 2 / 3, 0.0, 1 / 3]),
        ({"top_p": 0.01}, [0.0, 1.0, 0.0, 0.0]),
        ({"top_k": 3}, [0.15 / 0.9, 0.5 / 0.9, 0.0, 0.25 / 0.9]),
        ({"min_p": 0.4}, [0.0, 2 / 3, 0.0, 1 / 3]),
        ({"top_k": 3, "top_p": 0.5}, [0.0, 1.0, 0.0, 0.0]),
        ({"min_p": 0.25, "top_p": 0.99}, [0.15 / 0.9, 0.5 / 0.9, 0.0, 0.25 / 0.9]),
    ],
)
def test_a_cut_changes_the_shares_and_not_the_logprobs(cut: dict[str, Any], expected: list[float]) -> None:
    logits = LOGITS[[2, 0, 3, 1]]
    shares, logprobs = sample_grid(logits, make_sampling(**cut))
    assert shares == pytest.approx(expected, abs=2e-3)
    is_kept = torch.tensor(expected) > 0
    torch.testing.assert_close(logprobs[is_kept], logits[is_kept])
    assert bool(logprobs[~is_kept].isneginf().all())


def test_rows_are_cut_each_as_it_asks() -> None:
    samplings = [make_sampling(), make_sampling(top_k=1), make_sampling(0.0), make_sampling(min_p=0.9), make_sampling()]
    uniforms = torch.tensor([0.95, 0.95, 0.95, 0.95, 0.6])
    tokens, _ = sample_tokens(LOGITS.expand(5, -1), SamplingTensors.of(samplings, CPU), uniforms)
    assert tokens.tolist() == [3, 0, 0, 0, 1]


def plain_cut(probabilities: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """Kept tokens, one after the other: by min_p, then top_k, then the nucleus of what is left."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    kept = [token for token in order if probabilities[token] >= min_p * probabilities[order[0]]]
    kept = kept[:top_k] if top_k else kept
    if top_p >= 1:
        return set(kept)
    total, mass, nucleus = sum(probabilities[token] for token in kept), 0.0, set()
    for token in kept:
        if mass >= top_p * total:
            break
        nucleus.add(token)
        mass += probabilities[token]
    return nucleus or {order[0]}


@settings(deadline=None, max_examples=300)
@given(
    num_tokens=st.sampled_from([2, 7, CANDIDATES - 1, CANDIDATES, CANDIDATES + 1, 3 * CANDIDATES]),
    sharpness=st.sampled_from([0.01, 0.5, 3.0, 20.0]),
    top_k=st.sampled_from([0, 1, 2, 5, CANDIDATES - 1, CANDIDATES, CANDIDATES + 1, 10**6]),
    top_p=st.floats(0.01, 0.999) | st.just(1.0),
    min_p=st.sampled_from([0.0, 1e-4, 0.03, 0.5, 0.99]),
    seed=st.integers(0, 2**32),
)
def test_a_cut_is_that_of_a_plain_program(
    num_tokens: int, sharpness: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    logits = sharpness * torch.randn(num_tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    probabilities = torch.softmax(logits, dim=-1)
    kept = truncate(
        torch.stack([probabilities.flip(0), probabilities]),
        top_k=torch.tensor([1, top_k]),
        top_p=torch.tensor([1.0, top_p], dtype=torch.float64),
        min_p=torch.tensor([0.0, min_p], dtype=torch.float64),
    )
    assert kept[0].nonzero().flatten().tolist() == [int(probabilities.flip(0).argmax())]
    expected = plain_cut(probabilities.tolist(), top_k, top_p, min_p)
    found = set(kept[1].nonzero().flatten().tolist())
    # Sums in another order may differ in their last digit, and with them the last token of a nucleus.
    assert len(found ^ expected) <= (1 if top_p < 1 else 0)
    assert all(float(kept[1][token]) == float(probabilities[token]) for token in found)


def test_tokens_without_mass_are_not_taken_even_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(2000, 50, generator=generator)
    probabilities[:, 0] = 0.0
    probabilities[:, -1] = 0.0
    largest = 1 - 2.0**-UNIFORM_BITS
    for uniform in (0.0, largest):
        tokens = invert_cumulative(probabilities, torch.full((2000,), uniform))
        assert bool((probabilities[torch.arange(2000), tokens] > 0).all())
