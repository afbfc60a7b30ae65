"""The ratio of each token."""

from torch import Tensor


def token_log_ratio(log_ratio: Tensor, _lengths: Tensor) -> Tensor:
    """``log r_t = log p_new(t) - log p_old(t)``, as it is: PPO (Schulman et al. 2017, arXiv 1707.06347), section 3.

    Args:
        log_ratio: shape [tokens].
        _lengths: shape [rollouts], as all ratios are given them.
    """
    return log_ratio
