"""From the name of an entry point to a verifier."""

import hashlib
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tristream.runtime.errors import UserError
from tristream.verifiers.definition import VerifierDefinition

ENTRY_POINT_GROUP = "tristream.verifiers"
"""Installed packages name their verifiers in this group of entry points."""


def load_definition(entry_point: str, versioned_name: str = "", *, source: bytes | None = None) -> VerifierDefinition:
    """The verifier of an entry point; imports its code.

    Args:
        entry_point: ``module:name``, ``FILE.py:name``, or the name of a verifier: of a built-in one, or of one that an
            installed package names in the entry point group ``tristream.verifiers``. Empty means the name asked for.
        versioned_name: ``NAME@VERSION`` that the verifier must call itself; without ``@VERSION``, any version will do.
        source: the content of the file, if it has been read before.

    Raises:
        UserError: there is no such verifier, its code cannot be imported, or it calls itself something else.
    """
    name, _, version = versioned_name.partition("@")
    module_name, colon, attribute = entry_point.rpartition(":")
    if not colon:
        definition = _load_by_name(entry_point or name)
    elif not module_name or not attribute:
        raise UserError("no entry point of a verifier", where=entry_point, remedy="write file.py:name or module:name")
    else:
        module = _import_file(Path(module_name), source) if is_file(entry_point) else _import_module(module_name)
        definition = _definition_in(module, attribute, entry_point)
    if name and (definition.name != name or (version and definition.version != version)):
        raise UserError(
            f"it calls itself {definition.versioned_name} and is asked for as {versioned_name}",
            where=entry_point or name,
            remedy=f"ask for {definition.versioned_name}, or declare the other name and version in @verifier",
        )
    return definition


def is_file(entry_point: str) -> bool:
    """Whether an entry point is ``FILE.py:name``."""
    return entry_point.rpartition(":")[0].endswith(".py")


def read_source(entry_point: str) -> bytes | None:
    """The content of the file of an entry point; None if it is in no file.

    Raises:
        UserError: the file cannot be read.
    """
    if not is_file(entry_point):
        return None
    path = Path(entry_point.rpartition(":")[0])
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"it cannot be read: {error.strerror}", where=str(path), remedy="give the path of the verifier's file"
        ) from None


def code_sha256(entry_point: str) -> str:
    """SHA-256 of the file of an entry point, in hex; empty if it is in no file.

    Raises:
        UserError: the file cannot be read.
    """
    source = read_source(entry_point)
    return "" if source is None else hashlib.sha256(source).hexdigest()


def _load_by_name(name: str) -> VerifierDefinition:
    from tristream.verifiers.registry import BUILT_INS  # loads sympy, which plug-ins need not have

    if name in BUILT_INS:
        return BUILT_INS[name]
    installed = {found.name: found for found in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    if name not in installed:
        raise UserError(
            f"unknown verifier '{name}'",
            where="verifiers",
            remedy=f"use one of {', '.join(sorted([*BUILT_INS, *installed]))}, or give its file.py:name",
        )
    return load_definition(installed[name].value)


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _import_file(path: Path, source: bytes | None) -> ModuleType:
    content = source if source is not None else read_source(f"{path}:")
    module = ModuleType(f"verifier_file_{path.stem}")
    module.__file__ = str(path)
    previous = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and annotations look their module up
    try:
        exec(compile(content or b"", str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        _put_back(module.__name__, previous)
        raise _broken(str(path), error) from error
    return module


def _put_back(name: str, previous: ModuleType | None) -> None:
    if previous is None:
        del sys.modules[name]
    else:
        sys.modules[name] = previous


def _broken(where: str, error: BaseException) -> UserError:
    if isinstance(error, SyntaxError):
        return UserError(
            f"it is no Python: {error.msg}", where=f"{error.filename}:{error.lineno}", remedy="mend this line"
        )
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    line = f", line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return UserError(
        f"it cannot be imported: {type(error).__name__}: {error}{line}",
        where=where,
        remedy="mend it, or install what it imports where verifiers run",
    )


def _definition_in(module: ModuleType, attribute: str, entry_point: str) -> VerifierDefinition:
    found = getattr(module, attribute, None)
    if isinstance(found, VerifierDefinition):
        return found
    others = _definitions_of(module)
    if attribute in vars(module):
        raise UserError(
            f"'{attribute}' is a {type(found).__name__}, no verifier",
            where=entry_point,
            remedy='put @verifier(version="1", components=["accuracy"]) above the function',
        )
    raise UserError(
        f"there is no '{attribute}'",
        where=entry_point,
        remedy=f"use one of {', '.join(sorted(others))}"
        if others
        else "name a function that is decorated by @verifier",
    )


def _definitions_of(module: ModuleType) -> Mapping[str, VerifierDefinition]:
    return {name: value for name, value in vars(module).items() if isinstance(value, VerifierDefinition)}
