"""The Dockerfiles, without an engine: linted, and in step with the repository and the command."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tristream.cli.main import PARTS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ROLES = ("producers", "verifiers", "learner", "monitoring")


def read_instructions(role: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined."""
    text = (ROOT / role / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def arguments(role: str, name: str) -> list[str]:
    return [argument for instruction, argument in read_instructions(role) if instruction == name]


def copied_paths(role: str) -> set[str]:
    """Paths copied from the repository."""
    sources = [argument.split()[:-1] for argument in arguments(role, "COPY") if not argument.startswith("--from=")]
    return {path for paths in sources for path in paths}


@pytest.mark.parametrize("role", ROLES)
def test_hadolint_finds_nothing(role: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--no-color", str(ROOT / role / "Dockerfile")]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("role", ROLES)
def test_every_copied_path_exists_and_reaches_the_engine(role: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert copied_paths(role)
    assert all((ROOT / path).exists() for path in copied_paths(role))
    assert copied_paths(role) <= let_through


@pytest.mark.parametrize("role", ROLES)
def test_what_the_wheel_is_built_from_is_copied_before(role: str) -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"}
    assert needed | {path.partition("/")[0] for path in packages} <= copied_paths(role)
    instructions = read_instructions(role)
    install = next(index for index, (_, text) in enumerate(instructions) if '".[' in text)
    copies = [i for i, (name, text) in enumerate(instructions) if name == "COPY" and not text.startswith("--from=")]
    assert max(copies) < install


@pytest.mark.parametrize("role", ROLES)
def test_an_image_has_the_packages_of_its_command_and_no_others(role: str) -> None:
    command, option, _ = json.loads(arguments(role, "CMD")[-1])
    extras = [extra for text in arguments(role, "RUN") for extra in re.findall(r'"\.\[(.+?)\]"', text)]
    assert option == "--run"
    assert extras == [PARTS[command][1]]
    assert extras[0] in PROJECT["project"]["optional-dependencies"]


@pytest.mark.parametrize("role", ROLES)
def test_torch_is_installed_from_its_own_index_where_it_is_needed(role: str) -> None:
    extra = PARTS[json.loads(arguments(role, "CMD")[-1])[0]][1]
    needs_torch = any(need.startswith("torch") for need in PROJECT["project"]["optional-dependencies"][extra])
    installs = [text for text in arguments(role, "RUN") if '--index-url "$TORCH_INDEX_URL" torch' in text]
    assert bool(installs) == needs_torch
    assert all("--constraint constraints.txt" in text for text in arguments(role, "RUN") if "pip install" in text)


@pytest.mark.parametrize("role", ROLES)
def test_the_process_is_not_root_and_gets_the_signals_itself(role: str) -> None:
    instructions = read_instructions(role)
    stage = instructions[max(index for index, (name, _) in enumerate(instructions) if name == "FROM") :]
    assert stage[0] == ("FROM", "python:3.11-slim")
    users = [text for name, text in stage if name == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert f"--uid {users[-1]} " in next(text for name, text in stage if name == "RUN")
    # A shell form would make a shell process 1, which passes no SIGTERM on.
    assert json.loads(arguments(role, "ENTRYPOINT")[-1]) == ["tristream"]
