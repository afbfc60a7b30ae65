"""The learner: takes a batch, updates the policy, publishes it, and makes it durable.

    assembler --batch--> pack --> train_step --> weights --> policy, steps
                                      |
                                      +--> checkpoint (every N, last, on stop) --> commit --> policy, durable
                                                                                      |
                                                                                      v
                                                                                  assembler

Invariants: the outcomes of a step go to the assembler only when a checkpoint that covers it is durable;
they are in that checkpoint too, so that a crash in between repeats them. All ranks run the same steps,
checkpoints and collectives, and know the outcomes of the whole batch; rank 0 alone publishes and commits, under
its lease, and what it meets meanwhile all ranks are told.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tristream.config.parts import LearnerSettings
from tristream.learner.algorithms.registry import make_algorithm
from tristream.learner.batch_client import BatchClient
from tristream.learner.batch_feed import BatchFeed
from tristream.learner.checkpoints import (
    RunIdentity,
    read_commit,
    remove_old_checkpoints,
    restore_rng,
    take_over,
    write_checkpoint,
)
from tristream.learner.outcomes import advantage_by_rollout, with_advantages
from tristream.learner.publishing import Office, Publisher
from tristream.learner.ranks import Ranks
from tristream.learner.reports import explain_skip, report_measures, step_report
from tristream.learner.standing import Standing
from tristream.learner.training.deepspeed_engine import TrainingEngine
from tristream.learner.training.flops import ModelFlops
from tristream.learner.training.packing import MicroBatch, PackingPlan, pack_plan, plan_groups
from tristream.learner.training.policy_check import check_on_batch
from tristream.learner.training.reference_policy import load_reference
from tristream.learner.training.sequences import RolloutKey
from tristream.learner.training.train_step import StepResult
from tristream.learner.training.updates import (
    Answers,
    Update,
    answers_of,
    left_out_of,
    run_updates,
    size_of,
    split_numbers,
)
from tristream.policy.image_header import MAX_IMAGE_PIXELS
from tristream.policy.images import ImageLoader, PolicyInputError, ProcessedImage
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.store import BlobStore
from tristream.wire.batches import Batch, Commit, TrainingGroup
from tristream.wire.events import Image, Outcome, PartState

LOG = logging.getLogger("tristream.learner")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connections:
    """What one rank talks to."""

    ranks: Ranks
    epoch: int
    """Epoch of the learner, on all ranks."""
    office: Office | None
    """None on all ranks but rank 0."""
    store: BlobStore
    client: BatchClient


class Learner:
    """One rank of the learner."""

    def __init__(
        self,
        settings: LearnerSettings,
        engine: TrainingEngine,
        connections: Connections,
        identity: RunIdentity,
        *,
        flops: ModelFlops,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._ranks = connections.ranks
        self._epoch = connections.epoch
        self._office = connections.office
        self._publisher = None if self._office is None else Publisher(settings, self._office, connections.store)
        self._client = connections.client
        self._feed = BatchFeed(self._client, self._ranks, groups_per_step=settings.rollout.groups_per_step)
        self._identity = identity
        self._algorithm = make_algorithm(settings.learner.algorithm, max_tokens=settings.rollout.max_tokens)
        self._reference = load_reference(settings, engine.policy)
        self._rules = engine.policy.packing_rules()
        self._flops = flops
        self._images = ImageLoader(
            settings.model.path,
            connections.store.read_image,
            # What producers took under an earlier bound is no reason to end.
            max_pixels=max(MAX_IMAGE_PIXELS, settings.rollout.max_image_pixels),
        )
        self._standing = Standing()
        self._is_checked = False
        self._num_skipped_updates = 0.0
        self._phases: dict[str, float] = {}
        self._checkpoint_phase: dict[str, float] = {}
        """Seconds of a checkpoint, for the report of the step after it."""

    def run(self) -> None:
        """Train until the last step, or until told to stop; resumes from the newest checkpoint.

        Raises:
            UserError: the checkpoint belongs to another run, or another learner has taken over.
            TryAgainError: the assembler gives what must not be trained, or another rank failed.
        """
        every, total = self._settings.learner.checkpoint_every, self._settings.run.steps
        try:
            self._resume()
            self._feed.attach(self._standing.ledger)
            self._commit()
            self._publish_version(self._standing.ledger.step)
            for step in range(self._standing.ledger.step + 1, total + 1):
                self._run_step(self._next_batch())
                if step % every == 0 or step == total:
                    self._checkpoint()
                    self._commit()
                    self._publish(lambda publisher: publisher.announce(self._standing.durable))
        except StoppedError:
            LOG.info("told to stop after step %d", self._standing.ledger.step)
        self._save_on_stop()

    # The steps of the loop -----------------------------------------------------------------------

    def _resume(self) -> None:
        folder = self._settings.run.folder

        def find_newest() -> Path | None:
            take_over(folder, self._epoch)
            return next(reversed(folder.find_checkpoints()), None)

        newest = self._ranks.on_rank_0(find_newest)
        if newest is None:
            return
        self._ranks.together(lambda: self._restore(newest))
        LOG.info("resumed at step %d from %s", self._standing.ledger.step, newest)

    def _restore(self, checkpoint: Path) -> None:
        self._standing = Standing.resumed(read_commit(checkpoint, self._identity))
        self._engine.load_state(checkpoint)
        restore_rng(checkpoint, self._ranks.rank)

    def _next_batch(self) -> Batch:
        started = time.monotonic()
        self._phases, self._checkpoint_phase = self._checkpoint_phase, {}
        batch = self._feed.next_batch(self._standing.ledger)
        self._phases["wait"] = time.monotonic() - started
        return batch

    def _run_step(self, batch: Batch) -> None:
        answers = self._gather_answers(batch.groups)
        penalties = {key: self._algorithm.penalty(answer.num_tokens) for key, answer in answers.items()}
        outcomes = with_advantages(batch.outcomes, self._algorithm.advantages, penalties)
        result = self._train(batch, outcomes, answers)
        self._standing = self._standing.after_step(batch, outcomes, epoch=self._epoch)
        self._publish_version(batch.step)
        self._publish_report(batch, outcomes, result)

    def _gather_answers(self, groups: Sequence[TrainingGroup]) -> Answers:
        """What the algorithm must know of the rollouts of all ranks."""
        of_ranks = self._ranks.together(lambda: answers_of(groups))
        return {key: answer for of_rank in of_ranks for key, answer in of_rank.items()}

    def _train(self, batch: Batch, outcomes: tuple[Outcome, ...], answers: Answers) -> StepResult:
        started = time.monotonic()
        self._report(PartState.READY)
        images = self._load_images(batch)
        self._check_once(batch, images)
        advantages = advantage_by_rollout(outcomes)
        left_out = left_out_of(answers, self._algorithm)
        updates = [
            Update(
                micro_batches=self._pack(
                    [group for group in batch.groups if group.group.number in numbers], images, advantages
                ),
                size=size_of(answers, numbers, left_out),
                left_out=left_out,
            )
            for numbers in split_numbers(batch.trained, self._algorithm.updates_per_batch)
        ]
        self._phases["pack"] = time.monotonic() - started
        result = run_updates(self._engine, updates, self._algorithm, self._reference, step=batch.step)
        self._phases["forward_backward"] = result.forward_backward_seconds
        self._phases["optimizer"] = result.optimizer_seconds
        return result

    def _pack(
        self,
        groups: Sequence[TrainingGroup],
        images: Mapping[str, ProcessedImage],
        advantages: Mapping[RolloutKey, float],
    ) -> list[MicroBatch]:
        """Groups of this rank as micro-batches within the budget, equally many on all ranks."""
        plan = PackingPlan(micro_batches=())

        def make_plan() -> int:
            nonlocal plan
            max_tokens = self._settings.learner.micro_batch_tokens
            plan = plan_groups(groups, images, advantages, max_tokens, self._rules)
            return len(plan.micro_batches)

        num_micro_batches = max(1, *self._ranks.together(make_plan))
        return pack_plan(plan, num_micro_batches, self._rules)

    def _check_once(self, batch: Batch, images: Mapping[str, ProcessedImage]) -> None:
        """Hold packed rollouts of the first batch against the model's own forward pass."""
        if self._is_checked or self._settings.learner.zero_stage == 3:  # where parameters are in pieces
            return
        self._ranks.together(lambda: check_on_batch(self._engine.policy, batch.groups, images))
        self._is_checked = True

    def _load_images(self, batch: Batch) -> dict[str, ProcessedImage]:
        """The images of this rank's groups by sha256; all ranks wait for the store together."""
        unique = {image.sha256: image for group in batch.groups for r in group.rollouts for image in r.images}
        images: dict[str, ProcessedImage] = {}

        def load() -> None:
            for sha256, image in unique.items():
                images[sha256] = self._load_image(image)

        self._ranks.together(load)
        return images

    def _load_image(self, image: Image) -> ProcessedImage:
        try:
            return self._images.load(image)
        except PolicyInputError as error:
            raise UserError(
                f"image {image.sha256[:12]} of a batch cannot be read ({error})",
                where=f"step {self._standing.ledger.step + 1}",
                remedy="give rollout.max_image_pixels and the model's image processor that the producers have",
            ) from None

    def _publish_version(self, version: int) -> None:
        started = time.monotonic()
        tensors = self._engine.full_weights()
        self._publish(lambda publisher: publisher.write_weights(version, tensors))
        self._publish(lambda publisher: publisher.announce(self._standing.durable))
        self._report(
            PartState.READY, measures={"version": float(version), "total_steps": float(self._settings.run.steps)}
        )
        self._phases["publish"] = time.monotonic() - started

    def _publish_report(self, batch: Batch, outcomes: tuple[Outcome, ...], result: StepResult) -> None:
        report = step_report(self._settings.run, batch, outcomes, result, self._phases, self._flops)
        self._publish(lambda publisher: publisher.report(report))
        metrics = report.metrics
        self._num_skipped_updates += metrics["skipped_updates"]
        self._report(
            PartState.READY, measures=report_measures(report) | {"num_skipped_updates": self._num_skipped_updates}
        )
        LOG.info(
            "step %d/%d loss %.4f grad norm %.3f, %.0f tokens/s",
            report.step, report.total_steps, metrics["loss"], metrics["grad_norm"], metrics["tokens_per_second"],
        )  # fmt: skip
        if reason := explain_skip(metrics):
            LOG.warning("the update of step %d was left out: %s", report.step, reason)

    def _checkpoint(self) -> None:
        started = time.monotonic()
        folder = self._settings.run.folder
        write_checkpoint(
            folder,
            self._identity,
            self._standing.checkpoint,
            self._engine.save_state,
            ranks=self._ranks,
            epoch=self._epoch,
            check=self._check,
        )
        self._standing = self._standing.after_checkpoint()
        self._ranks.on_rank_0(
            lambda: remove_old_checkpoints(folder, self._settings.learner.keep_checkpoints, epoch=self._epoch)
        )
        self._checkpoint_phase = {"checkpoint": time.monotonic() - started}
        LOG.info("checkpoint of step %d in %.2f s", self._standing.ledger.step, self._checkpoint_phase["checkpoint"])

    def _commit(self) -> None:
        """Give the outcomes of durable steps to the assembler."""
        if self._standing.pending:
            commit = Commit(ledger=self._standing.durable, steps=self._standing.pending)
            self._ranks.on_rank_0(lambda: self._client.commit(commit))
        self._standing = self._standing.after_commit()

    def _save_on_stop(self) -> None:
        if not self._standing.has_steps_to_save:
            return
        try:
            self._checkpoint()
        except StoppedError:
            LOG.warning(
                "step %d is not in a checkpoint, since there was no space for one; a resume begins at step %d",
                self._standing.ledger.step, self._standing.durable.step,
            )  # fmt: skip

    # Rank 0 --------------------------------------------------------------------------------------

    def _publish(self, work: Callable[[Publisher], None]) -> None:
        """Publish on rank 0, while the others wait; what keeps it from that is told to all."""
        publisher = self._publisher
        self._ranks.on_rank_0(lambda: work(publisher) if publisher is not None else None)

    def _check(self) -> None:
        if self._office is not None:
            self._office.lease.check()

    def _report(self, state: PartState, *, measures: Mapping[str, float] | None = None) -> None:
        if self._office is not None:
            self._office.reporter.report(state, measures=measures)
