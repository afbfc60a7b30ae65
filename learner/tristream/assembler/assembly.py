"""The assembly: what is known of a run's groups, as a pure function of the records and calls so far.

    rollouts, rewards --> Joiner --> judge --> ready groups --> BuiltBatch
                             |         |            |
                             v         v            v
                        incomplete  dropped       stale         --> outcomes

It has no thread, no clock and no bus: time comes in, outcomes to publish go out. Whoever drives it publishes
them, and has the drops that a batch reports acknowledged before the batch leaves.

Invariants: each training group gets one outcome; a dropped group is decided at once, a trained one when the
checkpoint that covers it is durable; a built batch never changes.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from tristream.assembler.join import Joiner, Position
from tristream.assembler.judge import ScoredGroup, evaluated_outcome, incomplete_outcome, judge
from tristream.assembler.shards import BuiltBatch, split_stale
from tristream.config.parts import AssemblerSettings
from tristream.wire.batches import Commit, NotReady
from tristream.wire.events import Fate, Group, Outcome, Reward, Rollout, Split
from tristream.wire.ledger import IntervalSet, Ledger, PartitionOffset

LOG = logging.getLogger("tristream.assembler")


class NotAttachedError(Exception):
    """No learner has said yet where it stands."""


class LedgerMismatchError(Exception):
    """The log says that groups were trained that the learner's checkpoint does not know."""


class Assembly:
    """The state of the assembly of one run."""

    def __init__(self, settings: AssemblerSettings) -> None:
        self._settings = settings
        self._attached_at: Ledger | None = None
        self._world_size = 1
        self._joiner = Joiner(self._is_closed)
        self._ready: dict[int, ScoredGroup] = {}
        self._batches: dict[int, BuiltBatch] = {}
        self._has_built = False
        self._committed_step = 0
        self._unreported_drops: list[int] = []
        self._closed_numbers = IntervalSet()
        self._closed_evaluations: set[str] = set()
        self._positions: dict[tuple[str, int], int] = {}
        self._waiting_for: str | None = None
        """What the next batch waits for, until something changes."""
        self.counts: Counter[str] = Counter()
        """Groups by fate, dropped ones by reason, since the start."""

    # The learner's side --------------------------------------------------------------------------

    def continues(self, ledger: Ledger, world_size: int) -> bool:
        """Whether everything after a learner's ledger is still here as it was, so that nothing need be read again."""
        if self._attached_at is None or world_size != self._world_size:
            return False
        if not self._has_built:
            return ledger == self._attached_at
        expected = range(ledger.step + 1, max(self._batches, default=0) + 1)
        return len(expected) > 0 and all(step in self._batches for step in expected)

    def start_offsets(self, ledger: Ledger) -> Mapping[tuple[str, int], int]:
        """Where reading starts for a learner that stands at ``ledger``, by topic and partition; else at 0."""
        hints = ledger.offsets if self._settings.bus.durable else ()
        return {(hint.topic, hint.partition): hint.offset for hint in hints}

    def attach(self, ledger: Ledger, outcomes: Iterable[Outcome], world_size: int) -> None:
        """Start from where the learner stands and what the log says of outcomes; forget everything else.

        The records from ``start_offsets`` on have to be observed (again) after this.

        Raises:
            LedgerMismatchError: the log and the ledger belong to different histories; nothing has changed.
        """
        settled = IntervalSet(ledger.settled)
        dropped: set[int] = set()
        evaluated: set[str] = set()
        for outcome in outcomes:
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
                dropped.add(outcome.group.number)
        self._joiner = Joiner(self._is_closed)
        self._ready, self._batches, self._positions, self._has_built = {}, {}, {}, False
        self._unreported_drops = sorted(dropped)
        self._closed_numbers = settled
        for number in dropped:
            self._closed_numbers.add(number)
        self._closed_evaluations = evaluated
        self._world_size, self._attached_at, self._waiting_for = world_size, ledger, None
        LOG.info("attached at step %d: %d groups are settled", ledger.step, len(self._closed_numbers))

    def next_batch(self, step: int, now_ns: int) -> tuple[BuiltBatch | NotReady, list[Outcome]]:
        """The batch of ``step``, or what it waits for; with the outcomes of groups that are too old for it.

        Raises:
            NotAttachedError: no learner has attached yet.
        """
        self._require_attached()
        if step in self._batches:
            return self._batches[step], []
        fresh, stale = split_stale(self._ready.values(), step, self._settings.rollout.max_staleness)
        outcomes = []
        for scored in stale:
            del self._ready[scored.group.number]
            outcomes.append(self._drop(scored.stale_outcome(now_ns)))
        wanted = self._settings.rollout.groups_per_step
        if len(fresh) < wanted:
            return NotReady(waiting_for=self.waiting_for()), outcomes
        chosen = tuple(sorted(fresh, key=lambda scored: scored.group.number)[:wanted])
        for scored in chosen:
            del self._ready[scored.group.number]
        self._batches[step] = BuiltBatch(
            step=step,
            world_size=self._world_size,
            groups=chosen,
            outcomes=tuple(scored.trained_outcome(step, now_ns) for scored in chosen),
            dropped=tuple(sorted(self._unreported_drops)),
            offsets=self._offsets(),
        )
        self._unreported_drops, self._has_built, self._waiting_for = [], True, None
        return self._batches[step], outcomes

    def commit(self, commit: Commit) -> list[Outcome]:
        """Forget the batches that a durable checkpoint covers; returns the outcomes of its steps.

        Raises:
            NotAttachedError: no learner has attached yet.
        """
        self._require_attached()
        outcomes = [outcome for step in commit.steps for outcome in step.outcomes]
        self.counts[Fate.TRAINED] += sum(
            len(step.outcomes) for step in commit.steps if step.step > self._committed_step
        )
        self._committed_step = max(self._committed_step, commit.ledger.step)
        for step in [step for step in self._batches if step <= commit.ledger.step]:
            del self._batches[step]
        return outcomes

    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""
        if self._waiting_for is None:
            self._waiting_for = self._explain_wait()
        return self._waiting_for

    # The log's side ------------------------------------------------------------------------------

    def observe(
        self, event: Rollout | Reward, position: Position, *, now_seconds: float, now_ns: int
    ) -> Outcome | None:
        """Take one record; returns the outcome of its group, if that is decided now.

        Args:
            event: the record's event.
            position: where the record is on the log.
            now_seconds: monotonic time, by which groups become overdue.
            now_ns: nanoseconds since the epoch, for outcomes.
        """
        topic, partition, offset = position
        self._positions[topic, partition] = offset + 1
        self._waiting_for = None
        state = self._joiner.add(event, position, now_seconds)
        if state is None:
            return None
        if state.group.split is Split.EVAL:
            return self._evaluate(evaluated_outcome(state, now_ns))
        verdict = judge(state, drop_zero_variance=self._settings.assembly.drop_zero_variance, now_ns=now_ns)
        if isinstance(verdict, Outcome):
            return self._drop(verdict)
        self._closed_numbers.add(state.group.number)
        self._ready[state.group.number] = verdict
        return None

    def give_up_overdue(self, *, now_seconds: float, now_ns: int) -> list[Outcome]:
        """Settle groups that did not complete in time; what is there of an evaluation counts."""
        outcomes = []
        for state in self._joiner.take_overdue(now_seconds, self._settings.assembly.join_timeout_seconds):
            self._waiting_for = None
            LOG.warning("group %s is incomplete: waited for %s", state.group.id, dict(state.missing()))
            if state.group.split is Split.EVAL:
                outcomes.append(self._evaluate(evaluated_outcome(state, now_ns)))
            else:
                outcomes.append(self._drop(incomplete_outcome(state, now_ns)))
        return outcomes

    # What it holds -------------------------------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        """Whether a learner has said where it stands; nothing is read before."""
        return self._attached_at is not None

    @property
    def num_open(self) -> int:
        """Groups that are not complete yet."""
        return len(self._joiner)

    @property
    def num_ready(self) -> int:
        """Scored groups that wait for a batch."""
        return len(self._ready)

    # Inside --------------------------------------------------------------------------------------

    def _require_attached(self) -> None:
        if self._attached_at is None:
            raise NotAttachedError("no learner has attached to this assembler yet")

    def _is_closed(self, group: Group) -> bool:
        if group.split is Split.EVAL:
            return group.id in self._closed_evaluations
        return group.number in self._closed_numbers

    def _drop(self, outcome: Outcome) -> Outcome:
        self._closed_numbers.add(outcome.group.number)
        self._unreported_drops.append(outcome.group.number)
        self._waiting_for = None
        self.counts[outcome.drop_reason or outcome.fate] += 1
        return outcome

    def _evaluate(self, outcome: Outcome) -> Outcome:
        self._closed_evaluations.add(outcome.group.id)
        self.counts[outcome.fate] += 1
        return outcome

    def _explain_wait(self) -> str:
        if self._attached_at is None:
            return "a learner to attach"
        wanted = self._settings.rollout.groups_per_step
        num_missing = wanted - len(self._ready)
        if num_missing <= 0:
            return "the learner to ask for a batch"
        waits = ", ".join(f"{count} {name}" for name, count in sorted(self._joiner.waiting().items()))
        return f"{num_missing} of {wanted} groups" + (f" (open ones wait for {waits})" if waits else "")

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
