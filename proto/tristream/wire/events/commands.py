"""Commands: what people change while a run goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class CommandKind(StrEnum):
    """What is to happen to a verifier version."""

    ADD = "add"
    """It begins to score, as a shadow."""
    PROMOTE = "promote"
    """Its scores count in prompts dispatched from then on."""
    DEMOTE = "demote"
    """It is a shadow again in prompts dispatched from then on."""
    RETIRE = "retire"
    """It scores no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One change of one verifier version."""

    run: str
    id: str
    """One that is delivered twice counts once."""
    kind: CommandKind
    verifier: str
    version: str
    sources: tuple[str, ...] = ()
    """Sources it concerns; empty means all."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each reward component by its name, for PROMOTE."""
    params_json: str = "{}"
    entry_point: str = ""
    """Where its code is, such as ``module:name`` or ``file.py:name``; empty for built-in verifiers."""
    created_ns: int
