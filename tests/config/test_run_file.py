"""The run file refuses what it does not know, in one line that names the place and the remedy."""

from pathlib import Path

import pytest

from tristream.config.run_file import RunFile, load_run_file
from tristream.runtime.errors import UserError

MINIMAL = """
[run]
id = "test"
steps = 3
[model]
path = "model"
[[sources]]
name = "words"
train = "train.parquet"
"""


def write(folder: Path, text: str = MINIMAL) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_relative_inputs_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = load_run_file(write(tmp_path), environment={})
    assert settings.model.path == tmp_path / "model"
    assert settings.sources[0].train == tmp_path / "train.parquet"


def test_set_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    environment = {"TRISTREAM__RUN__STEPS": "5", "TRISTREAM__RUN__SEED": "7"}
    settings = load_run_file(path, ["run.steps=9", "sources.0.weight=2.5"], environment)
    assert (settings.run.steps, settings.run.seed, settings.sources[0].weight) == (9, 7, 2.5)


def test_a_resolved_run_loads_alike(tmp_path: Path) -> None:
    settings = load_run_file(write(tmp_path), environment={})
    resolved = tmp_path / "run.json"
    resolved.write_text(settings.model_dump_json())
    assert load_run_file(resolved, environment={}) == settings


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.step=3", "unknown key 'step'"),
        ("run.steps=many", "valid integer"),
        ("learner.learning_rate=-1", "greater than 0"),
        ("run.id=Bad Name", "pattern"),
        ("sources.7.weight=1", "not an index"),
        ("run.steps", "no '='"),
        ("learner.warmup_steps=3", "smaller than run.steps"),
    ],
)
def test_a_bad_value_is_one_line_with_place_and_remedy(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_run_file(write(tmp_path), [override], {})
    assert "\n" not in str(caught.value)
    assert caught.value.where
    assert caught.value.remedy


def test_a_missing_file_and_broken_toml_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_run_file(tmp_path / "absent.toml", environment={})
    with pytest.raises(UserError, match="not valid"):
        load_run_file(write(tmp_path, "[run"), environment={})


def test_every_key_says_what_it_means() -> None:
    for name, section in RunFile.model_fields.items():
        for key, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, f"{name}.{key} has no description"
