import math
import weakref

import pytest
import torch
from torch import nn

from tristream.learner.training.logprobs import target_logprobs

TOKENS, HIDDEN = 23, 8
SMALL_VOCABULARY, LARGE_VOCABULARY = 40, 30_000
"""Of the large one a few rows are worked on at once, of the small one all."""
EXCLUDED = [3, 17]


@pytest.mark.parametrize("vocabulary", [SMALL_VOCABULARY, LARGE_VOCABULARY])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
def test_chunked_logprobs_and_gradients_equal_plain_log_softmax(chunk_tokens: int, vocabulary: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, vocabulary)
    hidden = (3 * torch.randn(TOKENS, HIDDEN)).requires_grad_()
    targets = torch.randint(20, vocabulary, (TOKENS,))
    temperatures = torch.rand(TOKENS) + 0.5
    weights = torch.randn(TOKENS)

    logits = head(hidden) / temperatures[:, None]
    is_excluded = torch.zeros(vocabulary, dtype=torch.bool).index_fill(0, torch.tensor(EXCLUDED), value=True)
    log_distribution = torch.log_softmax(logits.masked_fill(is_excluded, -torch.inf), dim=-1)
    expected = log_distribution[torch.arange(TOKENS), targets]
    allowed = log_distribution[:, ~is_excluded]
    expected_entropies = -(allowed.exp() * allowed).sum(-1)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [hidden, *head.parameters()])

    actual, entropies = target_logprobs(
        hidden, head, targets, temperatures, excluded_ids=torch.tensor(EXCLUDED), chunk_tokens=chunk_tokens
    )
    gradients = torch.autograd.grad((actual * weights).sum(), [hidden, *head.parameters()])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    assert not entropies.requires_grad
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_an_excluded_target_has_no_probability_and_its_logit_no_gradient() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0], [9.0, 0.0, 0.0]], requires_grad=True)
    logprobs, entropies = target_logprobs(
        logits,
        lambda states: 1.0 * states,
        torch.tensor([0, 1]),
        torch.ones(2),
        excluded_ids=torch.tensor([0]),
        chunk_tokens=10,
    )
    torch.autograd.backward(logprobs, torch.ones(2))
    assert logprobs.tolist() == pytest.approx([-math.inf, -math.log(2)])
    assert entropies[1].item() == pytest.approx(math.log(2))
    share = 1 / (1 + math.e)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, -share, share - 1], [0.0, 0.5, -0.5]]))


def test_no_more_logits_than_a_chunk_are_in_memory_at_once_and_the_last_ones_are_not_made_again() -> None:
    made: list[tuple[int, weakref.ref[torch.UntypedStorage]]] = []
    most: list[int] = []
    head = nn.Linear(HIDDEN, SMALL_VOCABULARY, bias=False)

    def recording_head(states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = head(states)
        made.append((len(states), weakref.ref(logits.untyped_storage())))
        most.append(sum(rows for rows, storage in made if storage() is not None))
        return logits

    hidden = torch.randn(TOKENS, HIDDEN, requires_grad=True)
    logprobs, _ = target_logprobs(
        hidden,
        recording_head,
        torch.zeros(TOKENS, dtype=torch.long),
        torch.ones(TOKENS),
        excluded_ids=torch.tensor([], dtype=torch.long),
        chunk_tokens=10,
    )
    torch.autograd.backward(logprobs.sum())
    assert [rows for rows, _ in made] == [3, 10, 10, 10, 3]
    assert max(most) == 10
