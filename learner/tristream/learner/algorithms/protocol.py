"""What an algorithm is: two pure functions, from final rewards to advantages and from log-probabilities to a loss.

Tokens come flat: the sampled tokens of some rollouts one after the other, with the rollouts' lengths beside them.
An algorithm knows no model, no packing and no ranks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to this on both sides, so that exp stays finite in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Sampled tokens of some rollouts of a batch, on one device.

    A token that the policy cannot sample, or whose rollout is left out of the loss, has 0 for all its log-probabilities
    and for its advantage.
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
    """Tokens that the whole update counts over all ranks and micro-batches, so that any split gives the same sum."""
    num_global_rollouts: int
    """Rollouts that the whole update counts over all ranks and micro-batches."""
    reference_logprobs: Tensor | None = None
    """Shape [tokens], under a policy that the trained one should stay near."""
    proximal_logprobs: Tensor | None = None
    """Shape [tokens], under the learner's policy before the batch's first update; None where that is ``logprobs``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyLoss:
    """The loss of some tokens of a batch, and what each token contributes to the metrics."""

    loss: Tensor
    """Scalar; the losses of disjoint parts of a batch add up to the loss of the batch."""
    is_clipped: Tensor
    """Shape [tokens], float: 1 where a bound on the ratio took the gradient away, or cut the weight of it."""
    kl_k1: Tensor
    """Shape [tokens]: log(old / new), the unbiased estimate of KL(old || new), in nats; old is the one that sampled."""
    kl_k3: Tensor
    """Shape [tokens]: ratio - 1 - log(ratio), the non-negative estimate of KL(old || new), in nats."""
    ratio: Tensor
    """Shape [tokens], without gradient: the ratio that the loss clips, or that of the rollout."""
    weight: Tensor
    """Shape [tokens], without gradient: importance weights; 1 if there are none."""
    kl_reference: Tensor
    """Shape [tokens], without gradient: the estimate of KL(new || reference), in nats; 0 without a reference."""


Advantages = Callable[[Sequence[Sequence[float]]], list[tuple[float, ...]]]
"""Advantages of the valid rollouts of each group of a whole batch, from their final rewards."""
Loss = Callable[[LossInputs], PolicyLoss]
"""The loss of some rollouts of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """What turns rewards into an update, and what it needs for that."""

    advantages: Advantages
    loss: Loss
    penalty: Callable[[int], float]
    """What the length of a rollout, in sampled tokens, takes off its reward for advantages."""
    masks_truncated: bool
    """Whether answers that were cut off are left out of the loss."""
    recomputes_proximal: bool
    """Whether the old policy of the ratio is the learner's own before the first update."""
    needs_reference: bool
    """Whether the loss needs a reference policy."""
    updates_per_batch: int
    epochs: int
