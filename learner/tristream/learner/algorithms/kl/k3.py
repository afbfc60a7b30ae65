"""The estimator k3 of a KL divergence."""

from torch import Tensor


def k3(log_ratio: Tensor) -> Tensor:
    """``e^x - x - 1`` with ``x = log(p_reference / p_new)``: GRPO (arXiv 2402.03300), equation 4; Schulman 2020.

    Unbiased and never negative. On-policy its gradient is in expectation that of KL(reference || new).

    Args:
        log_ratio: shape [tokens], ``x``, with gradient.
    """
    return log_ratio.exp() - log_ratio - 1
