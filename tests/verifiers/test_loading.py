"""Verifiers by built-in name, by module, by file, and by the entry points of installed packages."""

from pathlib import Path

import pytest

from tristream.runtime.errors import UserError
from tristream.verifiers.contract import Rollout
from tristream.verifiers.loading import load_definition

PLUG_IN = """
from __future__ import annotations

from dataclasses import dataclass

from tristream.verifiers import verifier


@dataclass
class Words:
    number: int


def plain(rollout):
    return 1.0


@verifier(version="{version}", components=["accuracy"])
def brief(rollout, *, max_chars: int = 400) -> float:
    return float(Words(len(rollout.text)).number <= max_chars)
"""


def write_plug_in(folder: Path, name: str = "brief.py", version: str = "1") -> Path:
    path = folder / name
    path.write_text(PLUG_IN.replace("{version}", version))
    return path


def test_a_file_is_loaded_and_judges(tmp_path: Path) -> None:
    definition = load_definition(f"{write_plug_in(tmp_path)}:brief", "brief@1")
    assert definition.versioned_name == "brief@1"
    assert definition(Rollout(text="short"), max_chars=5) == 1.0
    assert definition.check_parameters({"max_chars": "7"}) == {"max_chars": 7}


def test_two_files_of_one_name_are_two_verifiers(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    first = load_definition(f"{write_plug_in(tmp_path)}:brief")
    second = load_definition(f"{write_plug_in(tmp_path / 'other', version='2')}:brief")
    assert [first.versioned_name, second.versioned_name] == ["brief@1", "brief@2"]


def test_a_file_that_was_read_before_is_not_read_again(tmp_path: Path) -> None:
    path = write_plug_in(tmp_path)
    source = path.read_bytes()
    path.unlink()
    assert load_definition(f"{path}:brief", source=source).name == "brief"


def test_a_module_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plug_in(tmp_path, "module_of_a_plug_in.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_definition("module_of_a_plug_in:brief").name == "brief"


def test_an_installed_package_is_found_by_its_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plug_in(tmp_path, "installed_plug_in.py")
    information = tmp_path / "installed_plug_in-1.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: installed-plug-in\nVersion: 1\n")
    (information / "entry_points.txt").write_text("[tristream.verifiers]\nbrief = installed_plug_in:brief\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_definition("", "brief@1").versioned_name == "brief@1"
    assert load_definition("brief").versioned_name == "brief@1"


def test_a_built_in_verifier_is_found_by_its_name() -> None:
    assert load_definition("", "exact").name == "exact"
    assert load_definition("exact").name == "exact"


@pytest.mark.parametrize(
    ("entry_point", "name", "words"),
    [
        ("", "nonesuch@1", "unknown verifier 'nonesuch'.*use one of .*exact"),
        ("{file}:plain", "", "'plain' is a function, no verifier.*@verifier"),
        ("{file}:breif", "", "there is no 'breif'; use one of brief"),
        ("{file}:brief", "brief@2", "calls itself brief@1 and is asked for as brief@2"),
        ("{file}:brief", "terse", "calls itself brief@1"),
        ("{file}:", "", "write file.py:name or module:name"),
        ("{folder}/nowhere.py:brief", "", "cannot be read: No such file"),
        ("{folder}/syntax.py:brief", "", "syntax.py:2.*it is no Python"),
        ("{folder}/raises.py:brief", "", "ZeroDivisionError.*line 2 of raises.py"),
        ("{folder}/exits.py:brief", "", "SystemExit"),
        ("no_such_module:brief", "", "No module named 'no_such_module'"),
    ],
)
def test_what_cannot_be_loaded_is_said_with_a_remedy(tmp_path: Path, entry_point: str, name: str, words: str) -> None:
    path = write_plug_in(tmp_path)
    (tmp_path / "syntax.py").write_text("\ndef brief(:\n")
    (tmp_path / "raises.py").write_text("\n1 / 0\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(UserError, match=words):
        load_definition(entry_point.format(file=path, folder=tmp_path), name)
