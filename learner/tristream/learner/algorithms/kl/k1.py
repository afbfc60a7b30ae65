"""The estimator k1 of a KL divergence."""

from torch import Tensor


def k1(log_ratio: Tensor) -> Tensor:
    """``-x`` with ``x = log(p_reference / p_new)``: the unbiased one (Schulman 2020, "Approximating KL divergence").

    In a loss it is of no use on-policy: the expectation of its gradient is 0. It is there to be compared.

    Args:
        log_ratio: shape [tokens], ``x``, with gradient.
    """
    return -log_ratio
