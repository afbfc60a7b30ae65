"""The command teaches, answers at once, and turns bad input into one line and exit code 2."""

import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tristream.cli.parts import PART_COMMANDS
from tristream.config.algorithms import AlgorithmSection
from tristream.config.presets import PRESETS
from tristream.wire.events import Part


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tristream.cli", *arguments], check=False, capture_output=True, text=True
    )


def test_every_part_has_a_command_of_its_own_whose_module_exists() -> None:
    assert set(PART_COMMANDS) == set(Part)
    for attribute in ("name", "module", "settings"):
        assert len({getattr(command, attribute) for command in PART_COMMANDS.values()}) == len(Part)
    assert all(find_spec(command.module) is not None for command in PART_COMMANDS.values())


def test_help_names_every_part() -> None:
    text = " ".join(run("--help").stdout.replace("│", " ").split())
    for command in PART_COMMANDS.values():
        assert command.name in text
        assert command.summary.split(":")[0].split(",")[0] in text


def test_the_version_is_that_of_the_package() -> None:
    answer = run("--version")
    assert (answer.returncode, answer.stdout) == (0, f"tristream {version('tristream')}\n")


def test_the_command_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'deepspeed', 'faust', 'chdb', 'pyarrow', 'kafka'}"
    code = f"import sys, tristream.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stdout.strip() == "[]"
    )


def test_algorithms_are_listed_with_formula_source_and_all_parameters() -> None:
    text = run("algorithms").stdout
    for name, preset in PRESETS.items():
        assert f"{name}" in text
        assert preset.source in text
        assert all(part in text for part in preset.formula.split("; "))
    for parameter in AlgorithmSection.model_fields:
        assert f"│ {parameter} " in text
    assert "cispo: 4" in text, "what a preset makes of a parameter"


@pytest.mark.parametrize("command", [command.name for command in PART_COMMANDS.values()])
def test_a_missing_run_file_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    result = run(command, "--run", str(tmp_path / "absent.toml"))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "absent.toml: no such file" in result.stderr
    assert "examples/digits/run.toml" in result.stderr


def test_a_part_without_its_packages_names_the_extra_that_has_them(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text('[run]\nid = "x"\nsteps = 1\n[model]\npath = "."\n[[sources]]\nname = "s"\ntrain = "t"\n')
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['tristream', 'learn', '--run', sys.argv[1]]\n"
        "from tristream.cli.main import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code, str(run_file)], check=False, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == (
        "tristream: tristream learn: package 'torch' is not installed; pip install 'tristream[learner]'\n"
    )


ENDING_PART = """
import sys
from tristream.cli import main as command
from tristream.runtime.bus.protocol import BusError
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.store import StoreUnavailableError
from tristream.wire.events import Part

error = eval(sys.argv.pop())

class Module:
    @staticmethod
    def main(settings):
        raise error

sys.modules["tristream.dispatcher.main"] = Module
command.main()
"""


@pytest.mark.parametrize(
    ("error", "exit_code", "line"),
    [
        ("UserError('a', where='b', remedy='c')", 2, "tristream: b: a; c\n"),
        ("TryAgainError('a\\nb')", 75, "tristream: a b; try again\n"),
        ("StoreUnavailableError('the store fails')", 75, "tristream: the store fails; try again\n"),
        ("BusError('no answer')", 75, "tristream: no answer; try again\n"),
        ("StoppedError()", 0, ""),
    ],
)
def test_a_part_says_by_its_exit_code_whether_starting_it_again_helps(
    tmp_path: Path, error: str, exit_code: int, line: str
) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text('[run]\nid = "x"\nsteps = 1\n[model]\npath = "."\n[[sources]]\nname = "s"\ntrain = "t"\n')
    command = [sys.executable, "-c", ENDING_PART, "dispatch", "--run", str(run_file), error]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (exit_code, line)


@pytest.mark.parametrize("command", ["up", "assemble"])
def test_the_help_of_a_command_names_its_exit_codes(command: str) -> None:
    words = " ".join(run(command, "--help").stdout.replace("│", " ").split())
    assert "Exit codes: 0 " in words
    assert "2 bad input" in words
    assert "75 try again" in words


def test_config_explains_every_table_and_the_tables_in_them() -> None:
    lines = run("config").stdout.splitlines()
    for header in ("[run]", "[[sources]]", "[learner.algorithm]", "[store]"):
        assert lines.count(header) == 1
    kinds = [lines[place + 1] for place, line in enumerate(lines) if line == "[rollout.engine]"]
    assert kinds == ["  type = 'transformers'", "  type = 'vllm'", "  type = 'openai'"]
    algorithm = lines[lines.index("[learner.algorithm]") :]
    assert algorithm[1:3] == ["  type = 'vtriune'", "      Which algorithm: a preset of all that follows."]
    assert "  clip_low = 0.2" in algorithm
    learner = lines[lines.index("[learner]") : lines.index("[learner.algorithm]")]
    assert "      Peak learning rate of AdamW." in learner
    assert not [line for line in learner if line.startswith("  algorithm")]
    assert not [line for line in lines if line.endswith("None") and line.startswith("      ")], "a key has no meaning"
