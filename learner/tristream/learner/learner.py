"""The learner: takes a batch, updates the policy, publishes it, and makes it durable.

    assembler --batch--> pack --> train_step --> weights --> policy, steps
                                      |
                                      +--> checkpoint (every N, last, on stop) --> commit --> assembler

Invariants: the outcomes of a step go to the assembler only when a checkpoint that covers it is durable;
they are in that checkpoint too, so that a crash in between repeats them. All ranks run the same steps,
checkpoints and collectives, and know the outcomes of the whole batch; rank 0 alone publishes and commits.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tristream.config.parts import LearnerSettings
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.batch_client import BatchClient, StoppedError
from tristream.learner.checkpoints import (
    RunIdentity,
    read_commit,
    remove_old_checkpoints,
    restore_rng,
    write_checkpoint,
)
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.reports import report_measures, step_report
from tristream.learner.standing import Standing
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.distributed import gather_rows, wait_for_all_ranks
from tristream.learner.training.packing import pack_groups
from tristream.learner.training.train_step import BatchSize, StepResult, train_step
from tristream.learner.weights import publish_weights, remove_old_weights
from tristream.policy.images import ImageLoader
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.batches import Batch, Commit
from tristream.wire.events import Outcome, PartState, PolicyVersion
from tristream.wire.topics import POLICY, STEPS

LOG = logging.getLogger("tristream.learner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """What one rank talks to."""

    rank: int
    bus: Bus | None
    """None on ranks that do not publish."""
    store: BlobStore
    client: BatchClient
    reporter: PartReporter | None
    """None on ranks that do not tell what they do."""


class Learner:
    """One rank of the learner."""

    def __init__(
        self, settings: LearnerSettings, engine: TrainingEngine, connections: Connections, identity: RunIdentity
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._connections = connections
        self._identity = identity
        self._algorithm = make_algorithm(settings.learner.algorithm)
        self._rules = engine.policy.packing_rules()
        self._images = ImageLoader(settings.model.path, connections.store.read_image)
        self._standing = Standing()
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
            self._connections.client.attach(self._standing.ledger)
            self._commit()
            self._publish_policy(self._standing.ledger.step)
            for step in range(self._standing.ledger.step + 1, self._settings.run.steps + 1):
                self._run_step(self._next_batch(step))
                if step % self._settings.learner.checkpoint_every == 0 or step == self._settings.run.steps:
                    self._checkpoint()
                    self._commit()
        except StoppedError:
            LOG.info("told to stop after step %d", self._standing.ledger.step)
        if self._standing.has_steps_to_save:
            self._checkpoint()
        self._report(PartState.DONE)

    # The steps of the loop -----------------------------------------------------------------------

    def _resume(self) -> None:
        found = self._settings.run.folder.find_checkpoints()
        if not found:
            return
        self._standing = Standing.resumed(read_commit(found[-1], self._identity))
        self._engine.load_state(found[-1])
        restore_rng(found[-1], self._connections.rank)
        LOG.info("resumed at step %d from %s", self._standing.ledger.step, found[-1])

    def _next_batch(self, step: int) -> Batch:
        """The batch of a step; ranks that were given different batches (after a restart) ask again."""
        started = time.monotonic()
        self._phases, self._checkpoint_phase = self._checkpoint_phase, {}
        while True:
            batch: Batch | None = None
            try:
                batch = self._connections.client.next_batch(step, self._connections.rank)
            except StoppedError:
                LOG.info("stopped while waiting for the batch of step %d", step)
            digests = {tuple(digest) for digest in gather_rows(_digest(batch)).tolist()}
            if not all(any(digest) for digest in digests):
                raise StoppedError
            if len(digests) == 1:
                break
        assert batch is not None, "no rank stopped"
        self._phases["wait"] = time.monotonic() - started
        return batch

    def _run_step(self, batch: Batch) -> None:
        outcomes = with_advantages(batch.outcomes, self._algorithm.advantages)
        result = self._train(batch, outcomes)
        self._standing = self._standing.after_step(batch, outcomes)
        self._connections.client.ledger = self._standing.ledger
        self._publish_policy(batch.step)
        self._publish_report(batch, outcomes, result)

    def _train(self, batch: Batch, outcomes: tuple[Outcome, ...]) -> StepResult:
        started = time.monotonic()
        self._report(PartState.READY)
        unique = {image.sha256: image for group in batch.groups for r in group.rollouts for image in r.images}
        images = {sha256: self._images.load(image) for sha256, image in unique.items()}
        micro_batches = pack_groups(
            batch.groups, images, advantage_by_rollout(outcomes), batch.num_micro_batches, self._rules
        )
        self._phases["pack"] = time.monotonic() - started
        result = train_step(
            self._engine,
            micro_batches,
            self._algorithm,
            step=batch.step,
            size=BatchSize(num_tokens=batch.num_global_tokens, num_rollouts=batch.num_global_rollouts),
            settings=self._settings.learner,
        )
        self._phases["forward_backward"] = result.forward_backward_seconds
        self._phases["optimizer"] = result.optimizer_seconds
        return result

    def _publish_policy(self, version: int) -> None:
        started = time.monotonic()
        tensors = self._engine.full_weights()
        if self._connections.bus is not None:
            weights = publish_weights(self._connections.store, version, tensors)
            self._connections.bus.publish(
                POLICY,
                PolicyVersion(
                    run=self._settings.run.id,
                    weights=weights,
                    total_steps=self._settings.run.steps,
                    settled=self._standing.durable.settled,
                    dropped=self._standing.durable.dropped,
                    created_ns=time.time_ns(),
                ),
            )
            self._connections.bus.flush()
            remove_old_weights(self._connections.store, version, self._settings)
        self._report(
            PartState.READY, measures={"version": float(version), "total_steps": float(self._settings.run.steps)}
        )
        self._phases["publish"] = time.monotonic() - started

    def _publish_report(self, batch: Batch, outcomes: tuple[Outcome, ...], result: StepResult) -> None:
        report = step_report(self._settings.run, batch, outcomes, result, self._phases)
        if self._connections.bus is None:
            return
        self._connections.bus.publish(STEPS, report)
        self._connections.bus.flush()
        self._report(PartState.READY, measures=report_measures(report))
        metrics = report.metrics
        LOG.info(
            "step %d/%d loss %.4f grad norm %.3f, %.0f tokens/s",
            report.step, report.total_steps, metrics["loss"], metrics["grad_norm"], metrics["tokens_per_second"],
        )  # fmt: skip

    def _checkpoint(self) -> None:
        started = time.monotonic()
        folder = self._settings.run.folder
        write_checkpoint(
            folder,
            self._identity,
            self._standing.checkpoint,
            self._engine.save_state,
            rank=self._connections.rank,
            barrier=wait_for_all_ranks,
        )
        self._standing = self._standing.after_checkpoint()
        if self._connections.rank == 0:
            remove_old_checkpoints(folder, self._settings.learner.keep_checkpoints)
        self._checkpoint_phase = {"checkpoint": time.monotonic() - started}
        LOG.info("checkpoint of step %d in %.2f s", self._standing.ledger.step, self._checkpoint_phase["checkpoint"])

    def _commit(self) -> None:
        """Give the outcomes of durable steps to the assembler."""
        if self._connections.rank == 0 and self._standing.pending:
            self._connections.client.commit(Commit(ledger=self._standing.durable, steps=self._standing.pending))
        self._standing = self._standing.after_commit()

    def _report(self, state: PartState, *, measures: Mapping[str, float] | None = None) -> None:
        if self._connections.reporter is not None:
            self._connections.reporter.report(state, measures=measures)


def _digest(batch: Batch | None) -> Tensor:
    """What must be equal on all ranks, shape [1, 32]: it tells batches of different assemblers apart; 0 is a stop."""
    if batch is None:
        return torch.zeros(1, hashlib.sha256().digest_size, dtype=torch.uint8)
    agreed = repr((batch.step, batch.trained, batch.dropped, batch.num_global_tokens))
    return torch.frombuffer(bytearray(hashlib.sha256(agreed.encode()).digest()), dtype=torch.uint8)[None]
