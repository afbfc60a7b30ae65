"""Prompts in, rollouts out: each prompt gets all its rollouts, whatever becomes of it.

    encode -> wait for its weights -> all rollouts at once -> each is published as it ends

A prompt that cannot be answered gets failed rollouts, which say why, and the prompts beside it are answered. An engine
that fails does not say which request did it: then what it lost is answered anew, one group after the other, and what
fails alone is to blame.
"""

import asyncio
import logging
from collections.abc import Iterable

from tristream.producer.delivering import Deliverer, UnsendableError
from tristream.producer.engine_guard import EngineGuard
from tristream.producer.engines.protocol import EngineFailedError
from tristream.producer.measuring import Meter
from tristream.producer.rollout_making import describe, without_truth
from tristream.producer.rollout_running import EncodedGroup, RolloutRunner
from tristream.producer.weights_keeping import WeightsGoneError, WeightsKeeper
from tristream.runtime.errors import StoppedError
from tristream.wire.events import FinishReason, Prompt, Rollout, Split

LOG = logging.getLogger("tristream.producer")


class Answerer:
    """Answers prompts, any number at once.

    Args:
        runner: makes rollouts.
        keeper: of the weights.
        guard: of the engine.
        deliverer: takes rollouts to the bus.
        meter: counts what is done.
        max_staleness: largest age of a training rollout in policy versions.
        progress: is set whenever a rollout is made.
    """

    def __init__(
        self,
        runner: RolloutRunner,
        keeper: WeightsKeeper,
        guard: EngineGuard,
        deliverer: Deliverer,
        meter: Meter,
        *,
        max_staleness: int,
        progress: asyncio.Event,
    ) -> None:
        self._runner = runner
        self._keeper = keeper
        self._guard = guard
        self._deliverer = deliverer
        self._meter = meter
        self._max_staleness = max_staleness
        self._progress = progress

    async def answer(self, prompt: Prompt) -> None:
        """Deliver all rollouts of a prompt; returns once all are acknowledged.

        Raises:
            BusError: publishing failed for good.
            StoppedError: told to stop while the store or the broker was away.
        """
        async with asyncio.TaskGroup() as deliveries:
            work = _Work(prompt, deliveries)
            try:
                group = await self._runner.encode(prompt)
                async with self._keeper.using(
                    pinned=prompt.pinned_weights,
                    oldest_version=self._oldest_fresh_version(prompt),
                    num_rollouts=prompt.group.size,
                ):
                    await self._generate(group, work)
            except StoppedError:
                raise
            except WeightsGoneError as error:
                self._fail(work, work.left, f"it asks for weights that are gone: {error}")
            except Exception as error:  # poison comes in every shape, and concerns this prompt alone
                self._fail(work, work.left, describe(error))
        if work.is_to_blame:
            self._guard.note_failure(work.engine_failure)
        if work.reasons:
            LOG.warning(
                "%d of %d rollouts of prompt %s of source %s failed: %s",
                len(work.reasons), prompt.group.size, prompt.group.id, prompt.group.source, work.reasons[0],
            )  # fmt: skip
            self._meter.note_failures(len(work.reasons), is_whole_prompt=len(work.reasons) == prompt.group.size)

    def _oldest_fresh_version(self, prompt: Prompt) -> int:
        """Oldest version that is within the staleness bound at the step that a prompt is for."""
        if prompt.group.split is not Split.TRAIN or prompt.pinned_weights is not None:
            return 0
        return max(0, prompt.progress.step - 1 - self._max_staleness)

    async def _generate(self, group: EncodedGroup, work: "_Work") -> None:
        """Make the rollouts together with those of other groups; those that are lost again, with no other group."""
        async with self._guard.together():
            await self._run_all(group, work)
        if not work.left:
            return
        LOG.warning("the engine failed (%s); %s is answered anew, alone", work.engine_failure, group.prompt.group.id)
        async with self._guard.alone():
            await self._run_all(group, work)
            if work.left:
                work.is_to_blame = True
                self._fail(work, work.left, f"the engine failed: {work.engine_failure}")

    async def _run_all(self, group: EncodedGroup, work: "_Work") -> None:
        async with asyncio.TaskGroup() as rollouts:
            for index in sorted(work.left):
                rollouts.create_task(self._run(group, index, work))

    async def _run(self, group: EncodedGroup, index: int, work: "_Work") -> None:
        try:
            rollout = await self._runner.run(group, index)
        except EngineFailedError as error:
            work.engine_failure = describe(error)
            return
        if rollout.segments:
            self._guard.note_answer()
        self._hand_over(work, rollout)

    def _fail(self, work: "_Work", indexes: Iterable[int], reason: str) -> None:
        for index in sorted(indexes):
            self._hand_over(work, self._runner.fail(work.prompt, index, reason))

    def _hand_over(self, work: "_Work", rollout: Rollout) -> None:
        """Let a rollout be delivered while others are made."""
        work.left.discard(rollout.index)
        self._meter.note_generated(rollout)
        self._progress.set()
        work.deliveries.create_task(self._deliver(work, rollout))

    async def _deliver(self, work: "_Work", rollout: Rollout) -> None:
        if rollout.finish_reason is not FinishReason.ERROR:
            try:
                await self._deliverer.deliver(rollout)
            except UnsendableError as error:  # it concerns this one alone
                rollout = self._runner.fail(work.prompt, rollout.index, str(error))
            else:
                self._meter.note_delivered(rollout)
                return
        work.reasons.append(rollout.error)
        try:
            await self._deliverer.deliver(rollout)
        except UnsendableError:
            await self._deliverer.deliver(without_truth(rollout))


class _Work:
    """One prompt in work."""

    def __init__(self, prompt: Prompt, deliveries: asyncio.TaskGroup) -> None:
        self.prompt = prompt
        self.deliveries = deliveries
        self.reasons: list[str] = []
        """Why rollouts failed, of those that did."""
        self.left = set(range(prompt.group.size))
        """Rollouts that are still to be made."""
        self.engine_failure = ""
        self.is_to_blame = False
        """Whether the engine failed at it while nothing else was in work."""
