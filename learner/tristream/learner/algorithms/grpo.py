"""GRPO: advantages relative to the group, and a clipped loss that is the mean over all tokens of the batch.

One optimizer step is taken per batch, so the old policy of the ratio is the behaviour policy that sampled
the tokens. There is no KL term.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch

from tristream.config.algorithms import GrpoSection
from tristream.learner.algorithms.protocol import Algorithm, LossInputs, PolicyLoss

MAX_LOG_RATIO = 20.0
"""Log ratios are clamped to this on both sides, so that exp stays finite in float32."""
STANDARD_DEVIATION_EPSILON = 1e-6
"""Added to the standard deviation, as verl and V-Triune do."""
LARGE_REWARD = 1e100
"""Greater rewards are scaled down first, since their squares leave the range of a float."""


def make_grpo(section: GrpoSection) -> Algorithm:
    """GRPO with the parameters of the run file."""
    return Algorithm(
        advantages=grpo_advantages,
        loss=partial(clipped_policy_loss, clip_low=section.clip_low, clip_high=section.clip_high),
    )


def grpo_advantages(groups: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    """Advantages of each group by itself, from the final rewards of its valid rollouts."""
    return [group_advantages(rewards) for rewards in groups]


def group_advantages(rewards: Sequence[float]) -> tuple[float, ...]:
    """Advantages of one group: ``(R - mean) / (std + 1e-6)`` with the unbiased standard deviation.

    GRPO (Shao et al. 2024, arXiv 2402.03300, section 4.1); ddof=1 as in verl, TRL and V-Triune's code.

    Args:
        rewards: final rewards of the valid rollouts, at least two.

    Raises:
        ValueError: fewer than two rewards.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group of {len(rewards)} has no baseline")
    largest = max(map(abs, rewards))
    if largest > LARGE_REWARD:
        rewards = [reward / largest for reward in rewards]
    mean = math.fsum(rewards) / len(rewards)
    variance = math.fsum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
    scale = math.sqrt(variance) + STANDARD_DEVIATION_EPSILON
    return tuple((reward - mean) / scale for reward in rewards)


def clipped_policy_loss(inputs: LossInputs, *, clip_low: float, clip_high: float) -> PolicyLoss:
    """Token-mean clipped policy loss with an asymmetric clip range.

    With the ratio ``r_t = exp(logprobs_t - old_logprobs_t)`` and the advantage ``A_t`` of the token's rollout::

        loss = 1 / num_global_tokens * sum_t -min(r_t * A_t, clip(r_t, 1 - clip_low, 1 + clip_high) * A_t)

    The ratio clip is PPO's (arXiv 1707.06347, eq. 7), the group-relative advantage GRPO's (arXiv 2402.03300),
    "clip-higher" and the mean over all tokens of the batch DAPO's (arXiv 2503.14476, eq. 8).

    Args:
        inputs: the tokens; rollouts' boundaries and other log-probabilities make no difference.
        clip_low: the ratio is clipped below ``1 - clip_low``.
        clip_high: the ratio is clipped above ``1 + clip_high``.
    """
    advantages = inputs.advantages
    log_ratio = (inputs.logprobs - inputs.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio = log_ratio.exp()
    clipped_ratio = ratio.clamp(1 - clip_low, 1 + clip_high)
    token_losses = -torch.minimum(ratio * advantages, clipped_ratio * advantages)
    loss = token_losses.sum() / inputs.num_global_tokens
    with torch.no_grad():
        is_above = (ratio > 1 + clip_high) & (advantages > 0)
        is_below = (ratio < 1 - clip_low) & (advantages < 0)
        return PolicyLoss(
            loss=loss,
            is_clipped=(is_above | is_below).to(ratio.dtype),
            kl_k1=-log_ratio.detach(),
            kl_k3=(ratio - 1 - log_ratio).detach(),
        )
