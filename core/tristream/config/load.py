"""Reading a run file: TOML, overlays, checks.

Precedence, weakest first: defaults, the file, environment variables
(``TRISTREAM__LEARNER__LEARNING_RATE=1e-4``), ``--set learner.learning_rate=1e-4``. Unknown keys
are refused. Relative paths are relative to the file. A resolved run is JSON and loads alike.
"""

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tristream.config.run_file import RunFile
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
    for name, value in sorted((os.environ if environment is None else environment).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
            _assign(tree, keys, value, where=f"environment variable {name}")
    for override in overrides:
        name, separator, value = override.partition("=")
        if not separator:
            raise UserError(f"'{override}' has no '='", where="--set", remedy="write key=value, such as run.steps=20")
        _assign(tree, name.strip().split("."), value.strip(), where=f"--set {name}")
    return _validate(tree, path)


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
    node[last] = _parse_value(text)


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


def _validate(tree: dict[str, Any], path: Path) -> RunFile:
    try:
        run_file = RunFile.model_validate(tree)
    except ValidationError as error:
        # A misspelt key also makes the right one missing: the misspelt one says more.
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            _explain(first["type"], first["msg"], key), where=f"{path} [{key}]", remedy=_remedy(first["type"])
        ) from None
    return _with_absolute_paths(run_file, path.parent.absolute())


def _explain(kind: str, message: str, key: str) -> str:
    if kind == "extra_forbidden":
        return f"unknown key '{key.rpartition('.')[2]}'"
    if kind == "missing":
        return f"key '{key.rpartition('.')[2]}' is missing"
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
            update={"train": folder / source.train, "eval": None if source.eval is None else folder / source.eval}
        )
        for source in run_file.sources
    )
    return run_file.model_copy(
        update={
            "sources": sources,
            "model": run_file.model.model_copy(update={"path": folder / run_file.model.path}),
            "run": run_file.run.model_copy(update={"output": run_file.run.output.absolute()}),
        }
    )
