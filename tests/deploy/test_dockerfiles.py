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
VLLM = "producer-vllm"
DOCKERFILES: dict[str, str] = {
    Part.DISPATCHER: "producers/dispatcher.Dockerfile",
    Part.PRODUCER: "producers/Dockerfile",
    Part.VERIFIER: "verifiers/Dockerfile",
    Part.ASSEMBLER: "learner/assembler.Dockerfile",
    Part.LEARNER: "learner/Dockerfile",
    Part.MONITOR: "monitoring/Dockerfile",
    VLLM: "producers/vllm.Dockerfile",
}
"""By the image, which is called like its part, and like the extra with its packages."""

every_image = pytest.mark.parametrize("image", DOCKERFILES)


def lock_of(image: str) -> str:
    return "constraints-vllm.txt" if image == VLLM else "constraints.txt"


def read_instructions(image: str) -> list[tuple[str, str]]:
    """Instructions and their arguments, with continued lines joined."""
    text = (ROOT / DOCKERFILES[image]).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in joined.splitlines()]


def arguments(image: str, name: str) -> list[str]:
    return [argument for instruction, argument in read_instructions(image) if instruction == name]


def copied_paths(image: str) -> set[str]:
    """Paths copied from the repository."""
    sources = [argument.split()[:-1] for argument in arguments(image, "COPY") if not argument.startswith("--from=")]
    return {path for paths in sources for path in paths}


def test_there_is_one_image_a_part_and_one_with_vllm_and_the_readme_builds_each() -> None:
    found = {str(path.relative_to(ROOT)) for path in ROOT.glob("*/*Dockerfile")}
    assert found == set(DOCKERFILES.values())
    readme = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    for image, path in DOCKERFILES.items():
        assert re.search(rf"docker build -f {path} +-t tristream-{image} \.", readme)


@every_image
def test_hadolint_finds_nothing(image: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [str(hadolint), "--no-color", str(ROOT / DOCKERFILES[image])]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")


@every_image
def test_every_copied_path_exists_and_reaches_the_engine(image: str) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert copied_paths(image)
    assert all((ROOT / path).exists() for path in copied_paths(image))
    assert copied_paths(image) <= let_through


@every_image
def test_what_the_wheel_is_built_from_is_copied_before(image: str) -> None:
    project = PROJECT["project"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    needed = {project["readme"], *project["license-files"], "pyproject.toml", lock_of(image)}
    assert needed | {path.partition("/")[0] for path in packages} <= copied_paths(image)
    instructions = read_instructions(image)
    install = next(index for index, (_, text) in enumerate(instructions) if '".[' in text)
    copies = [i for i, (name, text) in enumerate(instructions) if name == "COPY" and not text.startswith("--from=")]
    assert max(copies) < install


@every_image
def test_an_image_starts_its_part_and_has_the_packages_of_it_and_no_others(image: str) -> None:
    extras = [extra for text in arguments(image, "RUN") for extra in re.findall(r'"\.\[(.+?)\]"', text)]
    assert extras == [image]
    command, option, _ = json.loads(arguments(image, "CMD")[-1])
    assert (command, option) == (PART_COMMANDS[Part(image.removesuffix("-vllm"))].name, "--run")


@every_image
def test_torch_is_installed_from_its_own_index_where_it_is_needed(image: str) -> None:
    needs = PROJECT["project"]["optional-dependencies"][image]
    installs = [text for text in arguments(image, "RUN") if '--index-url "$TORCH_INDEX_URL" torch' in text]
    assert bool(installs) == any(need.startswith("torch") for need in needs) == (image in (Part.PRODUCER, Part.LEARNER))
    assert all(f"--constraint {lock_of(image)}" in text for text in arguments(image, "RUN") if "pip install" in text)


@every_image
def test_the_process_is_not_root_and_gets_the_signals_itself(image: str) -> None:
    instructions = read_instructions(image)
    stage = instructions[max(index for index, (name, _) in enumerate(instructions) if name == "FROM") :]
    assert stage[0] == ("FROM", "python:3.11-slim")
    users = [text for name, text in stage if name == "USER"]
    assert users
    assert int(users[-1]) > 0
    assert f"--uid {users[-1]} " in next(text for name, text in stage if name == "RUN")
    # A shell form would make a shell process 1, which passes no SIGTERM on.
    assert json.loads(arguments(image, "ENTRYPOINT")[-1]) == ["tristream"]
