"""The producer: takes prompts as there is room, answers each G times, publishes each rollout as it ends.

    take prompts --> answer each (encode, wait for weights, G rollouts at once) --> delivered --> commit in order
                                        ^
    follow the policy --> new weights while rollouts run

Prompts are committed only after their rollouts are acknowledged: a producer that dies leaves its
prompts to the next one, once its session has timed out. A prompt may so be answered twice, with the same
identities. Every prompt taken is answered: one that cannot be answered gets empty rollouts that finish with
``error`` and say why.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from tristream.config.rollout import RolloutSection
from tristream.policy.prompt_encoder import PromptEncoder
from tristream.producer.answering import Answerer
from tristream.producer.daemon_threads import DaemonThreads
from tristream.producer.delivering import Deliverer
from tristream.producer.engine_guard import EngineGuard
from tristream.producer.engines.protocol import Engine
from tristream.producer.environments.contract import Environment
from tristream.producer.measuring import Meter
from tristream.producer.policy_following import PolicyFollower
from tristream.producer.prompt_reading import PromptReader
from tristream.producer.reporting import ProducerReport
from tristream.producer.rollout_making import describe
from tristream.producer.rollout_running import RolloutRunner
from tristream.producer.weights_keeping import WeightsKeeper
from tristream.runtime.bus.protocol import Bus
from tristream.runtime.errors import StoppedError
from tristream.runtime.status import PartReporter
from tristream.runtime.store import BlobStore
from tristream.wire.events import PartState, Prompt

LOG = logging.getLogger("tristream.producer")

COMMIT_SECONDS = 0.2
"""Least time between two commits."""
STAY_SECONDS = 1.0
"""How often a producer without room says that it is still in its group."""
STOP_CHECK_SECONDS = 0.1
CLOSE_SECONDS = 5.0
"""How long the engine and the readers may take to close."""


class Producer:
    """Answers the prompts of one run until it is stopped.

    Args:
        rollout: how prompts are answered.
        bus: where prompts come from and rollouts go.
        blobs: where images and weights are.
        encoder: of the model.
        engine: samples.
        reporter: tells what is done.
        environments: how rollouts go on, by source; of other sources the policy answers once.
    """

    def __init__(
        self,
        rollout: RolloutSection,
        bus: Bus,
        blobs: BlobStore,
        encoder: PromptEncoder,
        engine: Engine,
        reporter: PartReporter,
        environments: Mapping[str, Environment] | None = None,
    ) -> None:
        self._rollout = rollout
        self._bus = bus
        self._blobs = blobs
        self._encoder = encoder
        self._engine = engine
        self._instance = reporter.instance
        self._environments = environments or {}
        self._meter = Meter(engine=engine)
        self._report = ProducerReport(reporter, self._meter)
        self._deliverer = Deliverer(bus)
        self._guard = EngineGuard()
        self._capacity = engine.max_running + look_ahead(engine.max_running, rollout.group_size)
        self._delivered: list[str] = []
        """Groups that are delivered and not yet committed."""
        self._committed_at = self._stayed_at = time.monotonic()
        self._progress = asyncio.Event()
        """Something was made or delivered."""

    def run(self, stop: threading.Event) -> None:
        """Answer prompts until a stop is asked for; the topics exist.

        Raises:
            TryAgainError: the group of the producers makes no progress, or the engine answers nothing.
            BusError: the broker lost something for good.
        """
        self._report.tell(PartState.STARTING, "what the learner announced")
        with suppress(StoppedError):
            asyncio.run(self._run(stop))
        self._report.tell(PartState.DONE)

    async def _run(self, stop: threading.Event) -> None:
        policy_thread, prompt_thread = DaemonThreads("policy"), DaemonThreads("prompts")
        policy = await policy_thread.do(partial(PolicyFollower, self._bus))
        reader = await prompt_thread.do(partial(PromptReader, self._bus, partial(self._report.say, "prompts")))
        keeper = WeightsKeeper(
            self._engine,
            self._blobs,
            policy,
            max_staleness=self._rollout.max_staleness,
            say=partial(self._report.say, "weights"),
            stop=stop,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(raise_on(stop))
                tasks.create_task(keeper.follow(policy_thread))
                tasks.create_task(keeper.keep())
                tasks.create_task(self._report.tell_for_ever())
                answerer = self._make_answerer(keeper, stop)
                await self._answer_for_ever(reader, prompt_thread, keeper, answerer, tasks)
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            await self._end(reader, prompt_thread, policy, policy_thread)

    async def _answer_for_ever(
        self,
        reader: PromptReader,
        thread: DaemonThreads,
        keeper: WeightsKeeper,
        answerer: Answerer,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Take prompts as there is room for them, and commit those that are delivered."""
        while True:
            await self._commit(reader, thread)
            self._guard.require_engine()
            room = self._room(keeper)
            if room > 0:
                max_prompts = max(1, room // self._rollout.group_size)
                for prompt in await thread.do(partial(reader.take, max_prompts)):
                    self._meter.note_taken(prompt)
                    tasks.create_task(self._answer(prompt, answerer))
            else:
                await self._wait_for_room(reader, thread)

    async def _answer(self, prompt: Prompt, answerer: Answerer) -> None:
        await answerer.answer(prompt)
        self._delivered.append(prompt.group.id)
        self._progress.set()

    def _room(self, keeper: WeightsKeeper) -> int:
        """Rollouts that more prompts may ask for; none while the broker does not take those that are made.

        Prompts that wait for weights take no room of others, up to a limit.
        """
        if self._deliverer.num_in_flight > self._capacity:
            return 0
        return self._capacity - self._meter.num_unfinished + min(keeper.num_blocked, self._capacity)

    async def _commit(self, reader: PromptReader, thread: DaemonThreads) -> None:
        now = time.monotonic()
        if self._delivered and now - self._committed_at >= COMMIT_SECONDS:
            delivered, self._delivered, self._committed_at = self._delivered, [], now
            await thread.do(partial(reader.commit, delivered))

    async def _wait_for_room(self, reader: PromptReader, thread: DaemonThreads) -> None:
        self._progress.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(COMMIT_SECONDS):
                await self._progress.wait()
        if time.monotonic() - self._stayed_at >= STAY_SECONDS:
            self._stayed_at = time.monotonic()
            await thread.do(reader.stay)

    def _make_answerer(self, keeper: WeightsKeeper, stop: threading.Event) -> Answerer:
        runner = RolloutRunner(
            self._blobs,
            self._encoder,
            self._engine,
            environments=self._environments,
            max_seconds=self._rollout.max_seconds,
            instance=self._instance,
            say=partial(self._report.say, "images"),
            stop=stop,
        )
        return Answerer(
            runner,
            keeper,
            self._guard,
            self._deliverer,
            self._meter,
            max_staleness=self._rollout.max_staleness,
            progress=self._progress,
        )

    async def _end(
        self, reader: PromptReader, prompt_thread: DaemonThreads, policy: PolicyFollower, policy_thread: DaemonThreads
    ) -> None:
        """Commit what is delivered, and close everything, each in its thread: each may wait for a broker."""

        async def leave_group() -> None:
            try:
                await prompt_thread.do(partial(reader.commit, self._delivered))
            finally:
                await prompt_thread.do(reader.close)

        works = [leave_group(), policy_thread.do(policy.close), self._engine.close()]
        ends = [asyncio.ensure_future(work) for work in works]
        done, late = await asyncio.wait(ends, timeout=CLOSE_SECONDS)
        problems = [problem for end in done if (problem := end.exception()) is not None]
        for problem in problems:
            if not isinstance(problem, StoppedError):
                LOG.warning("at the end: %s", describe(problem))
        if late:
            LOG.warning("not all is closed after %.0f s", CLOSE_SECONDS)
        for thread in (prompt_thread, policy_thread):
            thread.close()
        self._deliverer.close()


def look_ahead(max_running: int, group_size: int) -> int:
    """Rollouts that wait in the engine's queue, so that a slot that becomes free is filled at once.

    They are few, so that other producers get their share, and a producer that dies leaves little behind.
    """
    return max(2 * group_size, max_running // 4)


async def raise_on(stop: threading.Event) -> None:
    """Wait until a stop is asked for.

    Raises:
        StoppedError: it is.
    """
    while not stop.is_set():
        await asyncio.sleep(STOP_CHECK_SECONDS)
    raise StoppedError


def first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group and the groups in it that is not just a stop; a stop if there is no other."""
    leaves: list[BaseException] = []
    open_errors: list[BaseException] = [errors]
    while open_errors:
        error = open_errors.pop(0)
        if isinstance(error, BaseExceptionGroup):
            open_errors.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if not isinstance(leaf, StoppedError)), leaves[0])
