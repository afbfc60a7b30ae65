"""Parts die, the run goes on, and every group is trained once or dropped with a reason."""

import re
from pathlib import Path

import pytest

from chaos_stream import only_in_full
from stream_runs import StreamRun
from tristream.runtime.hooks import VARIABLE
from tristream.wire.events import Part

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.mark.parametrize("num_at_once", [2, pytest.param(1, marks=only_in_full)])
def test_a_run_survives_the_death_of_each_part_in_turn(num_at_once: int, tmp_path: Path) -> None:
    parts = list(Part)
    turns = [parts[first : first + num_at_once] for first in range(0, len(parts), num_at_once)]
    steps = 2 * len(turns) + 2
    run = StreamRun(tmp_path, steps=steps, learner__checkpoint_every=2).start()
    for number, dying in enumerate(turns):
        run.wait_until(lambda step=2 * number + 1: run.version >= step)  # type: ignore[misc]
        for part in dying:
            run.kill(part)
    code, output = run.finish()
    assert code == 0, output
    for part in Part:
        assert f"{part} ended with signal SIGKILL; starting it again" in output
    assert run.summary()["groups"]["trained"] == 4 * steps
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


@only_in_full
def test_parts_that_die_between_two_facts_that_belong_together_lose_nothing(tmp_path: Path) -> None:
    """A checkpoint in place and not committed, a batch built and not answered, rollouts sent and not committed."""
    points = ("learner:checkpoint.renamed:2", "assembler:batch.built:5", "producer:commit:3", "dispatcher:flush:4")
    run = StreamRun(tmp_path, steps=8, learner__checkpoint_every=2).start(**{VARIABLE: ",".join(points)})
    code, output = run.finish()
    assert code == 0, output
    for part in (Part.LEARNER, Part.ASSEMBLER, Part.PRODUCER, Part.DISPATCHER):
        assert f"{part} ended with signal SIGKILL; starting it again" in output
    assert run.summary()["groups"]["trained"] == 8 * 4
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


@only_in_full
def test_groups_of_a_step_that_was_lost_with_the_learner_are_trained_once(tmp_path: Path) -> None:
    run = StreamRun(tmp_path, steps=24, learner__checkpoint_every=10).start()
    run.wait_until(lambda: run.version >= 11)
    run.kill(Part.LEARNER)
    assert run.newest_checkpoint == 10
    code, output = run.finish()
    assert code == 0, output
    assert "resumed at step 10" in run.folder.log("learner").read_text()
    assert run.summary()["groups"]["trained"] == 24 * 4
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


@only_in_full
def test_an_assembler_that_dies_after_the_last_step_still_gets_the_last_evaluation_joined(tmp_path: Path) -> None:
    run = StreamRun(tmp_path, steps=2).start()
    run.wait_until(lambda: run.status(Part.LEARNER).get("state") == "done")
    run.kill(Part.ASSEMBLER)
    code, output = run.finish()
    assert code == 0, output
    assert "assembler ended with signal SIGKILL; starting it again" in output
    assert all(facts["eval_after"] is not None for facts in run.summary()["sources"].values())
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


def test_an_interrupted_run_leaves_nothing_running_and_the_same_command_resumes_it(tmp_path: Path) -> None:
    run = StreamRun(tmp_path, steps=8, learner__checkpoint_every=3).start()
    run.wait_until(lambda: run.version >= 4)
    run.interrupt()
    code, output = run.finish()
    assert code == 130, output
    assert run.processes_left() == []
    stopped_at = run.newest_checkpoint
    assert stopped_at >= 4
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout
    code, output = StreamRun(tmp_path, steps=8, run__seed=7).start().finish()
    assert code == 2, output
    assert "run.seed was 1 and is 7 now" in output
    code, output = run.start().finish()
    assert code == 0, output
    assert f"resumed at step {stopped_at}" in run.folder.log("learner").read_text()
    assert run.summary()["groups"]["trained"] == 8 * 4
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout


def num_known_to_the_ledger_alone(audit: str) -> int:
    found = re.search(r"\+ (\d+) known to the ledger alone", audit)
    return int(found[1]) if found else 0


def test_a_run_whose_embedded_broker_dies_ends_with_one_line_and_the_same_command_resumes_it(tmp_path: Path) -> None:
    steps = 10
    run = StreamRun(tmp_path, steps=steps, learner__checkpoint_every=2).start(KAFKA_HOME="")
    run.wait_until(lambda: run.newest_checkpoint >= 2)
    run.kill_broker()
    code, output = run.finish()
    assert code == 75, output
    lines = [line for line in output.splitlines() if line.startswith("tristream: ")]
    assert len(lines) == 1, output
    assert "broker ended, and its log with it" in lines[0]
    assert "the same command resumes the run" in lines[0]
    assert run.processes_left() == []
    code, output = run.start(KAFKA_HOME="").finish()
    assert code == 0, output
    audit = run.audit()
    assert audit.returncode == 0, audit.stdout
    # What the monitor had not read went with the log; the ledger of the checkpoint still knows it.
    num_missing = steps * 4 - run.summary()["groups"]["trained"]
    assert 0 <= num_missing <= num_known_to_the_ledger_alone(audit.stdout), audit.stdout
