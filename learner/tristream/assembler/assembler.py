"""The assembler: joins rollouts and rewards, judges groups, and serves batches.

    rollouts, rewards --> Joiner --> judge --> ready groups --> BuiltBatch --> shard of a rank
                                       |            |
                                       v            v
                                   dropped        stale          --> outcomes

It holds no state of its own: everything is rebuilt from the log and from the ledger that the learner
brings when it attaches. One condition guards the state; the reading thread and the gRPC threads meet
there.

    who waits             for what                         woken by
    next_batch            B ready groups                   the reading thread
    the reading thread    records                          the bus
    everything            a learner that attaches          attach

Invariants: each training group gets one outcome; a dropped group is published at once, a trained one
when the checkpoint that covers it is durable; a built batch never changes.
"""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tristream.assembler.join import Joiner, OpenGroup
from tristream.assembler.judge import Rejection, ScoredGroup, judge, rollout_reward
from tristream.assembler.shards import BuiltBatch, shard, split_stale
from tristream.config.run_file import RunFile
from tristream.runtime.bus.protocol import Bus, BusError, Reader, Record
from tristream.wire.batches import Batch, CommittedStep, NotReady
from tristream.wire.events import Fate, Group, Outcome, Reward, Rollout, RolloutOutcome, Split
from tristream.wire.ledger import IntervalSet, Ledger, PartitionOffset
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS

LOG = logging.getLogger("tristream.assembler")


class NotAttachedError(Exception):
    """No learner has said yet where it stands."""


class LedgerMismatchError(Exception):
    """The log says that groups were trained that the learner's checkpoint does not know."""


@dataclass(slots=True, kw_only=True)
class AttachRequest:
    """A learner that waits to be told that the assembler stands where it stands."""

    ledger: Ledger
    world_size: int
    done: bool = False
    error: Exception | None = None


class Assembler:
    """The state of the assembly of one run."""

    def __init__(self, settings: RunFile, bus: Bus) -> None:
        self._settings = settings
        self._bus = bus
        self._changed = threading.Condition()
        self._attached = False
        self._attach_requests: deque[AttachRequest] = deque()
        self._failure: BusError | None = None
        self._closed = False
        self._world_size = 1
        self._reader: Reader | None = None
        self._joiner = Joiner(self._is_closed)
        self._ready: dict[int, ScoredGroup] = {}
        self._batches: dict[int, BuiltBatch] = {}
        self._unreported_drops: list[int] = []
        self._closed_numbers = IntervalSet()
        self._closed_evaluations: set[str] = set()
        self._positions: dict[tuple[str, int], int] = {}
        self.counts: Counter[str] = Counter()
        """Groups by fate or reason, for the status."""

    # The learner's side --------------------------------------------------------------------------

    def attach(self, ledger: Ledger, world_size: int) -> None:
        """Start, or go on, from where the learner stands.

        A learner that restarted while the assembler lived finds the batches after its checkpoint as
        they were; in every other case the state is rebuilt from the log.

        Raises:
            LedgerMismatchError: the log and the ledger belong to different histories.
            BusError: the log could not be read, or the assembler ends.
        """
        request = AttachRequest(ledger=ledger, world_size=world_size)
        with self._changed:
            self._attach_requests.append(request)
            self._changed.notify_all()
            self._changed.wait_for(lambda: request.done or self._closed)
        if request.error is not None:
            raise request.error
        if not request.done:
            raise BusError("the assembler ends")

    def next_batch(self, step: int, rank: int, timeout_seconds: float) -> Batch | NotReady:
        """The shard of ``rank`` for ``step``, or what it waits for after the timeout.

        Raises:
            NotAttachedError: no learner has attached since the start.
            BusError: the drops that the batch reports could not be published; the assembler ends.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            while True:
                self._require_attached()
                if step not in self._batches:
                    with self._ending_on_failure():
                        self._try_build(step)
                if step in self._batches:
                    tokens = self._settings.assembly.micro_batch_tokens
                    return shard(self._batches[step], rank, self._world_size, tokens)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return NotReady(waiting_for=self.waiting_for())
                self._changed.wait(remaining)

    def commit(self, steps: tuple[CommittedStep, ...], ledger: Ledger) -> None:
        """Publish the outcomes of steps that a durable checkpoint covers, then forget their batches.

        Raises:
            NotAttachedError: no learner has attached since the start.
            BusError: they could not be published; the assembler ends.
        """
        with self._changed, self._ending_on_failure():
            self._require_attached()
            for step in steps:
                for outcome in step.outcomes:
                    self._bus.publish(OUTCOMES, outcome)
                    self.counts["trained"] += 1
            self._bus.flush()
            for number in [number for number in self._batches if number <= ledger.step]:
                del self._batches[number]

    # The log's side ------------------------------------------------------------------------------

    def work(self) -> None:
        """Read a little of the log and advance; call it again and again from one thread.

        Only this thread touches the reader, which Kafka consumers demand; so attaching happens here too.

        Raises:
            BusError: this or another thread could not read or publish; the process has to be started again.
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            while self._attach_requests:
                self._answer_attach(self._attach_requests.popleft())
            if self._reader is None:
                self._changed.wait(0.2)
                return
        records = self._reader.poll(0.1, max_records=256)
        with self._changed:
            for record in records:
                self._take(record)
            timeout = self._settings.assembly.join_timeout_seconds
            for state in self._joiner.take_overdue(time.monotonic(), timeout):
                self._give_up(state)
            if records:
                self._changed.notify_all()

    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""
        if not self._attached:
            return "a learner to attach"
        wanted = self._settings.rollout.groups_per_step
        num_missing = wanted - len(self._ready)
        if num_missing <= 0:
            return "the learner to ask for a batch"
        waits = ", ".join(f"{count} {name}" for name, count in sorted(self._joiner.waiting().items()))
        return f"{num_missing} of {wanted} groups" + (f" (open ones wait for {waits})" if waits else "")

    @property
    def is_attached(self) -> bool:
        """Whether a learner has said where it stands; nothing is read before."""
        return self._attached

    @property
    def num_open(self) -> int:
        """Groups that are not complete yet."""
        return len(self._joiner)

    @property
    def num_ready(self) -> int:
        """Scored groups that wait for a batch."""
        return len(self._ready)

    def close(self) -> None:
        """Release the reader, and whoever waits to attach."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._reader is not None:
            self._reader.close()

    # Inside --------------------------------------------------------------------------------------

    def _require_attached(self) -> None:
        if not self._attached:
            raise NotAttachedError("no learner has attached to this assembler yet")

    @contextmanager
    def _ending_on_failure(self) -> Iterator[None]:
        """Let a failure of the bus in any thread end the process: a new one rebuilds all state from the log."""
        try:
            yield
        except BusError as error:
            self._failure = error
            raise

    def _is_closed(self, group: Group) -> bool:
        if group.split is Split.EVAL:
            return group.id in self._closed_evaluations
        return group.number in self._closed_numbers

    def _answer_attach(self, request: AttachRequest) -> None:
        try:
            if not self._continues(request):
                self._rebuild(request.ledger, request.world_size)
        except (LedgerMismatchError, BusError) as error:
            request.error = error
            if isinstance(error, BusError):
                raise
        finally:
            request.done = True
            self._changed.notify_all()

    def _continues(self, request: AttachRequest) -> bool:
        """Whether the batches after the learner's ledger are still here as they were."""
        if not self._batches or request.world_size != self._world_size:
            return False
        expected = range(request.ledger.step + 1, max(self._batches) + 1)
        return len(expected) > 0 and all(step in self._batches for step in expected)

    def _rebuild(self, ledger: Ledger, world_size: int) -> None:
        settled = IntervalSet(ledger.settled)
        dropped: list[int] = []
        evaluated: set[str] = set()
        outcomes = self._bus.reader([OUTCOMES])
        for record in outcomes.read_to_end():
            outcome: Outcome = record.event
            if outcome.group.split is Split.EVAL:
                evaluated.add(outcome.group.id)
            elif outcome.group.number in settled:
                continue
            elif outcome.fate is Fate.TRAINED:
                raise LedgerMismatchError(
                    f"the log says that group {outcome.group.number} was trained at step {outcome.step}, "
                    f"which the checkpoint of step {ledger.step} does not know"
                )
            else:
                dropped.append(outcome.group.number)
        outcomes.close()
        if self._reader is not None:
            self._reader.close()
        hints = ledger.offsets if self._settings.bus.durable else ()
        self._reader = self._bus.reader(
            [ROLLOUTS, REWARDS], offsets={(hint.topic, hint.partition): hint.offset for hint in hints}
        )
        self._joiner = Joiner(self._is_closed)
        self._ready, self._batches, self._positions = {}, {}, {}
        self._unreported_drops = sorted(set(dropped))
        self._closed_numbers = settled
        for number in self._unreported_drops:
            self._closed_numbers.add(number)
        self._closed_evaluations = evaluated
        self._world_size, self._attached = world_size, True
        LOG.info("attached at step %d: %d groups are settled", ledger.step, len(self._closed_numbers))

    def _take(self, record: Record[Rollout | Reward]) -> None:
        self._positions[(record.topic, record.partition)] = record.offset + 1
        state = self._joiner.add(record.event, (record.topic, record.partition, record.offset), time.monotonic())
        if state is None:
            return
        if state.group.split is Split.EVAL:
            self._publish_evaluated(state)
            return
        self._closed_numbers.add(state.group.number)
        verdict = judge(state, drop_zero_variance=self._settings.assembly.drop_zero_variance)
        if isinstance(verdict, Rejection):
            self._drop(verdict)
        else:
            self._ready[verdict.group.number] = verdict

    def _try_build(self, step: int) -> None:
        fresh, stale = split_stale(list(self._ready.values()), step, self._settings.rollout.max_staleness)
        for scored in stale:
            del self._ready[scored.group.number]
            self._drop(
                Rejection(
                    group=scored.group, reason="stale", outcomes=scored.outcomes, oldest_version=scored.oldest_version
                )
            )
        wanted = self._settings.rollout.groups_per_step
        if len(fresh) < wanted:
            return
        chosen = tuple(sorted(fresh, key=lambda scored: scored.group.number)[:wanted])
        self._bus.flush()  # drops that this batch reports are on the log before a learner settles them
        for scored in chosen:
            del self._ready[scored.group.number]
        self._batches[step] = BuiltBatch(
            step=step, groups=chosen, dropped=tuple(sorted(self._unreported_drops)), offsets=self._offsets()
        )
        self._unreported_drops = []

    def _drop(self, rejection: Rejection) -> None:
        self._closed_numbers.add(rejection.group.number)
        self._unreported_drops.append(rejection.group.number)
        self.counts[rejection.reason] += 1
        self._bus.publish(
            OUTCOMES,
            Outcome(
                group=rejection.group,
                fate=Fate.DROPPED,
                reason=rejection.reason,
                rollouts=rejection.outcomes,
                oldest_version=rejection.oldest_version,
                created_ns=time.time_ns(),
            ),
        )

    def _give_up(self, state: OpenGroup) -> None:
        """Settle a group that did not complete in time; what is there of an evaluation counts."""
        LOG.warning("group %s is incomplete: waited for %s", state.group.id, dict(state.missing()))
        if state.group.split is Split.EVAL:
            self._publish_evaluated(state)
        else:
            self._drop(Rejection(group=state.group, reason="incomplete", outcomes=(), oldest_version=-1))

    def _publish_evaluated(self, state: OpenGroup) -> None:
        self._closed_evaluations.add(state.group.id)
        self.counts["evaluated"] += 1
        rewards = {index: rollout_reward(state, rollout) for index, rollout in sorted(state.rollouts.items())}
        rollouts = tuple(
            RolloutOutcome(index=index, valid=reward is not None, reward=reward or 0.0, advantage=0.0)
            for index, reward in rewards.items()
        )
        oldest_version = min((rollout.oldest_version for rollout in state.rollouts.values()), default=-1)
        self._bus.publish(
            OUTCOMES,
            Outcome(
                group=state.group,
                fate=Fate.EVALUATED,
                step=state.group.eval_step,
                rollouts=rollouts,
                oldest_version=oldest_version,
                created_ns=time.time_ns(),
            ),
        )

    def _offsets(self) -> tuple[PartitionOffset, ...]:
        """Where reading must start so that every group not settled by now is seen whole."""
        starts = dict(self._positions)
        unsettled = [state.first_offsets for state in self._joiner]
        unsettled += [scored.first_offsets for scored in self._ready.values()]
        for first_offsets in unsettled:
            for key, offset in first_offsets.items():
                starts[key] = min(starts.get(key, offset), offset)
        return tuple(
            PartitionOffset(topic=topic, partition=partition, offset=offset)
            for (topic, partition), offset in sorted(starts.items())
        )
