"""Commands: what changes while a run goes on, by people or by the run itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class CommandKind(StrEnum):
    """What is to happen."""

    ADD = "add"
    """A verifier version begins to score, as a shadow."""
    PROMOTE = "promote"
    """Its scores count in prompts dispatched from then on."""
    DEMOTE = "demote"
    """It is a shadow again in prompts dispatched from then on."""
    RETIRE = "retire"
    """It scores no more, once what was dispatched before has its rewards."""
    PAUSE_SOURCE = "pause_source"
    """No prompt of the sources is dispatched from a number on."""
    RESUME_SOURCE = "resume_source"
    """Prompts of the sources are dispatched again from a number on."""
    EXTEND = "extend"
    """The run goes on to more steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One change. Verifier, version, weights, parameters and entry point belong to the first four kinds."""

    run: str
    id: str
    """One that is delivered twice counts once."""
    kind: CommandKind
    verifier: str = ""
    version: str = ""
    sources: tuple[str, ...] = ()
    """Sources it concerns; empty means all."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weight of each reward component by its name, for PROMOTE."""
    params_json: str = "{}"
    entry_point: str = ""
    """Where its code is, such as ``module:name`` or ``file.py:name``; empty for built-in verifiers."""
    components: tuple[str, ...] = ()
    """Reward components that the verifier declares, for ADD."""
    code_sha256: str = ""
    """SHA-256 of the file that ``entry_point`` names, in hex, for ADD; empty if it names none."""
    from_earliest: bool = False
    """Whether it scores what was on the log before it was added, for ADD."""
    from_number: int = 0
    """Training prompt number from which it holds, in what the run commands itself."""
    from_version: int = 0
    """Policy version from which it holds in evaluation, in what the run commands itself."""
    refusal: str = ""
    """Why the run does not do what was asked, in an answer of the run; empty if it does."""
    reason: str = ""
    """Why, in words."""
    total_steps: int = 0
    """Steps of the whole run from now on, for EXTEND."""
    created_ns: int
