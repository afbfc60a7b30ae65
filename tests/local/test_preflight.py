"""Before anything is started: what cannot work is refused, and a folder belongs to one run at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tristream.config.load import load_run_file
from tristream.config.run_file import RunFile
from tristream.local.preflight import check_inputs, prepare_folder
from tristream.runtime.errors import UserError
from tristream.runtime.run_lock import lock_run

MakeSettings = Callable[..., RunFile]


def test_a_run_of_sources_that_can_be_scored_passes(make_settings: MakeSettings) -> None:
    check_inputs(make_settings())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verification": {"verifiers": ["ocr"]}}, "does not have 'math', which the source sums asks for; add it"),
        ({"monitoring": {"clickhouse_url": "http://127.0.0.1:1/x"}}, "ClickHouse at http://127.0.0.1:1"),
    ],
)
def test_what_cannot_work_is_refused(make_settings: MakeSettings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refusal:
        check_inputs(make_settings(**changes))
    assert message in str(refusal.value)


def test_verifiers_that_somebody_else_may_serve_are_not_asked_for_here(make_settings: MakeSettings) -> None:
    check_inputs(make_settings(verification={"verifiers": ["ocr"]}, bus={"bootstrap_servers": "somewhere:9092"}))


def test_a_metric_that_no_verifier_reports_is_refused_with_those_that_are(make_settings: MakeSettings) -> None:
    settings = make_settings()
    source = settings.sources[0].model_copy(update={"metric": "beauty"})
    with pytest.raises(UserError, match="its verifiers report no 'beauty'; use one of accuracy, answer_found, format"):
        check_inputs(settings.model_copy(update={"sources": (source,)}))


def test_rows_that_no_answer_can_score_are_refused(
    make_settings: MakeSettings,
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[[str, list[dict[str, Any]]], Path],
) -> None:
    settings = make_settings()
    rows = [make_row(number, verifier="detection", ground_truth="a cat") for number in range(2)]
    source = settings.sources[0].model_copy(update={"train": write_rows("boxes", rows)})
    with pytest.raises(UserError, match=r"no answer to the first rows of boxes\.parquet can be scored"):
        check_inputs(settings.model_copy(update={"sources": (source,)}))


def test_a_prepared_folder_holds_the_resolved_run_and_nothing_of_an_earlier_start(make_settings: MakeSettings) -> None:
    settings = make_settings()
    folder = settings.run.folder
    prepare_folder(settings).close()
    stale = folder.status / "learner.json"
    stale.write_text("{}")
    prepare_folder(settings).close()
    assert load_run_file(folder.run_file, environment={}) == settings
    assert folder.logs.is_dir()
    assert not stale.exists()


def test_a_folder_in_use_is_refused_until_it_is_free(make_settings: MakeSettings) -> None:
    settings = make_settings()
    lock = prepare_folder(settings)
    with pytest.raises(UserError, match="this run is going on in another process"):
        lock_run(settings.run.folder)
    lock.close()
    lock_run(settings.run.folder).close()


def test_a_finished_run_is_refused(make_settings: MakeSettings) -> None:
    settings = make_settings()
    prepare_folder(settings).close()
    settings.run.folder.summary.write_text("{}")
    with pytest.raises(UserError, match="this run is finished"):
        prepare_folder(settings)


def test_a_run_is_resumed_with_what_its_prompts_depend_on(make_settings: MakeSettings) -> None:
    prepare_folder(make_settings()).close()
    with pytest.raises(UserError, match=r"rollout\.group_size was 3 and is 4 now"):
        prepare_folder(make_settings(rollout={"group_size": 4}))


def test_a_folder_that_cannot_be_written_is_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); change run\.output"):
        prepare_folder(make_settings(run={"output": tmp_path / "file"}))
