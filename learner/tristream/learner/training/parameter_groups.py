"""Parameter groups: which parameters share a learning rate and a weight decay."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from tristream.config.learner import LearnerSection, ModuleSection
from tristream.runtime.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ParameterGroup:
    """Parameters that are updated alike."""

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    learning_rate_scale: float
    """Their learning rate is that of the step times this."""
    weight_decay: float


def make_parameter_groups(named: Iterable[tuple[str, nn.Parameter]], settings: LearnerSection) -> list[ParameterGroup]:
    """The trained parameters in groups, in the order in which the first of each comes.

    Raises:
        UserError: a prefix of ``[[learner.modules]]`` matches no trained parameter, or is given twice.
    """
    trained = {name: parameter for name, parameter in named if parameter.requires_grad}
    _check_prefixes(settings.modules, trained)
    members: dict[tuple[float, float], list[str]] = {}
    for name, parameter in trained.items():
        members.setdefault(_way_of(name, parameter, settings), []).append(name)
    return [
        ParameterGroup(
            names=tuple(names),
            parameters=tuple(trained[name] for name in names),
            learning_rate_scale=scale,
            weight_decay=weight_decay,
        )
        for (scale, weight_decay), names in members.items()
    ]


def _way_of(name: str, parameter: nn.Parameter, settings: LearnerSection) -> tuple[float, float]:
    """Learning rate scale and weight decay of a parameter."""
    matching = [module for module in settings.modules if name.startswith(module.prefix)]
    module = max(matching, key=lambda module: len(module.prefix), default=None)
    decay = settings.weight_decay if module is None or module.weight_decay is None else module.weight_decay
    if parameter.ndim <= 1 and not settings.decays_vectors:
        decay = 0.0
    return 1.0 if module is None else module.learning_rate_scale, decay


def _check_prefixes(modules: Sequence[ModuleSection], trained: Iterable[str]) -> None:
    names = list(trained)
    seen: set[str] = set()
    for module in modules:
        if module.prefix in seen:
            raise UserError(
                f"'{module.prefix}' is there twice", where="[[learner.modules]] prefix", remedy="remove one of them"
            )
        seen.add(module.prefix)
        if not any(name.startswith(module.prefix) for name in names):
            roots = sorted({".".join(name.split(".")[:2]) + "." for name in names})
            raise UserError(
                f"'{module.prefix}' matches no parameter that is trained",
                where="[[learner.modules]] prefix",
                remedy=f"use a prefix of a parameter name; names start with {', '.join(roots)}",
            )
