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


def test_an_environment_is_loaded_and_not_run(make_settings: MakeSettings, tmp_path: Path) -> None:
    def settings_with(code: str) -> RunFile:
        (tmp_path / "tool.py").write_text(code, encoding="utf-8")
        settings = make_settings()
        source = settings.sources[1].model_copy(update={"environment": f"{tmp_path}/tool.py:rollout"})
        return settings.model_copy(update={"sources": (settings.sources[0], source)})

    check_inputs(settings_with("async def rollout(client, sample):\n    open('/nowhere/to/be/found')"))
    with pytest.raises(UserError, match=r"tool.py:rollout: it is not async; write async def"):
        check_inputs(settings_with("def rollout(client, sample): ..."))


def test_verifiers_that_somebody_else_may_serve_are_not_asked_for_here(make_settings: MakeSettings) -> None:
    check_inputs(make_settings(verification={"verifiers": ["ocr"]}, bus={"bootstrap_servers": "somewhere:9092"}))


def test_bad_rows_are_refused_by_number_unless_their_source_leaves_them_out(
    make_settings: MakeSettings,
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[[str, list[dict[str, Any]]], Path],
) -> None:
    settings = make_settings()
    bomb = b"GIF89a" + bytes([0x60, 0xEA, 0x60, 0xEA, 0, 0, 0]) + b"," + bytes(9) + b"\x02\x00;"
    rows = [make_row(0), make_row(1, images=[{"bytes": bomb, "path": None}]), make_row(2), make_row(3, verifier="orc")]
    source = settings.sources[0].model_copy(update={"train": write_rows("poison", rows)})
    with pytest.raises(UserError) as refusal:
        check_inputs(settings.model_copy(update={"sources": (source,)}))
    assert str(refusal.value).endswith(
        "poison.parquet: 2 rows cannot be used: row 1: image 0: an image of 60000 x 60000 pixels is too large, "
        "50000000 are allowed; row 3: asks for the verifier 'orc', which does not exist; correct them, or leave such "
        'rows out with on_bad_row = "skip" in [[sources]]'
    )
    skipping = source.model_copy(update={"on_bad_row": "skip"})
    check_inputs(settings.model_copy(update={"sources": (skipping,)}))


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


def test_a_weight_on_what_the_verifier_does_not_score_is_refused(
    make_settings: MakeSettings,
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[[str, list[dict[str, Any]]], Path],
) -> None:
    settings = make_settings()
    rows = [make_row(number, verifier="regex", ground_truth=r"\d+") for number in range(2)]
    for row in rows:
        row["reward_model"]["format_ratio"] = 0.5
    source = settings.sources[0].model_copy(update={"train": write_rows("patterns", rows)})
    with pytest.raises(UserError, match="weights 'format', which regex does not score; weight accuracy in"):
        check_inputs(settings.model_copy(update={"sources": (source,)}))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return float(len(rollout.text) < most)", ""),
        ("return 1 / 0", "no answer to the first rows .* can be scored: brief fails: ZeroDivisionError"),
        ("raise Unscorable('of no use')", "no answer to the first rows .* can be scored: of no use"),
        ("while True:\n        pass", "brief gives no score for trial answers to a row of brief.parquet in 1 s"),
    ],
)
def test_the_plug_ins_of_a_run_are_tried_too(
    make_settings: MakeSettings,
    make_row: Callable[..., dict[str, Any]],
    write_rows: Callable[[str, list[dict[str, Any]]], Path],
    tmp_path: Path,
    body: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tristream.local.trial.TRIAL_SECONDS", 1.0)
    (tmp_path / "brief.py").write_text(
        "from tristream.verifiers import Unscorable, verifier\n\n"
        '@verifier(version="1", components=["accuracy"])\n'
        f"def brief(rollout, *, most: int = 9):\n    {body}\n"
    )
    settings = make_settings(verification={"plug_ins": {"brief@1": f"{tmp_path / 'brief.py'}:brief"}})
    rows = [make_row(number, verifier="brief") for number in range(2)]
    for row in rows:
        row["reward_model"]["format_ratio"] = 0.0
    source = settings.sources[0].model_copy(
        update={"train": write_rows("brief", rows), "eval": None, "eval_params": {}}
    )
    settings = settings.model_copy(update={"sources": (source,)})
    if not message:
        check_inputs(settings)
    else:
        with pytest.raises(UserError, match=message):
            check_inputs(settings)


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


def test_only_its_owner_can_read_the_resolved_run(make_settings: MakeSettings) -> None:
    settings = make_settings()
    for _ in range(2):
        prepare_folder(settings).close()
        assert settings.run.folder.run_file.stat().st_mode & 0o777 == 0o600


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


def test_a_finished_run_goes_on_with_more_steps_and_not_with_fewer(make_settings: MakeSettings) -> None:
    settings = make_settings()
    prepare_folder(settings).close()
    settings.run.folder.summary.write_text("{}")
    prepare_folder(make_settings(run={"steps": settings.run.steps + 2})).close()
    assert not settings.run.folder.summary.exists()
    with pytest.raises(UserError, match=r"run\.steps was 6 and is 4 now; resume with 6 steps or more"):
        prepare_folder(settings)


def test_a_run_is_resumed_with_what_its_prompts_depend_on(make_settings: MakeSettings) -> None:
    prepare_folder(make_settings()).close()
    with pytest.raises(UserError, match=r"rollout\.group_size was 3 and is 4 now"):
        prepare_folder(make_settings(rollout={"group_size": 4}))


def test_a_folder_that_cannot_be_written_is_refused(make_settings: MakeSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written \(Not a directory\); change run\.output"):
        prepare_folder(make_settings(run={"output": tmp_path / "file"}))
