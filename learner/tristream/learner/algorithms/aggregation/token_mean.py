"""Mean over all tokens of an update."""

from torch import Tensor

from tristream.learner.algorithms.aggregation.sizes import Sizes


def token_mean(losses: Tensor, sizes: Sizes) -> Tensor:
    """``sum of l_t / number of tokens``: DAPO (Yu et al. 2025, arXiv 2503.14476), equation 8; long answers weigh more.

    Args:
        losses: shape [tokens], some of the update's.
        sizes: of these and of the whole update, so that the results of its parts add up.
    """
    return losses.sum() / max(1, sizes.num_global_tokens)
