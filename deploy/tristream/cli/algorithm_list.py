"""``tristream algorithms``: the presets with formula and source, and every parameter with its value in each of them."""

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from tristream.config.algorithms import AlgorithmSection
from tristream.config.presets import PRESETS, Preset


def describe_presets() -> Iterator[str]:
    """Lines that say of each preset what it is, and which parameters it sets."""
    for name, preset in PRESETS.items():
        is_default = name == AlgorithmSection().type
        yield f"{name}{' (default)' if is_default else ''}: {preset.summary}"
        for begins, line in zip(("formula", "", "", ""), preset.formula.split("; "), strict=False):
            yield f"  {begins:10} {line}"
        yield f"  source     {preset.source}"
        yield f"  parameters {_parameters_of(preset)}"
        yield ""


def parameter_table() -> Table:
    """Every parameter with its meaning; presets have its default, or the value that is named behind it."""
    table = Table("[learner.algorithm]", "default", "meaning", title="parameters of all types")
    for name, field in AlgorithmSection.model_fields.items():
        of_presets = [f"{key}: {_shown(p.parameters[name])}" for key, p in PRESETS.items() if name in p.parameters]
        table.add_row(
            name, "\n".join([_shown(field.default), *of_presets]), " ".join((field.description or "").split())
        )
    return table


def _parameters_of(preset: Preset) -> str:
    named = [f"{name} = {_shown(value)}" for name, value in preset.parameters.items()]
    return ", ".join(named) or "the defaults"


def _shown(value: Any) -> str:  # noqa: ANN401 - a parameter can be anything
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
