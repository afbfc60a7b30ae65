"""What keeps a learner from its work: batches that must not be trained, waits, and another learner."""

import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from learner_runs import make_reporter, reports_on, run_learner, settings_for, statuses_on, versions_on
from scratch_batches import ScratchBatches, without_its_last_group
from tristream.learner.main import build_learner, open_office
from tristream.learner.ranks import Ranks
from tristream.learner.training.distributed import start_process_group
from tristream.runtime.bus.memory import MemoryBus
from tristream.runtime.errors import TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.runtime.store import BlobStore, StoreUnavailableError
from tristream.wire.arrays import LogProbs
from tristream.wire.batches import Batch
from tristream.wire.events import Ledger, PartState

# What must not be trained ------------------------------------------------------------------------


def test_a_batch_that_must_not_be_trained_is_asked_for_once_more_after_attaching_anew(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    bus, given = MemoryBus("test"), []

    def spoil_once(batch: Batch) -> Batch:
        given.append(batch.step)
        return without_its_last_group(batch) if given == [1, 2] else batch

    servicer.spoil = spoil_once
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=2), bus)
    assert given == [1, 2, 2]
    assert [ledger.step for ledger in servicer.attached] == [0, 1]
    assert [report.num_groups for report in reports_on(bus)] == [2, 2]


def test_an_assembler_that_keeps_giving_what_is_settled_ends_the_learner_which_may_be_started_again(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    bus = MemoryBus("test")
    servicer.spoil = lambda batch: replace(servicer.batch(1), step=batch.step)
    with pytest.raises(TryAgainError, match="it settles groups 0, 1, 2, which an earlier step settled"):
        run_learner(settings_for(vision_checkpoint, tmp_path, address), bus)
    assert [report.step for report in reports_on(bus)] == [1]
    assert statuses_on(bus)[-1].state is PartState.DONE


def with_a_logprob_that_is_no_number(batch: Batch) -> Batch:
    first, *others = batch.groups
    rollout = first.rollouts[0]
    segments = tuple(
        replace(segment, logprobs=LogProbs.of([math.nan, *segment.logprobs.to_list()[1:]]))
        if segment.is_sampled
        else segment
        for segment in rollout.segments
    )
    spoilt = replace(first, rollouts=(replace(rollout, segments=segments), *first.rollouts[1:]))
    return replace(batch, groups=(spoilt, *others))


def test_a_batch_with_a_logprob_that_is_no_number_is_refused_before_it_is_trained(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    batches[0].spoil = with_a_logprob_that_is_no_number
    bus = MemoryBus("test")
    with pytest.raises(TryAgainError, match="it is malformed"):
        run_learner(settings_for(vision_checkpoint, tmp_path, batches[1]), bus)
    assert reports_on(bus) == []


def test_an_update_that_is_no_number_all_the_same_is_left_out_and_counted_and_explained(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_for(vision_checkpoint, tmp_path, batches[1], steps=2)
    bus = MemoryBus("test")
    start_process_group()
    office = open_office(settings, bus, make_reporter(settings), threading.Event())
    ranks = Ranks(0, 1, stop=threading.Event())
    learner = build_learner(settings, ranks=ranks, epoch=1, office=office, stop=threading.Event())

    def next_batch(ledger: Ledger) -> Batch:
        batch = batches[0].batch(ledger.step + 1)
        return with_a_logprob_that_is_no_number(batch) if batch.step == 1 else batch

    learner._feed.next_batch = next_batch  # type: ignore[method-assign]
    learner.run()
    office.lease.close()
    before, spoilt, after = versions_on(bus)[:3]
    assert before.weights.sha256 == spoilt.weights.sha256 != after.weights.sha256
    assert [report.metrics["skipped_updates"] for report in reports_on(bus)] == [1.0, 0.0]
    assert math.isnan(reports_on(bus)[0].metrics["loss"])
    assert math.isfinite(reports_on(bus)[0].metrics["grad_norm"]), "the gradient alone does not show it"
    said = [record.message for record in caplog.records if "left out" in record.message]
    number = batches[0].batch(1).groups[0].group.number
    assert said == [f"the update of step 1 was left out: not finite: loss and logprobs, first in group {number}"]
    assert statuses_on(bus)[-1].measures["num_skipped_updates"] == 1


# Waiting -----------------------------------------------------------------------------------------


def test_an_assembler_that_still_reads_the_log_is_waited_for_by_name(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    servicer.num_not_ready = 8
    bus = MemoryBus("test")
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=1, warmup_steps=0), bus)
    assert "the log: 1 of 2 records" in {status.waiting_for for status in statuses_on(bus)}
    assert [ledger.step for ledger in servicer.attached] == [0]
    assert [report.step for report in reports_on(bus)] == [1]


def test_an_answer_of_an_assembler_that_has_a_successor_is_not_taken(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    bus, epochs = MemoryBus("test"), iter([5, 4, 4, 6])
    servicer.epoch = 5

    def answer_as_another(batch: Batch) -> Batch:
        servicer.epoch = next(epochs, 6)
        return batch

    servicer.spoil = answer_as_another
    run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=2), bus)
    assert [report.step for report in reports_on(bus)] == [1, 2]
    waits = {status.waiting_for for status in statuses_on(bus)}
    assert any("an assembler of epoch 5" in wait for wait in waits)
    assert next(epochs, None) is None


def test_a_store_that_does_not_answer_is_waited_for_by_name(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(vision_checkpoint, tmp_path, batches[1], steps=2)
    bus, failures = MemoryBus("test"), iter([1, 2])
    write_file = BlobStore.write_file

    def answer_503(store: BlobStore, relative: str, local_path: Path) -> str:
        if relative.startswith("weights/1/") and next(failures, None):
            raise StoreUnavailableError("the store answers 503")
        return write_file(store, relative, local_path)

    monkeypatch.setattr(BlobStore, "write_file", answer_503)
    run_learner(settings, bus)
    assert [version.weights.version for version in versions_on(bus)] == [0, 1, 2, 2]
    assert "the store answers 503" in {status.waiting_for for status in statuses_on(bus)}


# Two learners ------------------------------------------------------------------------------------


def test_a_learner_that_the_assembler_refuses_as_superseded_ends_in_words(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    servicer.superseded_at = 2
    with pytest.raises(UserError, match="a learner of epoch 2 has attached; let the learner that has taken over go on"):
        run_learner(settings_for(vision_checkpoint, tmp_path, address), MemoryBus("test"))


def test_a_learner_surpasses_the_epochs_that_its_folder_has_seen_on_a_new_broker_too(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    servicer, address = batches
    for total in (1, 2, 3):
        run_learner(settings_for(vision_checkpoint, tmp_path, address, steps=total, warmup_steps=0), MemoryBus("test"))
    assert sorted(set(servicer.epochs)) == [1, 2, 3]
    found = RunFolder(tmp_path / "test").find_checkpoints()
    assert [path.name for path in found] == ["step-000002-e2", "step-000003-e3"]


def test_a_learner_that_starts_again_and_again_leaves_no_weights_behind(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    """Of a version two may be fetched, those of the last two learners."""
    stop = threading.Event()
    batches[0].stop_at = (2, stop)
    for _ in range(4):
        stop.clear()
        bus = MemoryBus("test")
        run_learner(settings_for(vision_checkpoint, tmp_path, batches[1]), bus, stop)
    weights = tmp_path / "test" / "store" / "weights"
    assert [path.name.partition("-")[0] for path in sorted(weights.glob("1/*"))] == ["3", "4"]
    assert [version.weights.uri for version in versions_on(bus)] == [str(path) for path in weights.glob("1/4-*")]


def test_an_evaluated_version_stays_where_it_is_when_it_is_told_again(
    vision_checkpoint: Path, batches: tuple[ScratchBatches, str], tmp_path: Path
) -> None:
    """Its answers may be under way, and name it; what is not whole is no reason to keep its place."""
    stop = threading.Event()
    batches[0].stop_at = (3, stop)
    uris = []
    for attempt in range(3):
        stop.clear()
        bus = MemoryBus("test")
        run_learner(settings_for(vision_checkpoint, tmp_path, batches[1]), bus, stop)
        uris.append({version.weights.uri for version in versions_on(bus) if version.weights.version == 2})
        if attempt == 1:
            for uri in uris[0]:
                Path(uri).write_bytes(b"torn")
    assert uris[0] == uris[1]
    assert uris[2] == {str(path) for path in (tmp_path / "test" / "store" / "weights").glob("2/3-*")}
