"""Sum over all tokens, divided by what does not depend on the answers."""

from torch import Tensor

from tristream.learner.algorithms.aggregation.sizes import Sizes


def fixed_length(losses: Tensor, sizes: Sizes) -> Tensor:
    """``sum of l_t / (rollouts * longest possible answer)``: Dr. GRPO (Liu et al. 2025, arXiv 2503.20783), section 3.2.

    The constant is that of TRL and of the paper's code. Wrong answers are not favoured for being long.

    Args:
        losses: shape [tokens], some of the update's.
        sizes: of the whole update, so that the results of its parts add up.
    """
    return losses.sum() / (max(1, sizes.num_global_rollouts) * sizes.max_tokens)
