"""Runs that went through much and kept every promise pass the audit; what it cannot know it says."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from played_runs import NUM_HELD_OUT, Play, honest_run
from recorded_runs import OWNED, Entry, RecordedRun
from tristream.audit.audit import Audit, audit_folder
from tristream.runtime.run_folder import RunFolder
from tristream.wire.events import DropReason, EvaluatedRound, Fate, Interval, LogPosition, Split
from tristream.wire.topics import OUTCOMES, POLICY, PROMPTS, REWARDS, ROLLOUTS, STEPS

HOUR_NS = 3600 * 10**9


def findings(audit: Audit) -> list[str]:
    return [finding for check in audit.checks for finding in check.findings]


def empty_run(folder: Path) -> RecordedRun:
    return RecordedRun(folder=RunFolder(folder / "honest"))


def play_to_the_end(play: Play) -> None:
    while play.step < 5:
        play.train_step()
        if play.step % 2 == 0 or play.step == 5:
            play.checkpoint()
            play.evaluate(play.step)


def test_clocks_that_differ_by_hours_do_not_matter(tmp_path: Path) -> None:
    generator = random.Random(3)
    run = honest_run(tmp_path, clock_ns=lambda _tick: 10**18 + generator.randrange(-9, 9) * HOUR_NS)
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)


def test_what_is_delivered_again_changes_nothing(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    generator = random.Random(4)
    (log,) = run.logs
    for entry in [
        entry for entry in log if not entry.is_fence and entry.topic is not POLICY and entry.topic is not STEPS
    ]:
        later = generator.randrange(log.index(entry) + 1, len(log) + 1)
        epoch = None if entry.epoch is None else max(2, entry.epoch)
        again = replace(entry.event, created_ns=entry.event.created_ns + HOUR_NS)
        log.insert(later if entry.epoch in (None, 2) else len(log), Entry(topic=entry.topic, event=again, epoch=epoch))
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)


def test_what_a_zombie_writes_after_its_successor_has_begun_counts_for_nothing(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    for entry in run.find(OUTCOMES, lambda outcome: outcome.fate is Fate.TRAINED)[:4]:
        incomplete = replace(entry.event, fate=Fate.DROPPED, step=0, drop_reason=DropReason.INCOMPLETE, rollouts=())
        run.add(OUTCOMES, incomplete, epoch=1)
    for entry in run.find(PROMPTS)[:3]:
        run.add(PROMPTS, replace(entry.event, digest="of a zombie"), epoch=1)
    run.add(STEPS, replace(run.find(STEPS)[0].event, outcomes=()), epoch=1)
    run.add(POLICY, replace(run.find(POLICY)[0].event, total_steps=99), epoch=1)
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)
    assert audit.remarks == (
        "void records, not of the epoch that held their topic: outcomes 4, policy 1, prompts 3, steps 1",
    )


def test_a_learner_that_went_back_trains_its_steps_anew_and_is_evaluated_anew(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(2)
    play.train_step()
    play.drop(DropReason.ZERO_VARIANCE, 2)
    play.train_step()
    play.evaluate(4)
    play.go_back()
    play.take_over()
    play.announce()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(4, attempt=1)
    play_to_the_end(play)
    assert len(run.find(STEPS, lambda report: report.step == 4)) == 2
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)


def test_an_abandoned_evaluation_may_lack_prompts_but_not_answers(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    for _ in range(4):
        play.train_step()
        if play.step == 2:
            play.checkpoint()
            play.evaluate(2)
    play.evaluate(4)
    for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES):
        run.remove(topic, lambda event: event.group.eval_step == 4 and event.group.number > 1)
    play.go_back()
    play.take_over()
    play.announce()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(4, attempt=1)
    play_to_the_end(play)
    assert audit_folder(run.write()).holds
    run.remove(OUTCOMES, lambda outcome: (outcome.group.eval_step, outcome.group.eval_attempt) == (4, 0))
    run.folder = RunFolder(tmp_path / "again")
    assert "evaluation of step 4: prompts 0-1: there is no answer" in findings(audit_folder(run.write()))


def lose_the_end(generator: random.Random, log: list[Entry], most: int) -> list[Entry]:
    """What an archive has of a log whose broker was lost: each topic up to somewhere near its end."""
    lost = {topic.name: generator.randint(1, most) for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES, STEPS)}
    kept: list[Entry] = []
    for entry in reversed(log):
        if lost.get(entry.topic.name, 0) > 0:
            lost[entry.topic.name] -= 1
        else:
            kept.append(entry)
    return kept[::-1]


@pytest.mark.parametrize("seed", range(12))
def test_a_broker_that_was_lost_while_the_archive_lagged_is_no_violation(seed: int, tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    generator = random.Random(seed)
    play.begin()
    play.train_step()
    play.drop(DropReason.ZERO_VARIANCE, 0)
    play.train_step()
    play.checkpoint()
    play.evaluate(2)
    play.train_step()
    play.drop(DropReason.INCOMPLETE, 2)
    run.logs[0] = lose_the_end(generator, run.logs[0], most=12)
    play.begin_anew()
    play.evaluate(2)
    play_to_the_end(play)
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)
    assert audit.account.num_trained + audit.account.num_lost >= 15


def test_a_group_that_was_dropped_on_a_lost_log_may_be_trained_on_the_next(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(2)
    dropped = play.number
    play.drop(DropReason.ZERO_VARIANCE, 1)
    evaluated = (EvaluatedRound(eval_step=2, eval_attempt=0, numbers=(Interval(start=0, end=NUM_HELD_OUT),)),)
    play.durable = replace(play.durable, position=LogPosition(evaluated=evaluated))
    play.begin_anew()
    play_to_the_end(play)
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)
    assert audit.account.num_dropped_by_reason == {}
    assert run.find(OUTCOMES, lambda outcome: outcome.group.number == dropped and outcome.fate is Fate.TRAINED)


def test_what_was_trained_on_a_lost_log_must_be_known_to_the_ledger_of_the_next(tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(2)
    durable = play.durable
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.durable = durable  # as if the newest checkpoint had been deleted
    play.begin_anew()
    play_to_the_end(play)
    expected = "trained on an earlier log, and the ledger with which the next log begins does not know it"
    assert any(expected in finding for finding in findings(audit_folder(run.write())))


@pytest.mark.parametrize("seed", range(8))
def test_an_open_run_whose_broker_is_gone_is_judged_by_what_is_there(seed: int, tmp_path: Path) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    play.train_step()
    play.train_step()
    play.checkpoint()
    play.evaluate(2)
    play.train_step()
    run.logs[0] = lose_the_end(random.Random(seed), run.logs[0], most=12)
    run.is_finished = False
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)


@pytest.mark.parametrize("is_finished", [False, True])
def test_outcomes_that_a_checkpoint_holds_may_be_missing_while_the_run_is_open(
    is_finished: bool, tmp_path: Path
) -> None:
    run = empty_run(tmp_path)
    play = Play(run)
    play.begin()
    play_to_the_end(play)
    run.remove(OUTCOMES, lambda outcome: outcome.fate is Fate.TRAINED and outcome.step == 5)
    run.is_finished = is_finished
    audit = audit_folder(run.write())
    assert audit.holds is not is_finished


def test_every_topic_of_a_part_is_fenced_in_the_recorded_run(tmp_path: Path) -> None:
    fences: list[Any] = [entry for entry in honest_run(tmp_path).logs[0] if entry.is_fence]
    assert len(fences) == 2 * len(OWNED)


def test_answers_of_nobody_are_no_violation(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    rollout, reward = (run.find(topic)[0].event for topic in (ROLLOUTS, REWARDS))
    groups = (
        replace(rollout.group, number=2**40),
        replace(rollout.group, size=64),
        replace(rollout.group, source="nowhere"),
        replace(rollout.group, sample_id="another"),
        replace(rollout.group, run="another"),
        replace(rollout.group, split=Split.EVAL, eval_step=2, eval_attempt=9, size=1),
        replace(rollout.group, split=Split.EVAL, eval_step=77, size=1),
    )
    (log,) = run.logs
    for group in groups:
        log.insert(0, Entry(topic=REWARDS, event=replace(reward, group=group, index=0, components={"accuracy": 0.123})))
        log.insert(0, Entry(topic=ROLLOUTS, event=replace(rollout, group=group, index=0)))
    log.append(Entry(topic=ROLLOUTS, event=replace(rollout, prompt_digest="another")))
    audit = audit_folder(run.write())
    assert audit.holds, findings(audit)
