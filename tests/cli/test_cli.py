"""The command teaches, answers at once, and turns bad input into one line and exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from tristream.cli.main import PARTS


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "tristream.cli", *arguments], check=False, capture_output=True, text=True
    )


def test_help_names_every_part() -> None:
    text = run("--help").stdout
    assert all(command in text for command in PARTS)


def test_the_command_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'deepspeed', 'faust', 'chdb', 'pyarrow', 'kafka'}"
    code = f"import sys, tristream.cli.main; print(sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True).stdout.strip() == "[]"
    )


@pytest.mark.parametrize("command", PARTS)
def test_a_missing_run_file_is_one_line_and_exit_code_2(command: str, tmp_path: Path) -> None:
    result = run(command, "--run", str(tmp_path / "absent.toml"))
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "absent.toml: no such file" in result.stderr
    assert "examples/digits/run.toml" in result.stderr


def test_config_explains_every_section() -> None:
    text = run("config").stdout
    assert "[[sources]]" in text
    assert "learning_rate" in text
    assert "Peak learning rate of AdamW." in text
