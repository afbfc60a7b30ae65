"""The ratio of each rollout, at all of its tokens."""

from torch import Tensor

from tristream.learner.algorithms.rollout_sums import mean_of_rollouts, spread_to_tokens


def sequence_log_ratio(log_ratio: Tensor, lengths: Tensor) -> Tensor:
    """``log r_i = mean over the tokens of i of log r_t``: GSPO (Zheng et al. 2025, arXiv 2507.18071), equation 7.

    The gradient goes through the mean to each token of the rollout.

    Args:
        log_ratio: shape [tokens].
        lengths: shape [rollouts], tokens of each.

    Returns:
        Shape [tokens].
    """
    return spread_to_tokens(mean_of_rollouts(log_ratio, lengths), lengths)
