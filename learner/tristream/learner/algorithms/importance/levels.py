"""Log importance weights: of each token, of a whole rollout, or the geometric mean of those of its tokens."""

from torch import Tensor

from tristream.learner.algorithms.rollout_sums import mean_of_rollouts, spread_to_tokens, sum_of_rollouts


def token_level(log_weights: Tensor, _lengths: Tensor) -> Tensor:
    """``log w_t``, as it is: decoupled PPO (Hilton et al. 2021, arXiv 2110.00641), section 3.

    Args:
        log_weights: shape [tokens], ``log p_proximal - log p_sampled``.
        _lengths: shape [rollouts], as all levels are given them.
    """
    return log_weights


def sequence_level(log_weights: Tensor, lengths: Tensor) -> Tensor:
    """``sum of log w_t`` over the rollout at each of its tokens: unbiased, and of great variance in long answers.

    Args:
        log_weights: shape [tokens], ``log p_proximal - log p_sampled``.
        lengths: shape [rollouts], tokens of each.
    """
    return spread_to_tokens(sum_of_rollouts(log_weights, lengths), lengths)


def geometric_level(log_weights: Tensor, lengths: Tensor) -> Tensor:
    """``mean of log w_t`` over the rollout at each of its tokens: does not depend on how long the answer is.

    Args:
        log_weights: shape [tokens], ``log p_proximal - log p_sampled``.
        lengths: shape [rollouts], tokens of each.
    """
    return spread_to_tokens(mean_of_rollouts(log_weights, lengths), lengths)
