"""From records of the rollouts topic to their rewards.

    records -> rollouts -> tasks -> pool -> verdicts -> rewards -> bus -> acknowledged

A worker serves verifier versions. Every term of a rollout that asks for one of them gets exactly one reward,
whatever happens to the scoring, and whether the term counts or is a shadow; a record that is not a rollout becomes
a dead letter. Each reward is published as soon as its score is there, by the thread that has it, and ``handle``
returns when all of them are acknowledged.

A producer that died may have answered a prompt twice, with another text. Whoever joins rollouts and
rewards takes the first of each, so of two records of one rollout only the first is judged.
"""

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial

from tristream.runtime.bus.protocol import Bus, BusError, EventTooLargeError, Record
from tristream.runtime.bus.records import LogStart, decode_record, foreign_contract, is_mark
from tristream.runtime.errors import StoppedError, UserError
from tristream.runtime.store import BlobError
from tristream.verifiers.service.answers import ANSWERS
from tristream.verifiers.service.child import Task, Verdict, clean
from tristream.verifiers.service.pool import Pool
from tristream.verifiers.service.rewards import make_reward, without_details
from tristream.verifiers.verifier import Verifier
from tristream.wire.events import Reward, RewardTerm, Rollout, Status, TermMode
from tristream.wire.topics import REWARDS, VERIFIERS_HEADER
from tristream.wire.verifiers import versioned_name

LOG = logging.getLogger("tristream.verifier")

CompleteParams = Callable[[Rollout, str], Awaitable[str]]
"""Completes the parameters of a term, a JSON object, with what only the rollout knows."""


class RolloutScorer:
    """Judges rollouts and publishes the rewards on ``bus``, and the dead letters.

    The served verifiers are known by ``NAME@VERSION``, here and in the pool.
    """

    def __init__(
        self,
        served: Mapping[str, type[Verifier]],
        pool: Pool,
        bus: Bus,
        *,
        complete_params: CompleteParams | None = None,
    ) -> None:
        self._served = served
        self._pool = pool
        self._bus = bus
        self._complete_params = complete_params
        self._log_start = LogStart()
        self._lock = threading.Lock()
        self.num_by_status: Counter[Status] = Counter()
        """Rewards published, by status."""
        self.num_scored: Counter[str] = Counter()
        """Rewards published with a number, by ``NAME@VERSION``."""
        self.num_dead_letters = 0

    async def handle(self, records: Sequence[Record[bytes]]) -> None:
        """Publish what the records call for; returns when all of it is acknowledged.

        Args:
            records: in the order of the log; of two records of one rollout the first counts.

        Raises:
            UserError: the log was begun under another contract.
            PoolError: nothing can be scored.
            BusError: the broker refused a reward.
            StoppedError: told to stop while the broker or the store was away.
        """
        num_dead_letters = self.num_dead_letters
        rollouts: dict[str, Rollout] = {}
        for record in records:
            rollout = self._read(record)
            if rollout is not None:
                rollouts.setdefault(rollout.id, rollout)
        work = [(rollout, term) for rollout in rollouts.values() for term in self._served_terms(rollout)]
        # Groups wait for what counts: shadows take their turn behind it.
        work.sort(key=lambda pair: pair[1].mode is TermMode.SHADOW)
        if work:
            await self._score(work)
        if self.num_dead_letters > num_dead_letters:
            await asyncio.to_thread(self._bus.flush)

    def wants(self, record: Record[bytes]) -> bool:
        """Whether the record may need a served verifier, by its headers alone."""
        header = record.headers.get(VERIFIERS_HEADER)
        return header is None or not self._served.keys().isdisjoint(header.decode(errors="replace").split(","))

    def _read(self, record: Record[bytes]) -> Rollout | None:
        """The rollout, if it needs a served verifier; a dead letter goes out if it cannot be read."""
        marks = is_mark(record)
        is_first = self._log_start.is_first(record.topic, record.partition, record.offset, is_barrier=marks)
        if marks:
            return None
        if foreign_contract(record.headers) is None and not self.wants(record):
            return None
        try:
            decoded = decode_record(self._bus, ANSWERS, record, is_first=is_first)
        except (UserError, BusError, StoppedError):
            raise
        except Exception as error:  # poison comes in every shape, and concerns this record alone
            self._bus.dead_letter(record, clean(f"it cannot be read: {error}"))
            decoded = None
        if decoded is None:
            self.num_dead_letters += 1
            return None
        rollout: Rollout = decoded.event
        return rollout

    def _served_terms(self, rollout: Rollout) -> list[RewardTerm]:
        return [term for term in rollout.reward.terms if versioned_name(term.verifier, term.version) in self._served]

    async def _score(self, work: Sequence[tuple[Rollout, RewardTerm]]) -> None:
        """Publish the rewards of terms, and wait until all are acknowledged."""
        to_come = _Countdown(len(work))
        asked: list[tuple[Rollout, RewardTerm, Task]] = []
        for rollout, term in work:
            prepared = await self._prepare(rollout, term)
            if isinstance(prepared, Task):
                asked.append((rollout, term, prepared))
            else:
                self._settle(rollout, term, prepared, to_come)
        for (rollout, term, _task), judged in zip(asked, self._pool.submit([task for *_, task in asked]), strict=True):
            judged.add_done_callback(partial(self._take_verdict, rollout, term, to_come))
        await to_come.reached

    async def _prepare(self, rollout: Rollout, term: RewardTerm) -> Task | Verdict:
        """What the verifier is asked, or why it cannot be."""
        params_json = term.params_json
        try:
            if self._complete_params is not None:
                params_json = await self._complete_params(rollout, params_json)
        except StoppedError:
            raise
        except ValueError as error:
            return Verdict(status=Status.UNSCORABLE, detail=clean(f"the parameters are unusable: {error}"))
        except BlobError as error:
            return Verdict(status=Status.ERROR, detail=clean(str(error)))
        except Exception as error:  # concerns this rollout alone, whatever it is
            return Verdict(status=Status.ERROR, detail=clean(f"{type(error).__name__}: {error}"))
        return make_task(rollout, versioned_name(term.verifier, term.version), params_json)

    def _take_verdict(
        self, rollout: Rollout, term: RewardTerm, to_come: "_Countdown", judged: "Future[Verdict]"
    ) -> None:
        """Called by the thread that has the verdict."""
        error = judged.exception()
        if error is not None:
            to_come.fail(error)
        else:
            self._settle(rollout, term, judged.result(), to_come)

    def _settle(self, rollout: Rollout, term: RewardTerm, verdict: Verdict, to_come: "_Countdown") -> None:
        try:
            self._publish(make_reward(rollout, term, verdict)).add_done_callback(to_come.count)
        except Exception as error:  # it must reach the handler, whichever thread this is
            to_come.fail(error)
            return
        if verdict.status in (Status.TIMEOUT, Status.ERROR):
            name = versioned_name(term.verifier, term.version)
            LOG.warning("%s (%s) of %s: %s: %s", term.id, name, rollout.id, verdict.status, verdict.detail)

    def _publish(self, reward: Reward) -> "Future[None]":
        try:
            sent = self._bus.publish(REWARDS, reward)
        except EventTooLargeError as error:
            reward = without_details(reward, clean(str(error)))
            sent = self._bus.publish(REWARDS, reward)
        with self._lock:
            self.num_by_status[reward.status] += 1
            self.num_scored[versioned_name(reward.verifier, reward.version)] += reward.status is Status.SCORED
        return sent


class _Countdown:
    """Awaits a number of futures that other threads settle."""

    def __init__(self, number: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._number = number
        self.reached: asyncio.Future[None] = self._loop.create_future()

    def count(self, settled: "Future[None]") -> None:
        """One more is settled, if with an error the wait ends with it."""
        error = settled.exception()
        if error is not None:
            self.fail(error)
            return
        with self._lock:
            self._number -= 1
            is_last = self._number == 0
        if is_last:
            self._loop.call_soon_threadsafe(self._resolve, None)

    def fail(self, error: BaseException) -> None:
        """End the wait with an error."""
        self._loop.call_soon_threadsafe(self._resolve, error)

    def _resolve(self, error: BaseException | None) -> None:
        if self.reached.done():
            return
        if error is None:
            self.reached.set_result(None)
        else:
            self.reached.set_exception(error)


def make_task(rollout: Rollout, verifier: str, params_json: str) -> Task:
    """What a verifier is asked about a rollout."""
    return Task(
        verifier=verifier,
        text=rollout.text,
        prompt_text=rollout.prompt_text,
        ground_truth=rollout.reward.ground_truth,
        params_json=params_json,
        step=rollout.progress.step,
        total_steps=rollout.progress.total_steps,
    )
