"""Mean over rollouts of the mean over their tokens."""

from torch import Tensor

from tristream.learner.algorithms.aggregation.sizes import Sizes
from tristream.learner.algorithms.rollout_sums import mean_of_rollouts


def sequence_mean(losses: Tensor, sizes: Sizes) -> Tensor:
    """``mean over i of (sum of l_t / |o_i|)``: GRPO (Shao et al. 2024, arXiv 2402.03300), equation 3; GSPO, equation 5.

    Each rollout weighs the same. One without tokens has loss 0, and counts.

    Args:
        losses: shape [tokens], some of the update's, of whole rollouts.
        sizes: of these and of the whole update, so that the results of its parts add up.
    """
    return mean_of_rollouts(losses, sizes.rollout_lengths).sum() / max(1, sizes.num_global_rollouts)
