"""The estimator k2 of a KL divergence."""

from torch import Tensor


def k2(log_ratio: Tensor) -> Tensor:
    """``x^2 / 2`` with ``x = log(p_reference / p_new)`` (Schulman 2020, "Approximating KL divergence").

    On-policy its gradient is in expectation that of KL(new || reference).

    Args:
        log_ratio: shape [tokens], ``x``, with gradient.
    """
    return log_ratio.square() / 2
