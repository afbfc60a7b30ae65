"""The decorator that makes a function a verifier, and what is then known of it."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from tristream.verifiers.contract import Unscorable
from tristream.wire.verifiers import versioned_name

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
VERSION_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,32}")
ZERO_TO_ONE = (0.0, 1.0)

Range = tuple[float, float]


class Scope(StrEnum):
    """What a verifier is called with."""

    ROLLOUT = "rollout"
    """One rollout."""
    GROUP = "group"
    """All rollouts of a group, in a tuple; it returns one judgement for each, in order."""


class Need(StrEnum):
    """What a verifier uses beyond its arguments; what it does not declare is kept from it."""

    IMAGES = "images"
    """The bytes of images."""
    NETWORK = "network"
    """The network; async verifiers have it anyway."""
    PROCESSES = "processes"
    """Processes or threads that it starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one call may use up."""

    cpu_seconds: float = 1.0
    """CPU time."""
    wall_seconds: float = 60.0
    """Time, waiting included."""
    memory_mib: int = 1024
    """Memory beyond what its process starts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierDefinition:
    """A verifier: a function, and what it declares of itself. Called, it is the function."""

    name: str
    version: str
    """Changes whenever a score could change."""
    components: Mapping[str, Range]
    """Smallest and largest value of each reward component by its name."""
    function: Callable[..., Any]
    parameters: type[BaseModel]
    """Its keyword parameters, with kinds and defaults."""
    scope: Scope = Scope.ROLLOUT
    parse_truth: Callable[..., Any] | None = None
    """Parses the ground truth once for a group; takes those of the parameters that it names."""
    limits: Limits = Limits()
    needs: frozenset[Need] = frozenset()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: ANN401 - it is the function
        """Call the function itself."""
        return self.function(*arguments, **keywords)

    @property
    def versioned_name(self) -> str:
        """``NAME@VERSION``."""
        return versioned_name(self.name, self.version)

    @property
    def is_async(self) -> bool:
        """Whether it waits for others, such as a judge, so that many calls go on at once."""
        return inspect.iscoroutinefunction(self.function)

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a call: what is given, checked, and the defaults; nulls count as not given.

        Raises:
            Unscorable: a parameter is unknown, missing or of the wrong kind.
        """
        try:
            model = self.parameters.model_validate({k: v for k, v in given.items() if v is not None})
        except (ValidationError, RecursionError) as error:
            raise Unscorable(f"the parameters are unusable: {first_problem(error)}") from None
        extra = model.model_extra or {}
        return {**{name: getattr(model, name) for name in type(model).model_fields}, **extra}


def verifier(
    *,
    version: str,
    components: Iterable[str] | Mapping[str, Range],
    name: str = "",
    scope: str = "rollout",
    truth: Callable[..., Any] | None = None,
    limits: Limits = Limits(),
    needs: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], VerifierDefinition]:
    """Make a function a verifier.

    The function takes a rollout (with ``scope="group"`` a tuple of them) and, after ``*``, its parameters, annotated
    and with defaults: ``params`` of a sample are checked against them. It returns the value of its one component, or
    a mapping of values by component, or a ``Score``; with ``scope="group"`` a sequence of these. The same rollout has
    the same value whenever and wherever it is judged, but for async verifiers.

    Args:
        version: changes whenever a value could change.
        components: names of the reward components, each 0..1, or a mapping of (smallest, largest) by name.
        name: how samples ask for it; the name of the function, if it is not given.
        scope: ``rollout`` or ``group``.
        truth: parses the ground truth, once for a group; ``rollout.truth`` is what it returns. It may take some of
            the parameters by name, and raises ``Unscorable`` if the truth is unusable.
        limits: what one call may use up.
        needs: ``images``, ``network`` or ``processes``, if it uses them.

    Raises:
        TypeError: the declaration contradicts itself, or the function; says how to write it.
        ValueError: there is no such scope or need.
    """

    def define(function: Callable[..., Any]) -> VerifierDefinition:
        called = name or getattr(function, "__name__", "")
        if not NAME_PATTERN.fullmatch(called) or not VERSION_PATTERN.fullmatch(version):
            raise TypeError(f"'{called}@{version}' is no name of a verifier: write lower case letters, digits, _ . -")
        return VerifierDefinition(
            name=called,
            version=version,
            components=_ranges(called, components),
            function=function,
            parameters=_parameters_of(called, function),
            scope=Scope(scope),
            parse_truth=truth,
            limits=limits,
            needs=frozenset(Need(need) for need in needs),
        )

    return define


def _ranges(called: str, components: Iterable[str] | Mapping[str, Range]) -> dict[str, Range]:
    ranges = dict(components) if isinstance(components, Mapping) else dict.fromkeys(components, ZERO_TO_ONE)
    if not ranges or not all(isinstance(name, str) and low < high for name, (low, high) in ranges.items()):
        raise TypeError(f"verifier {called} declares no usable component; write components=['accuracy']")
    return ranges


def _parameters_of(called: str, function: Callable[..., Any]) -> type[BaseModel]:
    """A model of the keyword-only parameters; a function that takes any keyword takes any parameter."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) != 1:
        raise TypeError(f"verifier {called} takes one argument, the rollout; write its parameters after *")
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY:
            kind = Any if parameter.annotation is parameter.empty else parameter.annotation
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (kind, Field(default=default))
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    config = ConfigDict(extra="allow" if takes_any else "forbid")
    return create_model(f"{called}_parameters", __config__=config, **fields)


def first_problem(error: ValidationError | RecursionError) -> str:
    """What pydantic found wrong first, in one line."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
