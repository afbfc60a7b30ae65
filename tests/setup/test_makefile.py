"""`make setup` in an empty folder: which Pythons it takes, and when it makes `.venv` anew."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INHERITED = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PYTHON3")
"""What a `make test` around this test would hand down."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what `make setup` reads."""
    return copy_what_setup_reads(tmp_path)


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a `make setup` that made the environment and stamped it, but fetched nothing."""
    folder = copy_what_setup_reads(tmp_path_factory.mktemp("setup") / "clone")
    assert_made(make(folder, "setup", f"PYTHON3={sys.executable}", "PIP_INSTALL=true", "TORCH_CPU=true"))
    shutil.copytree(folder, folder.with_name("pristine"), symlinks=True)
    return folder


@pytest.fixture
def installed(installed_once: Path) -> Path:
    """As above, restored from what the test before did to it."""
    shutil.rmtree(installed_once, ignore_errors=True)
    shutil.copytree(installed_once.with_name("pristine"), installed_once, symlinks=True)
    return installed_once


def copy_what_setup_reads(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return folder


def make(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def assert_made(answer: "subprocess.CompletedProcess[str]") -> None:
    assert answer.returncode == 0, answer.stderr


def is_up_to_date(folder: Path, *arguments: str) -> bool:
    answer = make(folder, "--question", "setup", *arguments)
    assert answer.returncode in {0, 1}, answer.stderr
    return answer.returncode == 0


def find_python(condition: str) -> str:
    """An interpreter on this machine whose ``sys.version_info``, called v, meets the condition."""
    named = [shutil.which(f"python{version}") for version in ("2.7", *(f"3.{minor}" for minor in range(6, 16)))]
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin/python")
    for candidate in [*filter(None, named), *map(str, kept)]:
        question = [candidate, "-c", f"import sys; v = tuple(sys.version_info[:2]); print({condition})"]
        if subprocess.run(question, capture_output=True, text=True, check=False).stdout.strip() == "True":
            return candidate
    pytest.skip(f"no Python on this machine has {condition}")


def test_an_old_python_is_refused_in_one_line_that_names_the_remedy(folder: Path) -> None:
    refused = make(folder, "setup", f"PYTHON3={find_python('v < (3, 11)')}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "Python 3.11 or newer is needed" in refused.stderr
    assert "make setup PYTHON3=" in refused.stderr
    assert not (folder / ".venv").exists()


def test_a_python_that_is_not_there_is_refused_in_one_line(folder: Path) -> None:
    refused = make(folder, "test", "PYTHON3=python3.no-such")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "python3.no-such" in refused.stderr


def test_an_environment_is_made_once(installed: Path) -> None:
    assert is_up_to_date(installed)
    assert is_up_to_date(installed, f"PYTHON3={sys.executable}")


def test_settings_of_the_linters_do_not_make_the_environment_anew(installed: Path) -> None:
    with (installed / "pyproject.toml").open("a", encoding="utf-8") as file:
        file.write("# a line below the requirements\n")
    assert is_up_to_date(installed)


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_makes_the_environment_anew(installed: Path, name: str) -> None:
    text = (installed / name).read_text(encoding="utf-8")
    (installed / name).write_text(f"# a line above\n{text}", encoding="utf-8")
    assert not is_up_to_date(installed)


def test_an_environment_whose_python_has_vanished_is_made_anew(installed: Path) -> None:
    for python in (installed / ".venv/bin").glob("python*"):
        python.unlink()
        python.symlink_to("/nowhere/python3")
    assert not is_up_to_date(installed)
    assert_made(make(installed, "setup", f"PYTHON3={sys.executable}", "PIP_INSTALL=true", "TORCH_CPU=true"))
    assert is_up_to_date(installed)


def test_an_environment_of_another_python_than_the_one_asked_for_is_made_anew(installed: Path) -> None:
    other = find_python(f"v >= (3, 11) and v != {tuple(sys.version_info[:2])}")
    assert not is_up_to_date(installed, f"PYTHON3={other}")


def test_half_an_environment_is_made_anew(folder: Path) -> None:
    failed = make(folder, "setup", f"PYTHON3={sys.executable}", "PIP_INSTALL=false", "TORCH_CPU=true")
    assert failed.returncode == 2
    assert (folder / ".venv/bin/python").exists()
    assert not is_up_to_date(folder)


def test_an_environment_that_was_moved_is_made_anew(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = shutil.move(installed, tmp_path_factory.mktemp("elsewhere") / "clone")
    assert not is_up_to_date(Path(moved))


def test_the_ordinary_torch_is_taken_where_the_cpu_build_is_out_of_reach(folder: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("a machine with a GPU takes the ordinary torch at once")
    made = make(folder, "setup", f"PYTHON3={sys.executable}", "PIP_INSTALL=true", "TORCH_CPU=false", "--silent")
    assert_made(made)
    assert "taking the ordinary one" in made.stdout
