"""The Dockerfiles, without an engine: linted, and in step with the repository and the commands."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tristream.cli.parts import PART_COMMANDS
from tristream.wire.events import Part

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKERFILES = {
    Part.DISPATCHER: "producers/dispatcher.Dockerfile",
    Part.PRODUCER: "producers/Dockerfile",
    Part.VERIFIER: "verifiers/Dockerfile",
    Part.ASSEMBLER: "learner/assembler.Dockerfile",
    Part.LEARNER: "learner/Dockerfile",
    Part.MONITOR: "monitoring/Dockerfile",
}

every_part = pytest.mark.parametrize("part", Part)


def read_instructions(part: Part) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined."""
    text = (ROOT / DOCKERFILES[part]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def arguments(part: Part, name: str) -> list[str]:
    return [argument for instruction, argument in read_instructions(part) if instruction == name]


def copied_paths(part: Part) -> set[str]:
    """Paths copied from the repository."""
    sources = [argument.split()[:-1] for argument in arguments(part, "COPY") if not argument.startswith("--from=")]
    return {path for paths in sources for path in paths}


def test_there_is_one_image_a_part_and_the_readme_builds_each() -> None:
    found = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*Dockerfile")}
    assert found == set(DOCKERFILES.values())
    readme = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    for part, path in DOCKERFILES.items():
        assert re.search(rf"docker build -f {path} +-t tristream-{part} \.", readme)


@every_part
def test_hadolint_finds_nothing(part: Part) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--no-color", str(ROOT / DOCKERFILES[part])]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@every_part
def test_every_copied_path_exists_and_reaches_the_engine(part: Part) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert copied_paths(part)
    assert all((ROOT / path).exists() for path in copied_paths(part))
    assert copied_paths(part) <= let_through


@every_part
def test_what_the_wheel_is_built_from_is_copied_before(part: Part) -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", "constraints.txt"}
    assert needed | {path.partition("/")[0] for path in packages} <= copied_paths(part)
    instructions = read_instructions(part)
    install = next(index for index, (_, text) in enumerate(instructions) if '".[' in text)
    copies = [i for i, (name, text) in enumerate(instructions) if name == "COPY" and not text.startswith("--from=")]
    assert max(copies) < install


@every_part
def test_an_image_starts_its_part_and_has_the_packages_of_it_and_no_others(part: Part) -> None:
    extras = [extra for text in arguments(part, "RUN") for extra in re.findall(r'"\.\[(.+?)\]"', text)]
    assert extras == [part]
    command, option, _ = json.loads(arguments(part, "CMD")[-1])
    assert (command, option) == (PART_COMMANDS[part].name, "--run")


@every_part
def test_torch_is_installed_from_its_own_index_where_it_is_needed(part: Part) -> None:
    needs = PROJECT["project"]["optional-dependencies"][part]
    installs = [text for text in arguments(part, "RUN") if '--index-url "$TORCH_INDEX_URL" torch' in text]
    assert bool(installs) == any(need.startswith("torch") for need in needs) == (part in (Part.PRODUCER, Part.LEARNER))
    assert all("--constraint constraints.txt" in text for text in arguments(part, "RUN") if "pip install" in text)


@every_part
def test_the_process_is_not_root_and_gets_the_signals_itself(part: Part) -> None:
    instructions = read_instructions(part)
    stage = instructions[max(index for index, (name, _) in enumerate(instructions) if name == "FROM") :]
    assert stage[0] == ("FROM", "python:3.11-slim")
    users = [text for name, text in stage if name == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert f"--uid {users[-1]} " in next(text for name, text in stage if name == "RUN")
    # A shell form would make a shell process 1, which passes no SIGTERM on.
    assert json.loads(arguments(part, "ENTRYPOINT")[-1]) == ["tristream"]
