"""The extra of a part names what the part imports, so that a pod that installs it has all that it runs."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tristream.cli.parts import PART_COMMANDS
from tristream.wire.events import Part

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE_ROOTS = ("proto", "core", "producers", "verifiers", "learner", "monitoring", "deploy")
DISTRIBUTIONS = packages_distributions()
BROUGHT_BY = {
    "chdb-core": "clickhouse-connect",
    "latex2sympy2-extended": "math-verify",
    "aiokafka": "faust-streaming",
    "pydantic-core": "pydantic",
}
"""Distributions that we import and that another one exists to bring."""

IN_ITS_OWN_ENVIRONMENT = {"vllm"}
"""Packages that a part imports only where they are chosen, with an extra of its own."""


def find_module(name: str) -> Path | None:
    """File of a module of ours, or of a package that is more than a folder."""
    paths = (ROOT / root / Path(*name.split(".")) for root in SOURCE_ROOTS)
    files = (file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py"))
    return next((file for file in files if file.is_file()), None)


def imported_names(path: Path) -> Iterator[str]:
    """Modules that a file imports anywhere, functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            if node.module.startswith("tristream"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def foreign_packages(module: str) -> set[str]:
    """Top-level packages, not of Python and not ours, that a module and all of ours behind it import."""
    foreign: set[str] = set()
    waiting, seen = [module], set()
    while waiting:
        name = waiting.pop()
        path = find_module(name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for imported in imported_names(path):
            top = imported.partition(".")[0]
            if top == "tristream":
                waiting.append(imported)
            elif top not in sys.stdlib_module_names:
                foreign.add(top)
    return foreign


def distribution_of(package: str) -> str:
    name = re.sub(r"[-_.]+", "-", DISTRIBUTIONS[package][0]).lower()
    return BROUGHT_BY.get(name, name)


def required(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements}


@pytest.mark.parametrize("part", Part)
def test_an_extra_names_what_its_part_imports_and_nothing_else(part: Part) -> None:
    imported = {
        distribution_of(package) for package in foreign_packages(PART_COMMANDS[part].module) - IN_ITS_OWN_ENVIRONMENT
    }
    base = required(PROJECT["dependencies"])
    extra = required(PROJECT["optional-dependencies"][part])
    assert imported - base == extra
