import pytest
import torch
from torch import nn

from tristream.learner.training.logprobs import target_logprobs

TOKENS, HIDDEN, VOCABULARY = 23, 8, 40
EXCLUDED = [3, 17]


@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
def test_chunked_logprobs_and_gradients_equal_plain_log_softmax(chunk_tokens: int) -> None:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    hidden = (3 * torch.randn(TOKENS, HIDDEN)).requires_grad_()
    targets = torch.randint(20, VOCABULARY, (TOKENS,))
    temperatures = torch.rand(TOKENS) + 0.5
    weights = torch.randn(TOKENS)

    logits = head(hidden) / temperatures[:, None]
    allowed = [token for token in range(VOCABULARY) if token not in EXCLUDED]
    log_distribution = torch.log_softmax(logits[:, allowed], dim=-1)
    column = torch.tensor([allowed.index(int(target)) for target in targets])
    expected = log_distribution[torch.arange(TOKENS), column]
    expected_entropies = -(log_distribution.exp() * log_distribution).sum(-1)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), [hidden, head.weight])

    actual, entropies = target_logprobs(
        hidden, head, targets, temperatures, excluded_ids=torch.tensor(EXCLUDED), chunk_tokens=chunk_tokens
    )
    gradients = torch.autograd.grad((actual * weights).sum(), [hidden, head.weight])
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_no_more_logits_than_a_chunk_are_made_at_once() -> None:
    rows: list[int] = []
    head = nn.Linear(HIDDEN, VOCABULARY, bias=False)

    def recording_head(states: torch.Tensor) -> torch.Tensor:
        rows.append(len(states))
        logits: torch.Tensor = head(states)
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
    assert rows == [10, 10, 3, *reversed([10, 10, 3])]
