"""The producer's Python, before anything is started."""

import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tristream.config.engines import TransformersEngineSection, VllmEngineSection
from tristream.config.load import load_run_file
from tristream.local.producer_python import producer_python, require_producer_python
from tristream.runtime.errors import UserError


def write_python(path: Path, answer: str) -> VllmEngineSection:
    """An engine whose Python answers any question the same."""
    path.write_text(f"#!/bin/sh\nprintf '{answer}'\n", encoding="utf-8")
    path.chmod(0o755)
    return VllmEngineSection(type="vllm", python=path)


def test_other_engines_run_in_the_python_of_the_run() -> None:
    engine = TransformersEngineSection()
    require_producer_python(engine)
    assert producer_python(engine) == Path(sys.executable)


def test_a_python_with_vllm_and_this_tristream_passes(tmp_path: Path) -> None:
    engine = write_python(tmp_path / "python", f"{version('tristream')}\\nTrue\\n")
    require_producer_python(engine)
    assert producer_python(engine) == tmp_path / "python"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [("1.0\\nFalse\\n", "has no vLLM"), ("none\\nTrue\\n", "has no tristream"), ("0.0\\nTrue\\n", "has tristream 0.0")],
)
def test_what_a_python_lacks_is_said_with_the_remedy(tmp_path: Path, answer: str, reason: str) -> None:
    with pytest.raises(UserError, match=rf"python {reason}.*make vllm-env"):
        require_producer_python(write_python(tmp_path / "python", answer))


def test_what_is_no_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no Python that runs"):
        require_producer_python(VllmEngineSection(type="vllm", python=tmp_path / "nowhere"))


@pytest.mark.skipif(find_spec("vllm") is not None, reason="here is vLLM")
def test_without_a_python_of_its_own_the_engine_wants_vllm_here() -> None:
    with pytest.raises(UserError, match=r"has no vLLM.*make vllm-env"):
        require_producer_python(VllmEngineSection(type="vllm"))


def test_the_path_is_below_the_run_file_s_folder(tmp_path: Path) -> None:
    run_file = tmp_path / "run.toml"
    run_file.write_text(
        "run.id = 'a'\nrun.steps = 1\nmodel.path = 'm'\n"
        "rollout.engine = {type = 'vllm', python = '../.venv-vllm/bin/python'}\n"
        "[[sources]]\nname = 's'\ntrain = 't.parquet'\n",
        encoding="utf-8",
    )
    engine = load_run_file(run_file, []).rollout.engine
    assert producer_python(engine) == tmp_path / "../.venv-vllm/bin/python"
