"""The audit finds each kind of corruption of an honest run, and says which it is."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from played_runs import PAUSED, Play, honest_run, training_group
from recorded_runs import GROUPS_PER_STEP, NUM_STEPS, Entry, RecordedRun
from tristream.audit.audit import Audit, audit_folder
from tristream.runtime.run_folder import RunFolder
from tristream.wire.batches import Commit
from tristream.wire.events import DropReason, Fate, Interval, Outcome, RolloutOutcome, Split
from tristream.wire.ledger import IntervalSet, number_checksum
from tristream.wire.topics import COMMANDS, OUTCOMES, POLICY, PROMPTS, REWARDS, ROLLOUTS, STEPS


def of(number: int) -> Callable[[Any], bool]:
    """Events of a training group."""
    return lambda event: (event.group.split, event.group.number) == (Split.TRAIN, number)


def of_held_out(number: int, version: int) -> Callable[[Any], bool]:
    """Events of an evaluation prompt."""
    wanted = (Split.EVAL, version, number)
    return lambda event: (event.group.split, event.group.eval_step, event.group.number) == wanted


def trained(run: RecordedRun, step: int = 3) -> list[Entry]:
    """Outcomes of the groups of a step."""
    return run.find(OUTCOMES, lambda outcome: outcome.fate is Fate.TRAINED and outcome.step == step)


def dropped(run: RecordedRun, reason: DropReason) -> Outcome:
    (entry,) = run.find(OUTCOMES, lambda outcome: outcome.drop_reason is reason)
    found: Outcome = entry.event
    return found


def number_of(run: RecordedRun, step: int = 3) -> int:
    """The first group of a step."""
    number: int = trained(run, step)[0].event.group.number
    return number


def drop_a_trained_group(run: RecordedRun) -> str:
    outcome = trained(run)[0].event
    run.add(OUTCOMES, replace(outcome, fate=Fate.DROPPED, step=0, drop_reason=DropReason.STALE), epoch=2)
    return f"group {outcome.group.number}: there are outcomes that differ: dropped as stale, trained at step 3"


def train_a_group_in_two_steps(run: RecordedRun) -> str:
    outcome = trained(run)[0].event
    run.add(OUTCOMES, replace(outcome, step=4), epoch=2)
    return f"group {outcome.group.number}: there are outcomes that differ: trained at step 3, trained at step 4"


def train_a_group_twice_in_one_step(run: RecordedRun) -> str:
    first, second, _ = trained(run)
    gone = second.event.group.number
    second.event = first.event
    (report,) = run.find(STEPS, lambda report: report.step == 3)
    outcomes = report.event.outcomes
    report.event = replace(report.event, outcomes=(outcomes[0], outcomes[0], outcomes[2]))
    assert gone != first.event.group.number
    return "step 3: 2 groups were trained, and a step has 3"


def train_a_step_of_two_groups(run: RecordedRun) -> str:
    number = number_of(run)
    run.remove(OUTCOMES, of(number))
    (report,) = run.find(STEPS, lambda report: report.step == 3)
    report.event = replace(report.event, outcomes=report.event.outcomes[1:])
    return "step 3: 2 groups were trained, and a step has 3"


def train_a_step_of_four_groups(run: RecordedRun) -> str:
    moved = trained(run, 4)[0]
    run.change(OUTCOMES, of(moved.event.group.number), step=3)
    return "step 3: 4 groups were trained, and a step has 3"


def leave_out_a_step(run: RecordedRun) -> str:
    run.remove(OUTCOMES, lambda outcome: outcome.fate is Fate.TRAINED and outcome.step == 3)
    run.remove(STEPS, lambda report: report.step == 3)
    return "step 3: no group was trained"


def train_beyond_the_last_step(run: RecordedRun) -> str:
    run.change(OUTCOMES, of(number_of(run, NUM_STEPS)), step=NUM_STEPS + 1)
    return f"step {NUM_STEPS + 1}: the run has steps 1 to {NUM_STEPS}"


def train_rollouts_that_are_too_old(run: RecordedRun) -> str:
    outcome = trained(run)[0].event
    rollouts = tuple(replace(rollout, age=59) for rollout in outcome.rollouts)
    run.change(OUTCOMES, of(outcome.group.number), rollouts=rollouts)
    return "a rollout is 59 versions old, and 1 is the bound"


def sample_with_an_older_version_than_is_said(run: RecordedRun) -> str:
    number = number_of(run, NUM_STEPS)
    entry = run.find(ROLLOUTS, of(number))[0]
    first, second = entry.event.segments
    spans = tuple(replace(span, version=0) for span in second.version_spans)
    entry.event = replace(entry.event, segments=(first, replace(second, version_spans=spans)))
    return f"group {number}: a rollout is 4 versions old, and 1 is the bound"


def lose_a_report(run: RecordedRun) -> str:
    run.remove(STEPS, lambda report: report.step == 2)
    return "step 2: there is no report"


def report_other_rewards(run: RecordedRun) -> str:
    (entry,) = run.find(STEPS, lambda report: report.step == 2)
    first, *rest = entry.event.outcomes
    worth = replace(first.rollouts[0], reward=0.125)
    entry.event = replace(entry.event, outcomes=(replace(first, rollouts=(worth, *first.rollouts[1:])), *rest))
    return "step 2: the report and the outcomes say other rewards"


def report_another_group(run: RecordedRun) -> str:
    (entry,) = run.find(STEPS, lambda report: report.step == 2)
    entry.event = replace(entry.event, outcomes=entry.event.outcomes[1:])
    return "step 2: the report and the outcomes name other groups"


def lose_an_evaluation_answer(run: RecordedRun) -> str:
    run.remove(OUTCOMES, of_held_out(2, 4))
    return "evaluation of step 4: prompt 2: there is no answer"


def lose_an_evaluation_prompt(run: RecordedRun) -> str:
    for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES):
        run.remove(topic, of_held_out(3, 4))
    return "evaluation of step 4: prompt 3: it was not asked"


def leave_out_an_evaluation(run: RecordedRun) -> str:
    for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES):
        run.remove(topic, lambda event: event.group.split is Split.EVAL and event.group.eval_step == 4)
    return "evaluation of step 4: the weights announced last were not evaluated"


def announce_other_weights_after_the_evaluation(run: RecordedRun) -> str:
    for entry in run.find(POLICY, lambda policy: policy.weights.version == 4)[-1:]:
        weights = Play(run).weights(4, "trained anew")
        run.add(POLICY, replace(entry.event, weights=weights), epoch=2)
    return "evaluation of step 4: the weights announced last were not evaluated"


def change_an_evaluation_reward(run: RecordedRun) -> str:
    run.change(OUTCOMES, of_held_out(1, 4), rollouts=(RolloutOutcome(index=0, valid=True, reward=0.5),))
    return "evaluation of step 4: prompt 1: the reward is not that of the scores on the log"


def lose_a_prompt(run: RecordedRun) -> str:
    number = number_of(run)
    run.remove(PROMPTS, of(number))
    return f"group {number}: no prompt is on the log and there is an outcome"


def leave_out_a_number(run: RecordedRun) -> str:
    number = dropped(run, DropReason.STALE).group.number
    for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES):
        run.remove(topic, of(number))
    return f"group {number}: no prompt is on the log"


def dispatch_another_prompt_under_a_number(run: RecordedRun) -> str:
    entry = run.find(PROMPTS, of(number_of(run)))[0]
    run.add(PROMPTS, replace(entry.event, digest="of another prompt"), epoch=2)
    return f"group {number_of(run)}: there are prompts of two digests and the group was not dropped as conflicting"


def call_a_clean_group_conflicting(run: RecordedRun) -> str:
    number = dropped(run, DropReason.STALE).group.number
    run.change(OUTCOMES, of(number), drop_reason=DropReason.CONFLICTING)
    return f"group {number}: the group was dropped as conflicting and has prompts of one digest"


def settle_a_group_that_was_never_dispatched(run: RecordedRun) -> str:
    outcome = trained(run, NUM_STEPS)[0].event
    group = training_group(40, "words")
    run.add(OUTCOMES, replace(outcome, group=group), epoch=2)
    return "group 40: no prompt is on the log and there is an outcome"


def lose_an_outcome(run: RecordedRun) -> str:
    number = dropped(run, DropReason.INCOMPLETE).group.number
    run.remove(OUTCOMES, of(number))
    return f"group {number}: there is no outcome and the run is finished"


def change_a_final_reward(run: RecordedRun) -> str:
    outcome = trained(run)[0].event
    first = replace(outcome.rollouts[0], reward=outcome.rollouts[0].reward + 0.001)
    run.change(OUTCOMES, of(outcome.group.number), rollouts=(first, *outcome.rollouts[1:]))
    return f"group {outcome.group.number}: a reward is not that of the scores on the log"


def change_a_score(run: RecordedRun) -> str:
    number = number_of(run)
    of_index_1 = run.find(REWARDS, lambda event: of(number)(event) and event.index == 1)
    of_index_1[0].event = replace(of_index_1[0].event, components={"accuracy": 0.9})
    return f"group {number}: a reward is not that of the scores on the log"


def lose_a_score(run: RecordedRun) -> str:
    number = number_of(run)
    run.remove(REWARDS, lambda event: of(number)(event) and event.index == 1)
    return f"group {number}: scores are not on the log"


def lose_a_rollout(run: RecordedRun) -> str:
    number = number_of(run)
    run.remove(ROLLOUTS, lambda event: of(number)(event) and event.index == 1)
    return f"group {number}: a rollout is not on the log"


def train_equal_rewards(run: RecordedRun) -> str:
    number = number_of(run)
    run.change(REWARDS, lambda event: of(number)(event) and event.term_id == "math", components={"accuracy": 1.0})
    rollouts = tuple(replace(rollout, reward=1.0) for rollout in trained(run)[0].event.rollouts)
    run.change(OUTCOMES, of(number), rollouts=rollouts, has_zero_variance=True)
    return f"group {number}: trained though its rewards are all equal"


def drop_varied_rewards_as_equal(run: RecordedRun) -> str:
    number = dropped(run, DropReason.STALE).group.number
    run.change(OUTCOMES, of(number), drop_reason=DropReason.ZERO_VARIANCE)
    return f"group {number}: dropped as zero_variance, which it is not"


def drop_a_fresh_group_as_stale(run: RecordedRun) -> str:
    number = dropped(run, DropReason.STALE).group.number
    for entry in run.find(ROLLOUTS, of(number)):
        first, second = entry.event.segments
        spans = tuple(replace(span, version=5) for span in second.version_spans)
        entry.event = replace(entry.event, segments=(first, replace(second, version_spans=spans)))
    run.change(OUTCOMES, of(number), oldest_version=5)
    return f"group {number}: dropped as stale, which it is not"


def settle_a_group_without_an_outcome(run: RecordedRun) -> str:
    ledger = run.commit.ledger
    play = Play(run, epoch=2)
    play.number = ledger.settled[-1].end
    play.dispatch(training_group(play.number, "words"))
    run.commit = Commit(ledger=replace(ledger, settled=(Interval(start=0, end=play.number + 1),)))
    return f"group {play.number}: settled by the ledger, and there is no outcome"


def forget_a_trained_group_in_the_ledger(run: RecordedRun) -> str:
    settled, number = IntervalSet(), number_of(run)
    for known in IntervalSet(run.commit.ledger.settled):
        if known != number:
            settled.add(known)
    run.commit = Commit(ledger=replace(run.commit.ledger, settled=settled.intervals))
    return f"group {number}: trained at step 3, which the ledger does not settle"


def count_the_dropped_wrongly(run: RecordedRun) -> str:
    run.commit = Commit(ledger=replace(run.commit.ledger, num_dropped=4))
    return "ledger of step 5: 4 dropped groups, and 5 by the outcomes"


def change_the_checksum_of_the_dropped(run: RecordedRun) -> str:
    run.commit = Commit(ledger=replace(run.commit.ledger, dropped_checksum=number_checksum([1, 2, 3, 4, 5])))
    return "ledger of step 5: dropped_checksum is not that of the groups dropped by the outcomes"


def announce_a_ledger_that_does_not_add_up(run: RecordedRun) -> str:
    entry = run.find(POLICY, lambda policy: policy.durable.step == 2)[0]
    entry.event = replace(entry.event, durable=replace(entry.event.durable, num_dropped=3))
    return "ledger of step 2: 7 settled groups less 3 dropped ones are not 3 a step"


def lose_a_checkpoint(run: RecordedRun) -> str:
    run.commit = Commit(ledger=run.find(POLICY, lambda policy: policy.durable.step == 4)[0].event.durable)
    return "checkpoint of step 4: the learner called step 5 durable"


def dispatch_of_a_paused_source(run: RecordedRun) -> str:
    (entry,) = run.find(PROMPTS, of(PAUSED.start))
    entry.event = replace(entry.event, group=replace(entry.event.group, source="sums"))
    return f"group {PAUSED.start}: dispatched of source sums, which was paused"


CORRUPTIONS = [
    drop_a_trained_group,
    train_a_group_in_two_steps,
    train_a_group_twice_in_one_step,
    train_a_step_of_two_groups,
    train_a_step_of_four_groups,
    leave_out_a_step,
    train_beyond_the_last_step,
    train_rollouts_that_are_too_old,
    sample_with_an_older_version_than_is_said,
    lose_a_report,
    report_other_rewards,
    report_another_group,
    lose_an_evaluation_answer,
    lose_an_evaluation_prompt,
    leave_out_an_evaluation,
    announce_other_weights_after_the_evaluation,
    change_an_evaluation_reward,
    lose_a_prompt,
    leave_out_a_number,
    dispatch_another_prompt_under_a_number,
    call_a_clean_group_conflicting,
    settle_a_group_that_was_never_dispatched,
    lose_an_outcome,
    change_a_final_reward,
    change_a_score,
    lose_a_score,
    lose_a_rollout,
    train_equal_rewards,
    drop_varied_rewards_as_equal,
    drop_a_fresh_group_as_stale,
    settle_a_group_without_an_outcome,
    forget_a_trained_group_in_the_ledger,
    count_the_dropped_wrongly,
    change_the_checksum_of_the_dropped,
    announce_a_ledger_that_does_not_add_up,
    lose_a_checkpoint,
    dispatch_of_a_paused_source,
]


def findings(audit: Audit) -> list[str]:
    return [finding for check in audit.checks for finding in check.findings]


def test_the_honest_run_holds_and_everything_was_looked_at(tmp_path: Path) -> None:
    audit = audit_folder(honest_run(tmp_path).write())
    assert audit.holds, findings(audit)
    assert not audit.remarks
    assert all(check.num_checked for check in audit.checks if not check.is_skipped)
    assert [check.name for check in audit.checks if check.is_skipped] == ["database as the log"]


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_a_corruption_is_found_and_named(corrupt: Callable[[RecordedRun], str], tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    expected = corrupt(run)
    audit = audit_folder(run.write())
    assert not audit.holds
    assert any(expected in finding for finding in findings(audit)), findings(audit)


def test_a_changed_weight_file_is_found(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    (path,) = folder.store.glob("weights/4/*")
    path.write_bytes(path.read_bytes() + b"!")
    (finding,) = findings(audit_folder(folder))
    assert finding.startswith("version 4: its file has sha256")


def test_missing_weights_of_the_newest_version_are_found(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    shutil.rmtree(folder.store / "weights/5")
    assert findings(audit_folder(folder)) == ["version 5: its weights are not in the store"]


def test_a_record_cut_out_of_the_archive_is_found_by_its_offset(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    path = max(folder.archive.rglob("rollouts-*.records"), key=lambda path: path.stat().st_size)
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes(10) + data[110:])
    assert any("are not in the archive" in finding for finding in findings(audit_folder(folder)))


def test_a_run_without_a_prompt_does_not_pass(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    for topic in (PROMPTS, ROLLOUTS, REWARDS, OUTCOMES, STEPS, COMMANDS, POLICY):
        run.remove(topic, lambda _event: True)
    run.is_finished, run.commit = False, Commit(ledger=replace(run.commit.ledger, step=0))
    audit = audit_folder(run.write())
    assert not audit.holds
    assert audit.account.violations == ("there is nothing to audit: no training prompt is on the log",)


def test_a_moved_run_is_audited_where_it_is(tmp_path: Path) -> None:
    folder = honest_run(tmp_path).write()
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(folder.path, moved)
    shutil.rmtree(folder.path)
    assert audit_folder(RunFolder(moved)).holds
    (path,) = (moved / "store").glob("weights/5/*")
    path.write_bytes(b"other weights")
    assert not audit_folder(RunFolder(moved)).holds


def test_many_groups_are_named_as_ranges(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    run.remove(OUTCOMES, lambda outcome: outcome.group.split is Split.TRAIN)
    audit = audit_folder(run.write())
    assert "groups 0-19: there is no outcome and the run is finished" in findings(audit)
    assert len(audit.account.violations) < 2 * len(audit.checks)


def test_an_open_run_may_have_pending_groups_and_a_finished_one_may_not(tmp_path: Path) -> None:
    run = honest_run(tmp_path)
    number = run.commit.ledger.settled[-1].end
    Play(run, epoch=2).dispatch(training_group(number, "words"))
    run.is_finished = False
    folder = run.write()
    audit = audit_folder(folder)
    assert audit.holds, findings(audit)
    assert audit.remarks == ("the run is not finished: groups may be pending",)
    folder.summary.write_text("{}")
    assert findings(audit_folder(folder)) == [f"group {number}: there is no outcome and the run is finished"]


def test_the_step_of_the_honest_run_is_what_the_tests_say_it_is(tmp_path: Path) -> None:
    assert len(trained(honest_run(tmp_path), 3)) == GROUPS_PER_STEP
