"""Whether another computation of log-probabilities is that of the model, and what is said if it is not."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tristream.policy.loading import PLAIN_MODELS
from tristream.runtime.errors import UserError

MAX_DIFFERENCE_NATS = 1e-3
"""What is taken for rounding in float32."""
NOISE_FACTOR = 4.0
"""Coarser types may differ by so many times what two computations of the model itself differ by."""
FINE_TYPES = (torch.float32, torch.float64)
FAILURES = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, AssertionError, KeyError)
"""What a computation may fail with that a model does not fit."""


def difference_nats(model: Any, ones: Sequence[Tensor], others: Sequence[Tensor]) -> float:  # noqa: ANN401
    """How far log-probabilities are apart, in nats; infinite where one is not a number.

    In float32 the largest difference counts. In coarser types it is the mean: there the choice of experts for a single
    token may fall either way, and change it by much.
    """
    differences = torch.cat([one.detach().cpu().double() for one in ones]) - torch.cat([o.double() for o in others])
    sizes = differences.abs().nan_to_num(nan=torch.inf)
    return float(sizes.max() if _is_fine(model) else sizes.mean())


def allowed_difference(model: Any, plain: Sequence[Tensor], compute_otherwise: Callable[[], Sequence[Tensor]]) -> float:  # noqa: ANN401
    """How far log-probabilities may be from the model's own, in nats.

    Args:
        model: the transformers model.
        plain: its own log-probabilities.
        compute_otherwise: computes them in another order; asked only where rounding is coarser than float32's.
    """
    if _is_fine(model):
        return MAX_DIFFERENCE_NATS
    return max(MAX_DIFFERENCE_NATS, NOISE_FACTOR * difference_nats(model, compute_otherwise(), plain))


def _is_fine(model: Any) -> bool:  # noqa: ANN401 - transformers has no type for it
    return next(model.parameters()).dtype in FINE_TYPES


def why_not(error: Exception) -> str:
    """What a computation failed of, in a line."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def refusal(model: Any, what: str) -> UserError:  # noqa: ANN401 - transformers has no type for it
    """The error for a model that is not computed right."""
    return UserError(
        f"the {model.config.model_type} model {what}",
        where=f"[model] path = {model.name_or_path}",
        remedy=PLAIN_MODELS,
    )


def require_same(model: Any, difference: float, allowed: float, *, of_what: str, where: Callable[[], str]) -> None:  # noqa: ANN401
    """Check that log-probabilities are the model's own.

    Args:
        model: the transformers model.
        difference: of log-probabilities, in nats.
        allowed: what is taken for rounding.
        of_what: what computes them, for people.
        where: finds the place at which the computations part, in words; asked only if they do.

    Raises:
        UserError: they differ by more; names the model and the place.
    """
    if difference <= allowed:
        return
    raise refusal(
        model,
        f"is not computed right: log-probabilities {of_what} are {difference:.2g} nats from those of its own forward "
        f"pass ({allowed:.2g} are allowed), and part from it {where()}",
    )
