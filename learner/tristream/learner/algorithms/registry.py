"""The parts of algorithms by their names in ``[learner.algorithm]``, and what a run file makes of them."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from tristream.config.algorithms import AlgorithmSection
from tristream.learner.algorithms.advantages.batch_std import batch_std_advantages
from tristream.learner.algorithms.advantages.group_mean import group_mean_advantages
from tristream.learner.algorithms.advantages.group_std import group_std_advantages
from tristream.learner.algorithms.advantages.leave_one_out import leave_one_out_advantages
from tristream.learner.algorithms.aggregation.fixed_length import fixed_length
from tristream.learner.algorithms.aggregation.sequence_mean import sequence_mean
from tristream.learner.algorithms.aggregation.sizes import Sizes
from tristream.learner.algorithms.aggregation.token_mean import token_mean
from tristream.learner.algorithms.composition import Correction, LossParts, OfRollouts, composed_loss
from tristream.learner.algorithms.importance.masked import masked
from tristream.learner.algorithms.importance.truncated import truncated
from tristream.learner.algorithms.kl.k1 import k1
from tristream.learner.algorithms.kl.k2 import k2
from tristream.learner.algorithms.kl.k3 import k3
from tristream.learner.algorithms.levels import geometric_level, sequence_level, token_level
from tristream.learner.algorithms.losses.cispo import cispo_losses
from tristream.learner.algorithms.losses.clipped import clipped_losses
from tristream.learner.algorithms.losses.token_losses import Bounds, TokenLosses
from tristream.learner.algorithms.overlong_penalty import overlong_penalty
from tristream.learner.algorithms.protocol import Advantages, Algorithm
from tristream.runtime.errors import UserError

RATIOS: Mapping[str, OfRollouts] = {"token": token_level, "sequence": geometric_level}
LOSSES: Mapping[str, Callable[[Tensor, Tensor, Tensor, Bounds], TokenLosses]] = {
    "clipped": clipped_losses,
    "cispo": cispo_losses,
}
AGGREGATIONS: Mapping[str, Callable[[Tensor, Sizes], Tensor]] = {
    "token_mean": token_mean,
    "sequence_mean": sequence_mean,
    "fixed_length": fixed_length,
}
KL_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
IMPORTANCE_LEVELS: Mapping[str, OfRollouts] = {
    "token": token_level,
    "sequence": sequence_level,
    "geometric": geometric_level,
}
IMPORTANCE_BOUNDS: Mapping[str, Callable[[Tensor, float, float], Tensor]] = {"truncate": truncated, "mask": masked}


def make_algorithm(section: AlgorithmSection, *, max_tokens: int = 0) -> Algorithm:
    """The algorithm that a run file describes.

    Args:
        section: its parameters.
        max_tokens: longest answer of the run, where the section names none.

    Raises:
        UserError: it needs the longest answer, and nobody names it.
    """
    max_tokens = section.max_tokens or max_tokens
    if max_tokens == 0 and (section.aggregation == "fixed_length" or section.overlong_penalty):
        raise UserError(
            f"'{section.type}' needs to know how long an answer can be",
            where="[learner.algorithm] max_tokens",
            remedy="give the number of tokens",
        )
    return Algorithm(
        advantages=_advantages(section),
        loss=partial(composed_loss, parts=_loss_parts(section, max_tokens)),
        penalty=_penalty(section, max_tokens),
        masks_truncated=section.overlong == "mask",
        recomputes_proximal=section.proximal == "recomputed",
        needs_reference=section.kl_coefficient > 0,
        updates_per_batch=section.updates_per_batch,
        epochs=section.epochs,
    )


def _advantages(section: AlgorithmSection) -> Advantages:
    epsilon = section.advantage_epsilon
    known: Mapping[str, Advantages] = {
        "group_std": partial(group_std_advantages, epsilon=epsilon),
        "group_mean": group_mean_advantages,
        "leave_one_out": leave_one_out_advantages,
        "batch_std": partial(batch_std_advantages, epsilon=epsilon),
    }
    return known[section.advantage]


def _penalty(section: AlgorithmSection, max_tokens: int) -> Callable[[int], float]:
    if not section.overlong_penalty:
        return lambda _num_tokens: 0.0
    return partial(
        overlong_penalty, penalty=section.overlong_penalty, share=section.overlong_share, max_tokens=max_tokens
    )


def _loss_parts(section: AlgorithmSection, max_tokens: int) -> LossParts:
    correction = None
    if section.importance != "none":
        correction = Correction(
            level=IMPORTANCE_LEVELS[section.importance_level],
            bound=IMPORTANCE_BOUNDS[section.importance],
            low=section.importance_low,
            high=section.importance_high,
        )
    return LossParts(
        ratio=RATIOS[section.ratio],
        token_losses=LOSSES[section.loss],
        bounds=Bounds(
            clip_low=section.clip_low,
            clip_high=section.clip_high,
            dual_clip=section.dual_clip,
            ratio_bound=section.ratio_bound,
        ),
        aggregate=AGGREGATIONS[section.aggregation],
        max_tokens=max_tokens,
        recomputes_proximal=section.proximal == "recomputed",
        correction=correction,
        kl=KL_ESTIMATORS[section.kl_estimator],
        kl_coefficient=section.kl_coefficient,
    )
