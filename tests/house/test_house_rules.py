"""The rules of the house that no linter knows: sizes, circles, light parts, and READMEs that name their files."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ROOTS = ("proto", "core", "producers", "verifiers", "learner", "monitoring", "deploy")
LIGHT_PACKAGES = (
    "wire",
    "runtime",
    "config",
    "dispatcher",
    "verifiers",
    "assembler",
    "monitoring",
    "cli",
    "local",
    "audit",
)
HEAVY_PACKAGES = ("torch", "transformers", "deepspeed", "safetensors", "accelerate")
MOST_FILE_LINES, MOST_FUNCTION_LINES = 400, 60
P90_FILE_LINES, P90_FUNCTION_LINES = 250, 30


def hand_written(*folders: str) -> list[Path]:
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in paths if "_pb2" not in path.name)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts[1:]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in hand_written(*SOURCE_ROOTS)}


def p90(values: list[int]) -> int:
    return sorted(values)[int(len(values) * 0.9)]


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_files_keep_to_their_budget() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in hand_written(*SOURCE_ROOTS, "bench")}
    assert not {str(path): size for path, size in sizes.items() if size > MOST_FILE_LINES}
    assert p90(list(sizes.values())) <= P90_FILE_LINES


def test_functions_keep_to_their_budget() -> None:
    lengths = [
        (path.name, name, length)
        for path in hand_written(*SOURCE_ROOTS, "bench")
        for name, length in function_lengths(path)
    ]
    assert not [found for found in lengths if found[2] > MOST_FUNCTION_LINES]
    assert p90([length for _, _, length in lengths]) <= P90_FUNCTION_LINES


def imported_modules(path: Path) -> Iterator[str]:
    """Modules of ours that a module imports at its top; imports for types alone make no circle."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {
        module: {name for name in imported_modules(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


BLOCKED_IMPORT = """
import importlib, importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {heavy}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
for module in {modules}:
    importlib.import_module(module)
"""


def test_light_packages_are_imported_where_there_is_no_torch() -> None:
    modules = [name for name in MODULES if name.split(".")[1] in LIGHT_PACKAGES and not name.endswith("__main__")]
    program = BLOCKED_IMPORT.format(heavy=set(HEAVY_PACKAGES), modules=modules)
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("folder", SOURCE_ROOTS)
def test_the_readme_of_a_folder_names_its_files(folder: str) -> None:
    readme = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    files = [path for path in hand_written(folder) if path.name not in ("__init__.py", "__main__.py", "main.py")]
    unnamed = [str(path.relative_to(ROOT)) for path in files if not re.search(rf"[`/]{path.stem}(\.py)?`", readme)]
    assert not unnamed, f"{folder}/README.md does not name them"
