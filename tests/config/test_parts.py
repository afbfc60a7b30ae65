"""Each part is given its own sections of the run file, and what sections say about themselves is said once."""

from pathlib import Path

import pytest

from tristream.config import parts
from tristream.config.evaluation import EvaluationSection
from tristream.config.run_file import RunFile
from tristream.config.store import FilesStoreSection

OWN_SECTIONS = {
    parts.DispatcherSettings: {"sources", "rollout", "verification", "evaluation", "store"},
    parts.ProducerSettings: {"model", "sources", "rollout", "store"},
    parts.VerifierSettings: {"model", "verification", "store"},
    parts.AssemblerSettings: {"rollout", "assembly"},
    parts.LearnerSettings: {"model", "rollout", "evaluation", "assembly", "learner", "store"},
    parts.MonitorSettings: {"model", "sources", "rollout", "monitoring", "store"},
}


def make_run_file() -> RunFile:
    return RunFile.model_validate(
        {
            "run": {"id": "demo", "steps": 3, "output": "/out"},
            "model": {"path": "model"},
            "sources": [{"name": "words", "train": "train.parquet"}],
            "bus": {"prefix": "mine"},
        }
    )


@pytest.mark.parametrize("kind", OWN_SECTIONS, ids=lambda kind: kind.__name__)
def test_a_part_is_given_its_own_sections_only(kind: type[parts.PartSettings]) -> None:
    run_file = make_run_file()
    settings = kind.of(run_file)
    assert set(kind.model_fields) == {"run", "bus", "metrics"} | OWN_SECTIONS[kind]
    assert all(getattr(settings, name) == getattr(run_file, name) for name in kind.model_fields)
    with pytest.raises(ValueError, match="frozen"):
        settings.bus = run_file.bus


def test_the_store_is_in_the_run_folder_unless_the_run_file_names_another_place() -> None:
    folder = make_run_file().run.folder
    assert FilesStoreSection().address(folder) == "/out/demo/store"
    assert FilesStoreSection(uri="s3://bucket/run").address(folder) == "s3://bucket/run"
    assert folder.path == Path("/out/demo")


@pytest.mark.parametrize(("every", "due"), [(4, [0, 4, 8, 10]), (20, [0, 10]), (1, list(range(11)))])
def test_the_first_the_last_and_every_nth_version_are_evaluated(every: int, due: list[int]) -> None:
    evaluation = EvaluationSection(every=every)
    assert [version for version in range(11) if evaluation.is_due(version, total_steps=10)] == due
