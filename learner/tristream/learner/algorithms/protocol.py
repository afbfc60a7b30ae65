"""What an algorithm is: two pure functions, from final rewards to advantages and from log-probabilities to a loss.

Tokens come flat: the sampled tokens of some rollouts one after the other, with the rollouts' lengths beside them.
An algorithm knows no model, no packing and no ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Sampled tokens of some rollouts of a batch, on one device.

    A token that the policy cannot sample has 0 for its log-probabilities and its advantage.
    """

    logprobs: Tensor
    """Shape [tokens], under the policy being trained; carries the gradient."""
    old_logprobs: Tensor
    """Shape [tokens], under the policy that sampled the tokens."""
    advantages: Tensor
    """Shape [tokens], the advantage of each token's rollout."""
    rollout_lengths: Tensor
    """Shape [rollouts], int64: tokens of each rollout, in order; they add up to the tokens."""
    num_global_tokens: int
    """Tokens of the whole batch over all ranks and micro-batches, so that any split of it gives the same sum."""
    num_global_rollouts: int
    """Rollouts of the whole batch over all ranks and micro-batches."""
    reference_logprobs: Tensor | None = None
    """Shape [tokens], under a policy that the trained one should stay near."""
    proximal_logprobs: Tensor | None = None
    """Shape [tokens], under the policy before the update, where that is not the one that sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """The loss of some tokens of a batch, and what each token contributes to the metrics."""

    loss: Tensor
    """Scalar; the losses of disjoint parts of a batch add up to the loss of the batch."""
    is_clipped: Tensor
    """Shape [tokens], float: 1 where the clip range took the gradient away."""
    kl_k1: Tensor
    """Shape [tokens]: log(old / new), the unbiased estimate of KL(old || new), in nats."""
    kl_k3: Tensor
    """Shape [tokens]: ratio - 1 - log(ratio), the non-negative estimate of KL(old || new), in nats."""


Advantages = Callable[[Sequence[Sequence[float]]], list[tuple[float, ...]]]
"""Advantages of the valid rollouts of each group of a whole batch, from their final rewards."""
Loss = Callable[[LossInputs], PolicyLoss]
"""The loss of some rollouts of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """What turns rewards into an update."""

    advantages: Advantages
    loss: Loss
