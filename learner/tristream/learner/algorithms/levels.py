"""Log ratios of two policies: at each token, or at the tokens of a rollout what is made of all of them.

The ratio of a loss and importance weights are taken at one of these levels.
"""

from torch import Tensor

from tristream.learner.algorithms.rollout_sums import mean_of_rollouts, spread_to_tokens, sum_of_rollouts


def token_level(log_ratios: Tensor, _lengths: Tensor) -> Tensor:
    """``log r_t``, as it is: PPO (Schulman et al. 2017, arXiv 1707.06347), section 3.

    Args:
        log_ratios: shape [tokens].
        _lengths: shape [rollouts], as all levels are given them.
    """
    return log_ratios


def sequence_level(log_ratios: Tensor, lengths: Tensor) -> Tensor:
    """``sum of log r_t`` over the rollout at each of its tokens: unbiased, and of great variance in long answers.

    Args:
        log_ratios: shape [tokens].
        lengths: shape [rollouts], tokens of each.
    """
    return spread_to_tokens(sum_of_rollouts(log_ratios, lengths), lengths)


def geometric_level(log_ratios: Tensor, lengths: Tensor) -> Tensor:
    """``mean of log r_t`` over the rollout at each of its tokens.

    GSPO's ratio (Zheng et al. 2025, arXiv 2507.18071, equation 7); it does not depend on how long the answer is. A
    gradient goes through the mean to each token of the rollout.

    Args:
        log_ratios: shape [tokens].
        lengths: shape [rollouts], tokens of each.
    """
    return spread_to_tokens(mean_of_rollouts(log_ratios, lengths), lengths)
