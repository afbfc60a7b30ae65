"""The learner: takes a batch, updates the policy, publishes it, and makes it durable.

    assembler --batch--> pack --> train_step --> weights --> policy, steps
                                      |
                                      +--> checkpoint (every N, last, on stop) --> commit --> assembler

Invariants: the outcomes of a step go to the assembler only when a checkpoint that covers it is durable;
they are in that checkpoint too, so that a crash in between repeats them. All ranks run the same steps,
checkpoints and collectives; rank 0 alone publishes and commits.
"""

import hashlib
import logging
import time
from dataclasses import dataclass, field

from tristream.config.run_file import RunFile
from tristream.learner.batch_client import BatchClient, StoppedError
from tristream.learner.checkpoints import (
    Bookkeeping,
    RunIdentity,
    find_checkpoints,
    read_bookkeeping,
    remove_old_checkpoints,
    restore_rng,
    write_checkpoint,
)
from tristream.learner.reports import committed_step, mean_rewards, step_report
from tristream.learner.training.deepspeed_engine import PolicyEngine
from tristream.learner.training.distributed import gather_bytes
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import StepResult, train_step
from tristream.learner.weights import publish_weights, remove_old_weights
from tristream.policy.images import ImageLoader
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.status import StatusFile
from tristream.runtime.store import BlobStore
from tristream.wire import batches as batch_codecs
from tristream.wire.batches import Batch, CommittedStep
from tristream.wire.events import PolicyVersion
from tristream.wire.ledger import IntervalSet, Ledger
from tristream.wire.topics import POLICY, STEPS

LOG = logging.getLogger("tristream.learner")


@dataclass(slots=True, kw_only=True)
class Progress:
    """Where the learner stands in memory."""

    ledger: Ledger = field(default_factory=lambda: Ledger(step=0))
    durable: Ledger = field(default_factory=lambda: Ledger(step=0))
    """The ledger of the newest checkpoint."""
    pending: tuple[CommittedStep, ...] = ()
    """Steps whose outcomes the assembler has not acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among the ranks, and what it talks to."""

    rank: int
    world_size: int
    bus: Bus | None
    """None on ranks that do not publish."""
    store: BlobStore
    client: BatchClient
    status: StatusFile | None
    identity: RunIdentity


class Learner:
    """One rank of the learner."""

    def __init__(self, settings: RunFile, engine: PolicyEngine, place: Place) -> None:
        self._settings = settings
        self._engine = engine
        self._place = place
        self._rules = engine.policy.packing_rules()
        self._images = ImageLoader(settings.model.path, place.store.read_image)
        self._folder = settings.run.folder / "checkpoints"
        self._progress = Progress()
        self._phases: dict[str, float] = {}
        self._checkpoint_phase: dict[str, float] = {}
        """Seconds of a checkpoint, for the report of the step after it."""

    def run(self) -> None:
        """Train until the last step, or until told to stop; resumes from the newest checkpoint.

        Raises:
            UserError: the checkpoint belongs to another run, or the disk is full.
        """
        self._resume()
        try:
            self._place.client.attach(self._progress.ledger)
            self._commit()
            self._publish_policy(self._progress.ledger.step)
            for step in range(self._progress.ledger.step + 1, self._settings.run.steps + 1):
                batch = self._next_batch(step)
                result = self._train(batch)
                self._settle(batch)
                self._publish_policy(step)
                self._publish_report(batch, result)
                if step % self._settings.learner.checkpoint_every == 0 or step == self._settings.run.steps:
                    self._checkpoint()
                    self._commit()
        except StoppedError:
            LOG.info("told to stop after step %d", self._progress.ledger.step)
        if self._progress.ledger.step > self._progress.durable.step:
            self._checkpoint()
        self._report("done")

    # The steps of the loop -----------------------------------------------------------------------

    def _resume(self) -> None:
        found = find_checkpoints(self._folder)
        if not found:
            return
        bookkeeping = read_bookkeeping(found[-1], self._place.identity)
        self._engine.load_state(found[-1])
        restore_rng(found[-1], self._place.rank)
        self._progress = Progress(ledger=bookkeeping.ledger, durable=bookkeeping.ledger, pending=bookkeeping.pending)
        LOG.info("resumed at step %d from %s", bookkeeping.ledger.step, found[-1])

    def _next_batch(self, step: int) -> Batch:
        """The batch of a step; ranks that were given different batches (after a restart) ask again."""
        started = time.monotonic()
        self._phases, self._checkpoint_phase = self._checkpoint_phase, {}
        while True:
            batch: Batch | None = None
            try:
                batch = self._place.client.next_batch(step, self._place.rank)
            except StoppedError:
                LOG.info("stopped while waiting for the batch of step %d", step)
            answers = set(gather_bytes(_digest(batch)))
            if b"stopped" in answers:
                raise StoppedError
            if len(answers) == 1:
                break
        assert batch is not None, "no rank stopped"
        self._phases["wait"] = time.monotonic() - started
        return batch

    def _train(self, batch: Batch) -> StepResult:
        started = time.monotonic()
        self._report("ready")
        images = [[self._images.load(image) for image in group.images] for group in batch.groups]
        micro_batches = pack_groups(batch.groups, images, batch.num_micro_batches, self._rules)
        self._phases["pack"] = time.monotonic() - started
        result = train_step(
            self._engine,
            micro_batches,
            step=batch.step,
            num_global_tokens=batch.num_global_tokens,
            settings=self._settings.learner,
        )
        self._phases["forward_backward"] = result.forward_backward_seconds
        self._phases["optimizer"] = result.optimizer_seconds
        return result

    def _settle(self, batch: Batch) -> None:
        """Enter the batch into the ledger in memory."""
        before = self._progress.ledger
        settled, dropped = IntervalSet(before.settled), IntervalSet(before.dropped)
        for number in batch.dropped:
            settled.add(number)
            dropped.add(number)
        for number in batch.trained:
            settled.add(number)
        parts = gather_bytes(
            batch_codecs.committed_step_to_message(committed_step(batch)).SerializeToString(deterministic=True)
        )
        step = batch_codecs.merge_committed_steps(parts)
        self._progress.ledger = Ledger(
            step=batch.step, settled=settled.intervals, dropped=dropped.intervals, offsets=batch.offsets
        )
        self._progress.pending = (*self._progress.pending, step)
        self._place.client.ledger = self._progress.ledger

    def _publish_policy(self, version: int) -> None:
        started = time.monotonic()
        tensors = self._engine.full_weights()
        if self._place.bus is not None:
            weights = publish_weights(self._place.store, version, tensors)
            self._place.bus.publish(
                POLICY,
                PolicyVersion(
                    run=self._settings.run.id,
                    weights=weights,
                    total_steps=self._settings.run.steps,
                    settled=self._progress.durable.settled,
                    dropped=self._progress.durable.dropped,
                    created_ns=time.time_ns(),
                ),
            )
            self._place.bus.flush()
            remove_old_weights(self._place.store, version, self._settings)
        self._report("ready", version=version, total=self._settings.run.steps)
        self._phases["publish"] = time.monotonic() - started

    def _publish_report(self, batch: Batch, result: StepResult) -> None:
        report = step_report(self._settings, batch, result, self._phases)
        if self._place.bus is not None:
            self._place.bus.publish(STEPS, report)
            self._place.bus.flush()
            metrics = report.metrics
            self._report(
                "ready",
                reward=mean_rewards(batch),
                tokens_per_second=metrics["tokens_per_second"],
                staleness=report.max_age,
            )
            LOG.info(
                "step %d/%d loss %.4f grad norm %.3f, %.0f tokens/s",
                report.step, report.total_steps, metrics["loss"], metrics["grad_norm"], metrics["tokens_per_second"],
            )  # fmt: skip

    def _checkpoint(self) -> None:
        started = time.monotonic()
        write_checkpoint(
            self._folder,
            self._place.identity,
            Bookkeeping(ledger=self._progress.ledger, pending=self._progress.pending),
            self._engine.save_state,
            rank=self._place.rank,
            barrier=_barrier,
        )
        self._progress.durable = self._progress.ledger
        if self._place.rank == 0:
            remove_old_checkpoints(self._folder, self._settings.learner.keep_checkpoints)
        self._checkpoint_phase = {"checkpoint": time.monotonic() - started}
        LOG.info("checkpoint of step %d in %.2f s", self._progress.ledger.step, self._checkpoint_phase["checkpoint"])

    def _commit(self) -> None:
        """Give the outcomes of durable steps to the assembler."""
        if self._place.rank == 0 and self._progress.pending:
            self._place.client.commit(self._progress.pending, self._progress.durable)
        self._progress.pending = ()

    def _report(self, state: str, waiting_for: str = "", **facts: object) -> None:
        if self._place.status is not None:
            self._place.status.report(state, waiting_for, **facts)


def _digest(batch: Batch | None) -> bytes:
    """What must be equal on all ranks; it tells batches apart that different assemblers built."""
    if batch is None:
        return b"stopped"
    return hashlib.sha256(repr((batch.step, batch.trained, batch.dropped, batch.num_global_tokens)).encode()).digest()


def _barrier() -> None:
    gather_bytes(b"")
