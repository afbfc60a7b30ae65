"""`tristream resume` asks for a paused source of a run, by its folder or by its run file."""

from pathlib import Path

import pytest

from tristream.cli.source_resuming import find_run
from tristream.runtime.errors import UserError

RUN_FILE = '[run]\nid = "x"\nsteps = 1\n[model]\npath = "."\n[[sources]]\nname = "sums"\ntrain = "t"\n'


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(RUN_FILE)
    return path


def test_a_run_is_found_by_its_run_file_with_changed_keys(run_file: Path) -> None:
    settings, source = find_run(["sums"], run_file, ["bus.bootstrap_servers=kafka:9092"])
    assert (settings.run.id, settings.bus.bootstrap_servers, source) == ("x", "kafka:9092", "sums")


def test_a_run_is_found_by_its_folder(run_file: Path, tmp_path: Path) -> None:
    settings, _ = find_run(["sums"], run_file, ())
    (tmp_path / "run.json").write_text(settings.model_dump_json())
    assert find_run([str(tmp_path), "sums"], None, ())[1] == "sums"


def test_what_is_not_there_is_refused_in_words(run_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no source 'boxes'; use one of sums"):
        find_run(["boxes"], run_file, ())
    with pytest.raises(UserError, match=r"run\.json: no such file"):
        find_run([str(tmp_path / "absent"), "sums"], None, ())
    for words in (["sums"], ["a", "b", "c"]):
        with pytest.raises(UserError, match="give RUN_FOLDER SOURCE"):
            find_run(words, None, ())
