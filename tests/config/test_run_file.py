"""The run file refuses what it does not know, in one line that names the place and the remedy."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from tristream.config.engines import TransformersEngineSection, VllmEngineSection
from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.config.sources import SourceSection
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


def test_files_of_plug_ins_are_relative_to_the_file_and_modules_are_not(tmp_path: Path) -> None:
    plug_ins = (
        '[verification.plug_ins]\n"brief@1" = "mine/brief.py:brief"\n"far@2" = "/far.py:far"\n"tone@1" = "tones:tone"\n'
    )
    path = write(tmp_path, MINIMAL + plug_ins)
    assert load_run_file(path, environment={}).verification.plug_ins == {
        "brief@1": f"{tmp_path}/mine/brief.py:brief",
        "far@2": "/far.py:far",
        "tone@1": "tones:tone",
    }


@pytest.mark.parametrize(
    ("environment", "expected"),
    [("tools/calculator.py:rollout", "{}/tools/calculator.py:rollout"), ("/far.py:far", "/far.py:far"), ("m:f", "m:f")],
)
def test_files_of_environments_are_relative_to_the_file(tmp_path: Path, environment: str, expected: str) -> None:
    path = write(tmp_path)
    settings = load_run_file(path, [f"sources.0.environment={environment}"], environment={})
    assert settings.sources[0].environment == expected.format(tmp_path)
    assert load_run_file(path, environment={}).sources[0].environment == ""


@pytest.mark.parametrize(("name", "entry_point"), [("brief", "brief.py:brief"), ("Brief@1", "b.py:b"), ("b@1", "b.py")])
def test_a_plug_in_has_a_version_and_an_entry_point(tmp_path: Path, name: str, entry_point: str) -> None:
    path = write(tmp_path, f'{MINIMAL}[verification.plug_ins]\n"{name}" = "{entry_point}"\n')
    with pytest.raises(UserError, match=r"NAME@VERSION|neither module:name nor file.py:name"):
        load_run_file(path, environment={})


def test_set_wins_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    environment = {"TRISTREAM__RUN__STEPS": "5", "TRISTREAM__RUN__SEED": "7"}
    settings = load_run_file(path, ["run.steps=9", "sources.0.weight=2.5"], environment)
    assert (settings.run.steps, settings.run.seed, settings.sources[0].weight) == (9, 7, 2.5)


def test_an_overlay_may_begin_a_section_that_the_file_does_not_have(tmp_path: Path) -> None:
    overrides = ["learner.algorithm.clip_high=0.3", "sources.0.params.threshold=0.5", 'bus.prefix="a b"']
    settings = load_run_file(write(tmp_path), overrides, {"TRISTREAM__ROLLOUT__ENGINE__NUM_THREADS": "3"})
    assert settings.learner.algorithm.clip_high == 0.3
    assert settings.rollout.engine == TransformersEngineSection(num_threads=3)
    assert (settings.sources[0].params, settings.bus.prefix) == ({"threshold": 0.5}, "a b")


@pytest.mark.parametrize("is_variable", [True, False])
def test_an_overlay_that_chooses_another_type_begins_the_section_anew(tmp_path: Path, is_variable: bool) -> None:
    path = write(tmp_path, f'{MINIMAL}[rollout.engine]\ntype = "transformers"\nnum_threads = 3\n')
    chosen = {"compile": "false", "type": "vllm"}
    settings = load_run_file(
        path,
        [] if is_variable else [f"rollout.engine.{name}={value}" for name, value in chosen.items()],
        {f"TRISTREAM__ROLLOUT__ENGINE__{name.upper()}": value for name, value in chosen.items()} if is_variable else {},
    )
    assert settings.rollout.engine == VllmEngineSection(compile=False)
    same = load_run_file(path, ["rollout.engine.type=transformers"], {})
    assert same.rollout.engine == TransformersEngineSection(num_threads=3)


def test_a_parameter_of_a_source_may_be_called_type(tmp_path: Path) -> None:
    path = write(tmp_path, f'{MINIMAL}params = {{ type = "a", most = 3 }}\n')
    settings = load_run_file(path, ["sources.0.params.type=b"], environment={})
    assert settings.sources[0].params == {"type": "b", "most": 3}


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
        ("run.steps.more=3", "'steps' is a value, not a section"),
        ('sources=[{name="a", train="t"}, {name="a", train="u"}]', "source names repeat: a"),
        ("learner.algorithm.clip=0.2", "unknown key 'clip'"),
        ('learner.algorithm={type="ppo", critic=true}', r"algorithm.type\]: input should be 'vtriune', 'grpo'"),
        ("learner.algorithm.importance=mask", r"importance weights need proximal = 'recomputed'"),
        ("rollout.engine.type=vlm", r"\[rollout.engine.type\]: input should be 'transformers', 'vllm' or 'openai'"),
        ("rollout.engine.urls=[]", r"\[rollout.engine.urls\]: unknown key 'urls'"),
        ("store.type=nfs", r"\[store.type\]: input should be 'files'"),
    ],
)
def test_a_bad_value_is_one_line_with_place_and_remedy(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_run_file(write(tmp_path), [override], {})
    assert "\n" not in str(caught.value)
    assert caught.value.where
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("overrides", "environment", "where"),
    [
        (["run.step=3"], {}, "--set run.step [run.step]"),
        ([], {"TRISTREAM__RUN__STEPS": "many"}, "environment variable TRISTREAM__RUN__STEPS [run.steps]"),
        ([], {"TRISTREAM__RUM__STEPS": "3"}, "environment variable TRISTREAM__RUM__STEPS [rum]"),
        (["run.steps=-1"], {"TRISTREAM__RUN__STEPS": "3"}, "--set run.steps [run.steps]"),
        (["sources.0.weight=-1"], {}, "--set sources.0.weight [sources.0.weight]"),
        (["sources.1.weight=1"], {}, "--set sources.1.weight"),
    ],
)
def test_an_error_names_the_overlay_that_it_comes_from(
    tmp_path: Path, overrides: list[str], environment: dict[str, str], where: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_run_file(write(tmp_path), overrides, environment)
    assert caught.value.where == where


def test_an_error_in_the_file_names_the_file_whatever_is_laid_over_it(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("steps = 3", "steps = 3\nstep = 4"))
    with pytest.raises(UserError) as caught:
        load_run_file(path, ["run.steps=5"], {"TRISTREAM__RUN__SEED": "2"})
    assert caught.value.where == f"{path} [run.step]"


def test_a_missing_file_and_broken_toml_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_run_file(tmp_path / "absent.toml", environment={})
    with pytest.raises(UserError, match="not valid"):
        load_run_file(write(tmp_path, "[run"), environment={})


def test_verifiers_are_named_canonically(tmp_path: Path) -> None:
    settings = load_run_file(write(tmp_path), ['verification.verifiers=["ocr", "mathverify", "math"]'], {})
    assert settings.verification.verifiers == ("math", "ocr")


def undescribed_keys(section: type[BaseModel], path: str) -> list[str]:
    found = []
    for key, field in section.model_fields.items():
        for inner in get_args(field.annotation) or (field.annotation,):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found += undescribed_keys(inner, f"{path}.{key}")
        if path and not field.description:
            found.append(f"{path}.{key}")
    return found


def test_every_key_says_what_it_means() -> None:
    assert undescribed_keys(RunFile, "") == []
    assert undescribed_keys(SourceSection, "sources") == []


def test_a_shadow_is_one_of_the_plug_ins(tmp_path: Path) -> None:
    path = write(tmp_path, f'{MINIMAL}[verification]\nshadows = ["brief@2"]\nplug_ins = {{ "brief@1" = "a.py:a" }}\n')
    with pytest.raises(UserError, match="the shadow 'brief@2' is none of the plug_ins"):
        load_run_file(path, environment={})
