import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from learner_runs import reports_on, run_learner, settings_for, statuses_on, versions_on
from ranks import run_ranks
from scratch_batches import ScratchBatches
from tristream.learner.algorithms.advantages.group_std import group_std_advantages
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import UserError
from tristream.runtime.run_folder import RunFolder, ledger_file
from tristream.wire.batches import CommittedStep
from tristream.wire.codecs.batches import commit_from_json
from tristream.wire.events import Part, PartState
from tristream.wire.ledger import IntervalSet, number_checksum
from tristream.wire.topics import STEPS


def test_a_run_trains_publishes_checkpoints_and_commits_each_step_once(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    servicer.forget_at = 4  # an assembler that restarted
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, address), bus)
    versions = versions_on(bus)
    told = [(version.weights.version, version.durable.step) for version in versions]
    assert told == [(0, 0), (1, 0), (2, 0), (2, 2), (3, 2), (4, 2), (4, 4)]
    assert len({version.weights.sha256 for version in versions}) == 5
    assert [step.step for step in servicer.committed] == [1, 2, 3, 4]
    assert [ledger.step for ledger in servicer.attached] == [0, 3], "the ledger in memory, not that of the checkpoint"
    assert len(IntervalSet(servicer.attached[1].settled)) == 9
    assert [len(IntervalSet(version.durable.settled)) for version in versions] == [0, 0, 0, 6, 6, 6, 12]
    assert versions[-1].durable.num_dropped == 4
    assert versions[-1].durable.dropped_checksum == number_checksum([2, 5, 8, 11])
    assert versions[-1].durable.position == servicer.batch(4).position
    assert set(servicer.epochs) == {versions[-1].durable.epoch} == {1}
    reports = reports_on(bus)
    assert [report.step for report in reports] == [1, 2, 3, 4]
    assert reports[0].metrics["learning_rate"] == pytest.approx(0.5e-3)
    assert reports[0].metrics["grad_norm"] > 0
    assert len(reports[0].rollouts) == 8
    assert reports[0].max_age == 1
    metrics = reports[0].metrics
    assert 0 < metrics["model_flops_utilisation"] < 1
    assert metrics["model_flops_per_second"] > 6 * metrics["model_tokens_per_second"]
    assert {"logprob_mismatch_age_0", "logprob_mismatch_age_1"} <= metrics.keys()
    assert metrics["max_ratio"] > 1
    assert (metrics["truncated_share"], metrics["skipped_updates"]) == (0.0, 0.0)
    assert not any("visual" in layer for layer in reports[0].layer_grad_norms)
    checkpoints = RunFolder(tmp_path / "test").find_checkpoints()
    assert [path.name for path in checkpoints] == ["step-000002-e1", "step-000004-e1"]


def test_outcomes_are_reported_and_committed_with_the_advantages_of_their_group(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=2), bus)
    reports = reports_on(bus)
    assert [report.outcomes for report in reports] == [step.outcomes for step in servicer.committed]
    for report in reports:
        batch = servicer.batch(report.step)
        assert [outcome.group for outcome in report.outcomes] == [group.group for group in batch.groups]
        for outcome, before in zip(report.outcomes, batch.outcomes, strict=True):
            (expected,) = group_std_advantages([[rollout.reward for rollout in before.rollouts]], epsilon=1e-6)
            assert tuple(rollout.advantage for rollout in outcome.rollouts) == expected
            assert (outcome.created_ns, outcome.oldest_version) == (before.created_ns, before.oldest_version)
        assert [(r.group_number, r.index) for r in report.rollouts] == [
            (group.group.number, rollout.index) for group in batch.groups for rollout in group.rollouts
        ]


def test_the_status_at_the_end_tells_version_rewards_and_staleness(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2), bus)
    status = statuses_on(bus)[-1]
    assert (status.part, status.state, status.waiting_for) == (Part.LEARNER, PartState.DONE, "")
    rollouts = [rollout for outcome in reports_on(bus)[-1].outcomes for rollout in outcome.rollouts]
    assert status.measures["version"] == status.measures["total_steps"] == 2
    assert status.measures["staleness"] == 1
    assert status.measures["trained_reward/shapes"] == pytest.approx(sum(r.reward for r in rollouts) / len(rollouts))
    assert status.measures["tokens_per_second"] > 0


def test_a_batch_of_several_updates_is_one_step_and_one_version(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    once, often = MemoryBus("test"), MemoryBus("test")
    for bus, algorithm in ((once, {}), (often, {"type": "grpo", "updates_per_batch": 2, "epochs": 2})):
        run_learner(
            settings_for(vision_checkpoint, tmp_path / str(len(algorithm)), batches[1], steps=2, algorithm=algorithm),
            bus,
        )
    assert [version.weights.version for version in versions_on(often)] == [
        version.weights.version for version in versions_on(once)
    ]
    for one, other in zip(reports_on(once), reports_on(often), strict=True):
        assert [(r.group_number, r.index) for r in one.rollouts] == [(r.group_number, r.index) for r in other.rollouts]
        assert other.metrics["model_tokens"] == 2 * one.metrics["model_tokens"], "each group is computed once an epoch"
    assert versions_on(once)[-1].weights.sha256 != versions_on(often)[-1].weights.sha256


def test_frozen_weights_stay_as_they_were_and_published_weights_load(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForImageTextToText

    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2), bus)
    before, after = (load_file(version.weights.uri) for version in (versions_on(bus)[0], versions_on(bus)[-1]))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.startswith("model.visual."), name
    model = AutoModelForImageTextToText.from_pretrained(vision_checkpoint)
    assert not model.load_state_dict(after, strict=False).unexpected_keys


def test_a_learner_says_that_rollouts_are_not_sampled_from_the_policy_itself(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, address = batches
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=2, top_p=0.9), MemoryBus("test"))
    assert [record.message for record in caplog.records if "top_p = 0.9" in record.message]


def test_a_stopped_run_resumes_to_bit_identical_weights(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    whole, stopped, resumed = MemoryBus("test"), MemoryBus("test"), MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path / "whole", address), whole)
    stop = threading.Event()
    servicer.stop_at = (4, stop)
    servicer.committed.clear()
    run_learner(settings_for(vision_checkpoint, tmp_path / "parts", address), stopped, stop)
    servicer.stop_at = None
    assert [version.weights.version for version in versions_on(stopped)] == [0, 1, 2, 2, 3]
    run_learner(settings_for(vision_checkpoint, tmp_path / "parts", address), resumed)
    told = [(version.weights.version, version.durable.step) for version in versions_on(resumed)]
    assert told == [(3, 3), (4, 3), (4, 4)]
    assert versions_on(resumed)[-1].weights.sha256 == versions_on(whole)[-1].weights.sha256
    assert {step.step for step in servicer.committed} == {1, 2, 3, 4}


def test_outcomes_that_were_not_acknowledged_are_committed_after_a_resume(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    stop, bus = threading.Event(), MemoryBus("test")
    servicer.stop_at = (4, stop)
    run_learner(settings_for(vision_checkpoint, tmp_path, address), bus, stop)
    assert [step.step for step in servicer.committed] == [1, 2]
    (checkpoint,) = [path for path in RunFolder(tmp_path / "test").find_checkpoints() if path.name == "step-000003-e1"]
    (pending,) = commit_from_json(ledger_file(checkpoint).read_text(encoding="utf-8")).steps
    assert pending == CommittedStep(step=3, outcomes=reports_on(bus)[-1].outcomes)
    servicer.stop_at = None
    servicer.committed.clear()
    run_learner(settings_for(vision_checkpoint, tmp_path, address), MemoryBus("test"))
    assert servicer.committed[0] == pending
    assert [step.step for step in servicer.committed] == [3, 4]
    assert commit_from_json(json_of_newest(tmp_path)).steps[0].step == 4


def json_of_newest(output: Path) -> str:
    return ledger_file(RunFolder(output / "test").find_checkpoints()[-1]).read_text(encoding="utf-8")


def test_a_checkpoint_of_another_run_is_refused_by_name(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2), MemoryBus("test"))
    with pytest.raises(UserError, match="seed was 1 and is 2"):
        run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=2, seed=2), MemoryBus("test"))


def test_only_evaluated_and_newest_weights_are_kept(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    run_learner(settings_for(vision_checkpoint, tmp_path, batches[1], steps=6), MemoryBus("test"))
    assert kept_versions(tmp_path) == [0, 2, 4, 5, 6]


def kept_versions(output: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in (output / "test" / "store" / "weights").glob("*/*"))


def test_a_finished_run_goes_on_with_a_greater_total_and_says_it(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=2), MemoryBus("test"))
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=4), bus)
    told = [(version.weights.version, version.durable.step, version.total_steps) for version in versions_on(bus)]
    assert told == [(2, 2, 4), (3, 2, 4), (4, 2, 4), (4, 4, 4)]
    assert [(report.step, report.total_steps) for report in reports_on(bus)] == [(3, 4), (4, 4)]
    assert [step.step for step in servicer.committed] == [1, 2, 1, 2, 3, 4], "what a checkpoint holds is told again"
    with pytest.raises(UserError, match=r"has trained 4 steps, and run\.steps is 3"):
        run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=3), MemoryBus("test"))


TWO_RANKS = """
import sys, threading
from pathlib import Path
import torch
from tristream.config.parts import LearnerSettings
from tristream.learner.main import run_rank
from tristream.learner.training.distributed import start_process_group
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.status import PartReporter
from tristream.wire.events import Part
from tristream.wire.topics import STEPS

rank, world_size = start_process_group()
settings = LearnerSettings.model_validate_json(Path(sys.argv[1]).read_text())
bus = MemoryBus("test") if rank == 0 else None
reporter = PartReporter(settings.run.folder, "test", Part.LEARNER, beat_seconds=0.1) if rank == 0 else None
run_rank(settings, lambda _say: bus, reporter, rank=rank, world_size=world_size, stop=threading.Event())
if bus is not None:
    for number, record in enumerate(bus.reader([STEPS]).read_to_end()):
        Path(sys.argv[1]).with_name(f"report-{number}").write_bytes(STEPS.codec.encode(record.event))
torch.distributed.destroy_process_group()
"""


SEVERAL_UPDATES = {
    "type": "gspo", "clip_high": 0.5, "clip_low": 0.5, "updates_per_batch": 2, "epochs": 2, "proximal": "recomputed",
    "importance": "truncate", "importance_level": "geometric", "kl_coefficient": 0.1, "advantage": "batch_std",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [{}, SEVERAL_UPDATES])
def test_two_ranks_report_and_commit_what_one_rank_does(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path, algorithm: dict[str, Any]
) -> None:
    servicer, address = batches
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path / "one", address, steps=2, algorithm=algorithm), bus)
    committed, servicer.committed = servicer.committed, []
    settings = settings_for(vision_checkpoint, tmp_path / "two", address, steps=2, algorithm=algorithm)
    (tmp_path / "settings.json").write_text(settings.model_dump_json(), encoding="utf-8")
    (tmp_path / "rank.py").write_text(TWO_RANKS, encoding="utf-8")
    run_ranks(tmp_path / "rank.py", str(tmp_path / "settings.json"), num_ranks=2)
    assert servicer.committed == committed
    for number, one in enumerate(reports_on(bus)):
        two = STEPS.codec.decode((tmp_path / f"report-{number}").read_bytes())
        assert two.outcomes == one.outcomes
        assert [(r.group_number, r.index) for r in two.rollouts] == [(r.group_number, r.index) for r in one.rollouts]
        assert [r.mean_logprob for r in two.rollouts] == pytest.approx([r.mean_logprob for r in one.rollouts], rel=1e-3)
        assert two.metrics["grad_norm"] == pytest.approx(one.metrics["grad_norm"], rel=1e-3)
