"""Requests about the verifiers of a run: from the words of a command line to an event, and back from the answer."""

import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from tristream.runtime.errors import UserError
from tristream.verifiers.loading import code_sha256
from tristream.wire.events import Command, CommandKind
from tristream.wire.verifiers import BUILT_IN_VERSIONS, canonical_name, versioned_name

ALL_COMPONENTS = ""
"""Stands for every component in weights as they are given."""


class Described(Protocol):
    """What a verifier declares of itself."""

    @property
    def name(self) -> str:
        """How samples ask for it."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def entry_point(self) -> str:
        """Where its code is, wherever one stands; empty for a built-in verifier."""
        ...

    @property
    def components(self) -> Mapping[str, tuple[float, float]]:
        """Smallest and largest value of each reward component by its name."""
        ...


def parse_sources(words: str) -> tuple[str, ...]:
    """``a,b`` as names; none means all.

    Raises:
        UserError: a name is empty.
    """
    names = tuple(name.strip() for name in words.split(",")) if words else ()
    if not all(names):
        raise UserError(f"'{words}' has an empty name", where="--sources", remedy="write a,b")
    return names


def parse_parameters(text: str) -> str:
    """Parameters as JSON, in one form.

    Raises:
        UserError: they are no JSON object.
    """
    return json.dumps(parse_object(text, "--params"), sort_keys=True)


def parse_object(text: str, option: str) -> dict[str, Any]:
    """The JSON object that an option is given.

    Raises:
        UserError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not JSON ({error})", where=option, remedy="""write '{"name": value}'""") from None
    if not isinstance(value, dict):
        raise UserError("it is not a JSON object", where=option, remedy="""write '{"name": value}'""")
    return value


def parse_weights(words: Sequence[str]) -> dict[str, float]:
    """``0.5`` or ``accuracy=0.5`` as weights by component; a bare one is for all components.

    Raises:
        UserError: one is no number, or given twice.
    """
    weights: dict[str, float] = {}
    for word in words:
        component, _, number = word.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not math.isfinite(weight):
            raise UserError(f"'{word}' is no weight", where="--weight", remedy="write 0.5, or accuracy=0.5")
        if component in weights:
            raise UserError(f"'{word}' is given twice", where="--weight", remedy="give one weight a component")
        weights[component] = weight
    return weights


def parse_name(word: str, commands: Sequence[Command]) -> tuple[str, str]:
    """Name and version that ``NAME[@VERSION]`` means; without a version, that which was added last, or is built in.

    Args:
        word: as it is given.
        commands: those of the run that hold.

    Raises:
        UserError: the run knows no version of it.
    """
    name, separator, version = word.partition("@")
    name = canonical_name(name)
    if separator and name and version:
        return name, version
    added = [command.version for command in commands if command.kind is CommandKind.ADD and command.verifier == name]
    newest = added[-1] if added else BUILT_IN_VERSIONS.get(name)
    if not name or separator or newest is None:
        known = sorted({c.verifier for c in commands if c.kind is CommandKind.ADD} | set(BUILT_IN_VERSIONS))
        raise UserError(
            f"no version of '{word}' is known",
            where="NAME[@VERSION]",
            remedy=f"add it first, give it as NAME@VERSION, or use one of {', '.join(known)}",
        )
    return name, newest


def add_request(
    run: str, description: Described, *, sources: tuple[str, ...], params: str, is_from_earliest: bool
) -> Command:
    """The request to let a verifier score as a shadow.

    Raises:
        UserError: its file cannot be read.
    """
    return Command(
        run=run,
        id=_new_id(CommandKind.ADD),
        kind=CommandKind.ADD,
        verifier=description.name,
        version=description.version,
        sources=sources,
        params_json=params,
        entry_point=_entry_point(description),
        components=tuple(description.components),
        code_sha256=code_sha256(description.entry_point),
        from_earliest=is_from_earliest,
        reason="tristream verifiers add",
        created_ns=time.time_ns(),
    )


def change_request(
    run: str,
    kind: CommandKind,
    name: tuple[str, str],
    commands: Sequence[Command],
    *,
    sources: tuple[str, ...] = (),
    weights: Mapping[str, float] | None = None,
) -> Command:
    """The request to promote, demote or retire a verifier version.

    Raises:
        UserError: a weight is for all components, and the run does not know them.
    """
    return Command(
        run=run,
        id=_new_id(kind),
        kind=kind,
        verifier=name[0],
        version=name[1],
        sources=sources,
        weights=_by_component(weights or {}, name, commands),
        reason=f"tristream verifiers {kind}",
        created_ns=time.time_ns(),
    )


def describe_answer(request: Command, answer: Command | None) -> dict[str, Any]:
    """A request and what came of it, as JSON values: ``state`` is ``in_force``, ``refused`` or ``unanswered``."""
    told = answer or request
    state = "unanswered" if answer is None else "refused" if answer.refusal else "in_force"
    return {
        "state": state,
        "kind": str(told.kind),
        "verifier": told.verifier,
        "version": told.version,
        "sources": list(told.sources),
        "weights": dict(told.weights),
        "from_number": told.from_number if state == "in_force" else None,
        "from_version": told.from_version if state == "in_force" else None,
        "refusal": told.refusal,
    }


def _entry_point(description: Described) -> str:
    """Where the code is; empty for a built-in verifier, whatever it was called by."""
    is_built_in = ":" not in description.entry_point and BUILT_IN_VERSIONS.get(description.name) == description.version
    return "" if is_built_in else description.entry_point


def _by_component(weights: Mapping[str, float], name: tuple[str, str], commands: Sequence[Command]) -> dict[str, float]:
    """Weights with that for all components laid below the others."""
    named = {component: weight for component, weight in weights.items() if component != ALL_COMPONENTS}
    if ALL_COMPONENTS not in weights:
        return named
    return {**dict.fromkeys(_components_of(name, commands), weights[ALL_COMPONENTS]), **named}


def _components_of(name: tuple[str, str], commands: Sequence[Command]) -> Sequence[str]:
    added = [c for c in commands if c.kind is CommandKind.ADD and (c.verifier, c.version) == name]
    if added:
        return added[-1].components
    if BUILT_IN_VERSIONS.get(name[0]) == name[1]:
        from tristream.verifiers.offline.describing import describe

        return tuple(describe(name[0]).components)
    raise UserError(
        f"the components of {versioned_name(*name)} are not known",
        where="--weight",
        remedy="name them, such as --weight accuracy=0.5",
    )


def _new_id(kind: CommandKind) -> str:
    return f"{kind}/{uuid.uuid4().hex}"
