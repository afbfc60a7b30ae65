"""Reading a run file: TOML, overlays, checks.

Precedence, weakest first: defaults, the file, environment variables
(``TRISTREAM__LEARNER__LEARNING_RATE=1e-4``), ``--set learner.learning_rate=1e-4``. Unknown keys
are refused, and an error names the overlay that it comes from. An overlay that chooses another ``type`` of a
section, such as ``rollout.engine.type=vllm``, begins that section anew. Relative paths are relative to the file.
A resolved run is JSON and loads alike.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tristream.config.choices import TAG_PREFIX, UNKNOWN_TYPE
from tristream.config.engines import VllmEngineSection
from tristream.config.learner import LearnerSection
from tristream.config.rollout import RolloutSection
from tristream.config.run_file import RunFile
from tristream.config.verification import absolute_entry_point
from tristream.runtime.errors import UserError

ENVIRONMENT_PREFIX = "TRISTREAM__"


def load_run_file(
    path: Path,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> RunFile:
    """Read, overlay and check a run file.

    Args:
        path: a TOML file, or the JSON of a resolved run.
        overrides: ``key.path=value`` strings; values are TOML, bare words are strings.
        environment: variables to overlay; ``os.environ`` by default.

    Raises:
        UserError: the file is missing or malformed, a key is unknown or a value has a wrong type.
    """
    tree = _read_tree(path)
    origins: dict[tuple[str, ...], str] = {}
    # A type is chosen before anything is said of it, in whatever order both are given.
    variables = (os.environ if environment is None else environment).items()
    for name, value in sorted(variables, key=lambda variable: (not variable[0].endswith("__TYPE"), variable[0])):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            origins[tuple(keys)] = f"environment variable {name}"
            _assign(tree, keys, value, where=f"environment variable {name}")
    for override in sorted(overrides, key=lambda override: not override.partition("=")[0].strip().endswith(".type")):
        name, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"'{override}' has no '='", where="--set", remedy="write key=value, such as run.steps=20")
        keys = name.strip().split(".")
        origins[tuple(keys)] = f"--set {name}"
        _assign(tree, keys, value.strip(), where=f"--set {name}")
    return _validate(tree, path, origins)


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise UserError(
            "no such file", where=str(path), remedy="give the path of a run file, such as examples/digits/run.toml"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), remedy="give a readable text file") from None
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"not valid: {error}", where=str(path), remedy="correct the syntax") from None
    if not isinstance(tree, dict):
        raise UserError("not a table", where=str(path), remedy="start from examples/digits/run.toml")
    return tree


def _assign(tree: dict[str, Any], keys: Sequence[str], text: str, *, where: str) -> None:
    """Set one value; an integer key indexes a list, such as ``sources.0.weight``."""
    node: Any = tree
    for key in keys[:-1]:
        node = node[_index(node, key, where)] if isinstance(node, list) else node.setdefault(key, {})
        if not isinstance(node, dict | list):
            raise UserError(f"'{key}' is a value, not a section", where=where, remedy="check the key")
    last: Any = _index(node, keys[-1], where) if isinstance(node, list) else keys[-1]
    value = _parse_value(text)
    # What was said of one type means nothing to another; parameters of a source may have any names.
    if last == "type" and keys[0] != "sources" and node.get("type", value) != value:
        node.clear()
    node[last] = value


def _index(values: list[Any], key: str, where: str) -> int:
    if key.isdigit() and int(key) < len(values):
        return int(key)
    raise UserError(
        f"'{key}' is not an index below {len(values)}", where=where, remedy="use a number, such as sources.0"
    )


def _parse_value(text: str) -> Any:  # noqa: ANN401 - a TOML value can be anything
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(tree: dict[str, Any], path: Path, origins: Mapping[tuple[str, ...], str]) -> RunFile:
    try:
        run_file = RunFile.model_validate(tree)
    except ValidationError as error:
        first = min(error.errors(), key=_rank)
        keys = tuple(str(part) for part in first["loc"] if not str(part).startswith(TAG_PREFIX))
        keys += ("type",) * (first["type"] == UNKNOWN_TYPE)
        # A section that does not exist was perhaps begun by a key below it.
        set_keys = [k for k in origins if keys[: len(k)] == k or (_rank(first) == 1 and k[: len(keys)] == keys)]
        place = origins[set_keys[-1]] if set_keys else str(path)
        raise UserError(
            _explain(first["type"], first["msg"], keys),
            where=f"{place} [{'.'.join(keys)}]" if keys else place,
            remedy=_remedy(first["type"]),
        ) from None
    return _with_absolute_paths(run_file, path.parent.absolute())


def _rank(error: ErrorDetails) -> int:
    """What explains other errors comes first: a type that does not exist (0), a misspelt key (1), the rest (2)."""
    if error["loc"][-1:] == ("type",) or error["type"] == UNKNOWN_TYPE:
        return 0
    return 1 if error["type"] == "extra_forbidden" else 2


def _explain(kind: str, message: str, keys: Sequence[str]) -> str:
    if kind == "extra_forbidden":
        return f"unknown key '{keys[-1]}'"
    if kind == "missing":
        return f"key '{keys[-1]}' is missing"
    message = message.removeprefix("Value error, ")
    return message[:1].lower() + message[1:]


def _remedy(kind: str) -> str:
    if kind == "extra_forbidden":
        return "remove it, or see `tristream config` for the known keys"
    if kind == "missing":
        return "add it; see `tristream config` for what it means"
    return "correct the value; see `tristream config` for what it means"


def _with_absolute_paths(run_file: RunFile, folder: Path) -> RunFile:
    """Resolve the input paths against the run file's folder; the output against where we are."""
    sources = tuple(
        source.model_copy(
            update={
                "train": folder / source.train,
                "eval": None if source.eval is None else folder / source.eval,
                "environment": absolute_entry_point(source.environment, folder),
            }
        )
        for source in run_file.sources
    )
    return run_file.model_copy(
        update={
            "sources": sources,
            "model": run_file.model.model_copy(update={"path": folder / run_file.model.path}),
            "rollout": _with_absolute_python(run_file.rollout, folder),
            "learner": _with_absolute_reference(run_file.learner, folder),
            "run": run_file.run.model_copy(update={"output": run_file.run.output.absolute()}),
            "verification": run_file.verification.below(folder),
        }
    )


def _with_absolute_reference(learner: LearnerSection, folder: Path) -> LearnerSection:
    algorithm = learner.algorithm
    if algorithm.reference is None:
        return learner
    absolute = algorithm.model_copy(update={"reference": folder / algorithm.reference})
    return learner.model_copy(update={"algorithm": absolute})


def _with_absolute_python(rollout: RolloutSection, folder: Path) -> RolloutSection:
    engine = rollout.engine
    if not isinstance(engine, VllmEngineSection) or engine.python is None:
        return rollout
    return rollout.model_copy(update={"engine": engine.model_copy(update={"python": folder / engine.python})})
