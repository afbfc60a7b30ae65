"""From the name of an entry point to a verifier."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from tristream.runtime.code_loading import import_code, import_module, read_code
from tristream.runtime.errors import UserError
from tristream.verifiers.definition import VerifierDefinition

ENTRY_POINT_GROUP = "tristream.verifiers"
"""Installed packages name their verifiers in this group of entry points."""
WHAT, WHERE_IT_RUNS = "verifier", "verifiers run"


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
        definition = _definition_in(_import(entry_point, source), attribute, entry_point)
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
    return read_code(Path(entry_point.rpartition(":")[0]), WHAT)


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


def _import(entry_point: str, source: bytes | None) -> ModuleType:
    place = entry_point.rpartition(":")[0]
    if not is_file(entry_point):
        return import_module(place, WHERE_IT_RUNS)
    content = read_code(Path(place), WHAT) if source is None else source
    return import_code(Path(place), content, WHAT, WHERE_IT_RUNS)


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
