import pytest
import torch

from tristream.producer.engines.sampling import UNIFORM_BITS, invert_cumulative, keep_nucleus, sample_tokens

LOGITS = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()


def grid(num_points: int) -> torch.Tensor:
    return (torch.arange(num_points) + 0.5) / num_points


def sample_grid(logits: torch.Tensor, temperature: float, top_p: float = 1.0) -> tuple[list[float], torch.Tensor]:
    """Shares of the tokens over evenly spread uniform numbers, and the log-probability that came with each."""
    uniforms = grid(1000)
    rows = len(uniforms)
    tokens, logprobs = sample_tokens(
        logits.expand(rows, -1), torch.full((rows,), temperature), torch.full((rows,), top_p), uniforms
    )
    shares = torch.bincount(tokens, minlength=len(logits)) / rows
    by_token = torch.full((len(logits),), -torch.inf)
    by_token[tokens] = logprobs
    return shares.tolist(), by_token


def test_tokens_come_in_proportion_to_their_probability() -> None:
    shares, logprobs = sample_grid(LOGITS, 1.0)
    assert shares == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=2e-3)
    torch.testing.assert_close(logprobs, LOGITS)


def test_temperature_sharpens_both_tokens_and_logprobs() -> None:
    expected = torch.softmax(LOGITS / 0.5, dim=-1)
    shares, logprobs = sample_grid(LOGITS, 0.5)
    assert shares == pytest.approx(expected.tolist(), abs=2e-3)
    torch.testing.assert_close(logprobs, expected.log())


def test_temperature_zero_takes_the_most_likely_token_with_its_plain_logprob() -> None:
    shares, logprobs = sample_grid(LOGITS, 0.0)
    assert shares == [1.0, 0.0, 0.0, 0.0]
    assert logprobs[0].item() == pytest.approx(LOGITS[0].item())


def test_a_nucleus_keeps_the_fewest_tokens_with_its_mass_and_renormalises() -> None:
    shares, logprobs = sample_grid(LOGITS[[2, 0, 3, 1]], 1.0, top_p=0.7)
    assert shares == pytest.approx([0.0, 2 / 3, 0.0, 1 / 3], abs=2e-3)
    assert logprobs.exp().tolist() == pytest.approx([0.0, 2 / 3, 0.0, 1 / 3])


def test_a_nucleus_smaller_than_the_first_token_keeps_that_token() -> None:
    kept = keep_nucleus(LOGITS[None], torch.tensor([0.01]))
    assert torch.isfinite(kept).tolist() == [[True, False, False, False]]


def test_tokens_without_mass_are_not_taken_even_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(2000, 50, generator=generator)
    probabilities[:, 0] = 0.0
    probabilities[:, -1] = 0.0
    largest = 1 - 2.0**-UNIFORM_BITS
    for uniform in (0.0, largest):
        tokens = invert_cumulative(probabilities, torch.full((2000,), uniform))
        assert bool((probabilities[torch.arange(2000), tokens] > 0).all())
