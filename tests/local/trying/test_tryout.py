"""A tryout with a real model, engine and pool: the prompts of the run, nothing written, no process left."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tristream.config.parts import DispatcherSettings
from tristream.config.run_file import RunFile
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.local.trying.advice import Topic
from tristream.local.trying.choosing import choose_prompts
from tristream.local.trying.judged_groups import GroupKind
from tristream.local.trying.tryout import Tryout, try_run
from tristream.runtime.errors import UserError
from tristream.runtime.store import BlobStore
from tristream.wire.events import Progress, Status

MakeSettings = Callable[..., RunFile]
WriteRows = Callable[[str, list[dict[str, Any]]], Path]


def children_of_this_process() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()


def with_rows(settings: RunFile, path: Path) -> RunFile:
    source = settings.sources[0].model_copy(update={"train": path, "eval": None})
    return settings.model_copy(update={"sources": (source,)})


def test_the_prompts_are_the_first_of_each_source_as_the_dispatcher_makes_them(make_settings: MakeSettings) -> None:
    settings = make_settings()
    blobs = BlobStore("memory://tryout-test")
    chosen = choose_prompts(settings, blobs, num_groups=7)
    assert {source: [prompt.group.number for prompt in prompts] for source, prompts in chosen.items()} == {
        "sums": [0, 2, 3, 5, 6, 8, 9],
        "counts": [1, 4, 7, 10, 13, 16, 19],
    }
    maker = PromptMaker(DispatcherSettings.of(settings), blobs)
    for prompt in (prompt for prompts in chosen.values() for prompt in prompts):
        number = prompt.group.number
        step = min(4, number // 2 + 1)
        same = maker.training_prompt(number, Progress(step=step, total_steps=4))
        assert (prompt.digest, prompt.sampling, prompt.progress) == (same.digest, same.sampling, same.progress)


def test_only_the_wanted_sources_are_chosen_and_unknown_ones_refused(make_settings: MakeSettings) -> None:
    blobs = BlobStore("memory://tryout-test")
    assert list(choose_prompts(make_settings(), blobs, num_groups=1, sources=["counts"])) == ["counts"]
    with pytest.raises(UserError, match="there is no source 'count'; use sums, counts"):
        choose_prompts(make_settings(), blobs, num_groups=1, sources=["counts", "count"])


def test_a_model_that_never_boxes_is_found_out(make_settings: MakeSettings, tmp_path: Path) -> None:
    before, children = set(tmp_path.rglob("*")), children_of_this_process()
    settings = make_settings()
    before |= set(tmp_path.rglob("*"))
    tryout = Tryout(settings=settings, num_groups=3)
    seen: list[int] = []
    try_run(tryout, lambda now: seen.append(sum(map(len, now.groups.values()))))
    assert not tryout.can_learn
    assert not tryout.is_interrupted
    assert tryout.pace() is None
    assert seen[-1] == 6
    for figures in tryout.figures:
        assert figures.groups == {GroupKind.ALL_WRONG: 3}
        assert (figures.num_answers, figures.num_rewarded, figures.num_boxed) == (9, 9, 0)
        assert (figures.tokens_p90, figures.unscored) == (6, {})
        assert set(figures.components) == {"accuracy", "format"}
        assert figures.generating_seconds > 0
    assert [(each.source, each.topic) for each in tryout.advice() if each.blocks] == [
        ("sums", Topic.ALL_WRONG), ("counts", Topic.ALL_WRONG)
    ]  # fmt: skip
    assert set(tmp_path.rglob("*")) == before, "nothing is written"
    assert children_of_this_process() == children


def test_a_source_with_mixed_groups_can_learn_and_is_tried_alike_twice(
    make_settings: MakeSettings, make_row: Callable[..., dict[str, Any]], write_rows: WriteRows
) -> None:
    row = {"verifier": "regex", "verifier_parm": {"pattern": "[a-p]"}, "format_ratio": 0.0}
    settings = with_rows(make_settings(), write_rows("letters", [make_row(n, **row) for n in range(4)]))
    tryouts = [Tryout(settings=settings, num_groups=4) for _ in range(2)]
    for tryout in tryouts:
        try_run(tryout, lambda _now: None)
    assert tryouts[0].can_learn
    pace = tryouts[0].pace()
    assert pace is not None
    assert 0 < pace.kept_share <= 1
    texts = [[a.rollout.text for group in t.groups["sums"] for a in group.answers] for t in tryouts]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_prompts_that_the_model_cannot_read_and_truths_that_are_none_say_why(
    make_settings: MakeSettings, make_row: Callable[..., dict[str, Any]], write_rows: WriteRows
) -> None:
    rows = [
        make_row(0, verifier="counting"),
        make_row(1, verifier="counting", ground_truth="many"),
        make_row(2, verifier="counting", prompt=[{"role": "user", "content": f"<image>{'long ' * 200}"}]),
    ]
    tryout = Tryout(settings=with_rows(make_settings(), write_rows("odd", rows)), num_groups=3)
    try_run(tryout, lambda _now: None)
    (figures,) = tryout.figures
    assert figures.groups == {GroupKind.ALL_WRONG: 1, GroupKind.UNSCORED: 2}
    assert figures.num_failed == 3
    assert "longer than the model" in figures.failure or "tokens" in figures.failure
    assert figures.unscored[Status.UNSCORABLE].num_verdicts == 3
    assert "many" in figures.unscored[Status.UNSCORABLE].reason


def test_what_the_data_lack_is_refused_before_a_model_is_loaded(make_settings: MakeSettings) -> None:
    settings = make_settings()
    source = settings.sources[0].model_copy(update={"metric": "speed"})
    with pytest.raises(UserError, match="its verifiers report no 'speed'"):
        try_run(Tryout(settings=settings.model_copy(update={"sources": (source,)}), num_groups=1), lambda _now: None)


def test_an_interrupt_leaves_what_there_is(make_settings: MakeSettings) -> None:
    interrupted: list[int] = []
    children = children_of_this_process()

    def interrupt(now: Tryout) -> None:
        if len(now.groups.get("sums", ())) == 2 and not interrupted:
            interrupted.append(2)
            signal.raise_signal(signal.SIGINT)

    tryout = Tryout(settings=make_settings(), num_groups=400)
    try_run(tryout, interrupt)
    assert tryout.is_interrupted
    assert interrupted == [2]
    num_groups = [figures.num_groups for figures in tryout.figures]
    assert 2 <= num_groups[0] < 400
    assert num_groups[1] == 0
    assert children_of_this_process() == children
