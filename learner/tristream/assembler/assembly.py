"""The assembly: what is known of a run's groups, as a pure function of the records and calls so far.

    prompts, rollouts, rewards --> Joiner --> judge --> ready groups --> BuiltBatch
                                      |         |            |
                                      v         v            v
                                 incomplete  dropped       stale         --> outcomes

It has no thread, no clock and no bus: time comes in, outcomes to publish go out. Whoever drives it publishes
them, and has the drops that a batch reports acknowledged before the batch leaves.

When a learner attaches, the log is read from where the learner's ledger says. Until that is done nothing is decided:
what completes is held back, since the log may say, further on, what became of it. So the order in which partitions are
read decides nothing; groups are taken by their number.

Invariants: each training group gets one outcome; a dropped group is decided at once, a trained one when the
checkpoint that covers it is durable; a built batch never changes.
"""

import logging
from collections import Counter
from collections.abc import Mapping

from tristream.assembler.errors import NotAttachedError, StepRefusedError
from tristream.assembler.facts import Fact, OutcomeFact, PromptFact, RewardFact, RolloutFact
from tristream.assembler.history import History
from tristream.assembler.join import Joiner, OpenGroup, Position
from tristream.assembler.judge import ScoredGroup, dropped_outcome, evaluated_outcome, judge
from tristream.assembler.judged_rewards import JudgedRewards
from tristream.assembler.positions import Positions
from tristream.assembler.rounds import EvaluationRounds, round_of
from tristream.assembler.shards import BuiltBatch, split_stale
from tristream.config.parts import AssemblerSettings
from tristream.wire.batches import Commit, NotReady
from tristream.wire.events import DropReason, Fate, Group, Ledger, LogPosition, Outcome, Split
from tristream.wire.ledger import IntervalSet

LOG = logging.getLogger("tristream.assembler")


class Assembly:
    """The state of the assembly of one run."""

    def __init__(self, settings: AssemblerSettings) -> None:
        self._settings = settings
        self._run = settings.run.id
        self._timeouts = {
            "generation_timeout_seconds": settings.assembly.generation_timeout_seconds,
            "scoring_timeout_seconds": settings.assembly.scoring_timeout_seconds,
        }
        self._history: History | None = None
        """The steps since a learner attached; None before."""
        self._joiner = Joiner(self._is_closed)
        self._ready: dict[int, ScoredGroup] = {}
        self._held: dict[str, Outcome] = {}
        """Outcomes that were decided while the log is read, by group id."""
        self._unreported_drops: list[int] = []
        self._closed_numbers = IntervalSet()
        self._closed_evaluations = EvaluationRounds()
        self._positions = Positions("", {})
        self._waiting_for: str | None = None
        """What the next batch waits for, until something changes."""
        self._counted_step = 0
        """Newest step whose trained groups are counted."""
        self.reads_log = False
        """Whether the log is not yet read to where it ended when the learner attached."""
        self.num_records_read = 0
        """Records observed since the learner attached."""
        self.counts: Counter[str] = Counter()
        """Groups by fate, dropped ones by reason, since the start."""
        self.judged_rewards = JudgedRewards()

    # The learner's side --------------------------------------------------------------------------

    def continues(self, ledger: Ledger, world_size: int) -> bool:
        """Whether everything after a learner's ledger is still here as it was, so that nothing need be read again."""
        return self._history is not None and self._history.continues(ledger, world_size)

    def check_ledger(self, ledger: Ledger) -> None:
        """Compare a learner's ledger with the steps that were committed here.

        Raises:
            LedgerMismatchError: it is older than a durable checkpoint that was.
        """
        if self._history is not None:
            self._history.check_ledger(ledger)

    def attach(self, ledger: Ledger, world_size: int, log_id: str) -> Mapping[tuple[str, int], int]:
        """Start from where the learner stands, and forget everything else.

        Returns:
            Where the log has to be read from, by topic and partition, else from its beginning. Its records have to be
            observed (again) up to where it ends by now, and ``finish_reading`` be called then.
        """
        starts = ledger.position.offsets_on(log_id)
        self._joiner = Joiner(self._is_closed)
        self._ready, self._held, self._unreported_drops = {}, {}, []
        self._closed_numbers = IntervalSet(ledger.settled)
        self._closed_evaluations = EvaluationRounds(ledger.position.evaluated if starts else ())
        self._positions = Positions(log_id, starts)
        self._history, self._waiting_for = History(ledger, world_size), None
        self.reads_log, self.num_records_read = True, 0
        LOG.info("attached at step %d: %d groups are settled", ledger.step, len(self._closed_numbers))
        return starts

    def detach(self) -> None:
        """Wait for a learner to say where it stands."""
        self._history, self.reads_log, self._waiting_for = None, False, None

    def finish_reading(self) -> list[Outcome]:
        """Everything is observed that was on the log at the attach; returns the outcomes that it lacks."""
        outcomes = sorted(self._held.values(), key=lambda outcome: (outcome.group.split, outcome.group.number))
        self._held, self.reads_log, self._waiting_for = {}, False, None
        for outcome in outcomes:
            self._count(outcome)
        LOG.info("read %d records; %d groups are ready, %d open", self.num_records_read, self.num_ready, self.num_open)
        return outcomes

    def check_step(self, step: int) -> None:
        """See whether a step may be asked for.

        Raises:
            NotAttachedError: no learner has attached yet.
            StepRefusedError: it is committed, or not the next one.
        """
        history = self._require_attached()
        if step not in history.batches and step != history.last_step + 1:
            raise StepRefusedError(history.explain_refusal(step))

    def next_batch(self, step: int, now_ns: int) -> tuple[BuiltBatch | NotReady, list[Outcome]]:
        """The batch of ``step``, or what it waits for; with the outcomes of groups that are too old for it.

        Raises:
            NotAttachedError: no learner has attached yet.
            StepRefusedError: the step is committed, or not the next one.
        """
        self.check_step(step)
        history = self._require_attached()
        if step in history.batches:
            return history.batches[step], []
        if self.reads_log:
            return NotReady(waiting_for=self.waiting_for()), []
        fresh, stale = split_stale(self._ready.values(), step, self._settings.rollout.max_staleness)
        outcomes = [outcome for s in stale if (outcome := self._drop_ready(s, DropReason.STALE, now_ns)) is not None]
        wanted = self._settings.rollout.groups_per_step
        if len(fresh) < wanted:
            return NotReady(waiting_for=self.waiting_for()), outcomes
        chosen = tuple(sorted(fresh, key=lambda scored: scored.group.number)[:wanted])
        for scored in chosen:
            del self._ready[scored.group.number]
        batch = BuiltBatch(
            step=step,
            world_size=history.world_size,
            groups=chosen,
            outcomes=tuple(scored.trained_outcome(step, now_ns) for scored in chosen),
            dropped=tuple(sorted(self._unreported_drops)),
            position=self._position(step),
        )
        history.add(batch)
        self.judged_rewards.train(batch.outcomes)
        self._unreported_drops, self._waiting_for = [], None
        return batch, outcomes

    def commit(self, commit: Commit) -> list[Outcome]:
        """Forget the batches that a durable checkpoint covers; returns the outcomes of its steps.

        Raises:
            NotAttachedError: no learner has attached yet.
            StepRefusedError: the checkpoint holds a step that was not served.
        """
        history = self._require_attached()
        newest = max((commit.ledger.step, *(step.step for step in commit.steps)))
        if newest > history.last_step:
            raise StepRefusedError(f"step {newest} cannot be committed: the newest is step {history.last_step}")
        self.counts[Fate.TRAINED] += sum(len(step.outcomes) for step in commit.steps if step.step > self._counted_step)
        self._counted_step = max(self._counted_step, newest)
        history.commit(commit)
        return [outcome for step in commit.steps for outcome in step.outcomes]

    def waiting_for(self) -> str:
        """What the next batch waits for, in words."""
        if self.reads_log:
            return f"reading the log: {self.num_records_read} records"
        if self._waiting_for is None:
            self._waiting_for = self._explain_wait()
        return self._waiting_for

    # The log's side ------------------------------------------------------------------------------

    def observe(self, fact: Fact, position: Position, *, now_seconds: float, now_ns: int) -> Outcome | None:
        """Take one record; returns the outcome to publish, if one is decided now.

        Args:
            fact: what is kept of the record.
            position: where the record is on the log.
            now_seconds: time on the clock by which groups become overdue.
            now_ns: nanoseconds since the epoch, for outcomes.

        Raises:
            LedgerMismatchError: the log and the learner's ledger belong to different histories.
        """
        self._positions.take(position)
        self._waiting_for = None
        self.num_records_read += 1
        group = fact.group
        if group.run != self._run:
            LOG.warning("a record of %s is left out: it is of run %s", position[0], group.run)
            return None
        if isinstance(fact, OutcomeFact):
            self._take_outcome(fact)
            return None
        if group.number in self._ready and group.split is Split.TRAIN:
            return self._compare_with_ready(fact, now_ns)
        state = self._joiner.add(fact, position, now_seconds)
        return None if state is None else self._decide(state, now_ns)

    def has_overdue(self, now_seconds: float) -> bool:
        """Whether there are groups to give up, once it is certain that the log has nothing more of them."""
        return not self.reads_log and self._joiner.has_overdue(now_seconds, **self._timeouts)

    def give_up_overdue(self, *, now_seconds: float, now_ns: int) -> list[Outcome]:
        """Settle groups that did not complete in time; what is there of an evaluation counts.

        Args:
            now_seconds: a time up to whose end the log is read.
            now_ns: nanoseconds since the epoch, for outcomes.
        """
        outcomes = []
        for state in self._joiner.take_overdue(now_seconds, **self._timeouts):
            self._waiting_for = None
            if not state.is_dispatched:
                LOG.warning("records of group %s are left out: the log has no prompt of it", state.group.id)
                continue
            LOG.warning("group %s is incomplete: waited for %s", state.group.id, dict(state.missing()))
            if state.group.split is Split.EVAL:
                outcomes.append(evaluated_outcome(state, now_ns))
            else:
                outcomes.append(dropped_outcome(state, DropReason.INCOMPLETE, now_ns))
            self._close(outcomes[-1])
        return outcomes

    # What it holds -------------------------------------------------------------------------------

    @property
    def is_attached(self) -> bool:
        """Whether a learner has said where it stands; nothing is read before."""
        return self._history is not None

    @property
    def num_open(self) -> int:
        """Groups that are not complete yet."""
        return len(self._joiner)

    @property
    def num_open_by_source(self) -> Counter[str]:
        """Those of them that are to be trained, by source."""
        return Counter(state.group.source for state in self._joiner if state.group.split is Split.TRAIN)

    @property
    def num_ready(self) -> int:
        """Scored groups that wait for a batch."""
        return len(self._ready)

    # Inside --------------------------------------------------------------------------------------

    def _require_attached(self) -> History:
        if self._history is None:
            raise NotAttachedError("no learner has attached to this assembler yet")
        return self._history

    def _is_closed(self, group: Group) -> bool:
        if group.split is Split.EVAL:
            return group in self._closed_evaluations
        return group.number in self._closed_numbers

    def _decide(self, state: OpenGroup, now_ns: int) -> Outcome | None:
        if state.group.split is Split.EVAL:
            return self._close(evaluated_outcome(state, now_ns))
        verdict = judge(state, drop_zero_variance=self._settings.assembly.drop_zero_variance, now_ns=now_ns)
        if isinstance(verdict, Outcome):
            return self._close(verdict)
        self._closed_numbers.add(state.group.number)
        self._ready[state.group.number] = verdict
        return None

    def _compare_with_ready(self, fact: PromptFact | RolloutFact | RewardFact, now_ns: int) -> Outcome | None:
        """A record of a group that waits for its batch: nothing new, unless it is of another prompt."""
        scored = self._ready[fact.group.number]
        if isinstance(fact, RewardFact) or fact.digest in ("", scored.digest) or not scored.digest:
            return None
        LOG.error("there are two different prompts of group %s", scored.group.id)
        return self._drop_ready(scored, DropReason.CONFLICTING, now_ns)

    def _take_outcome(self, fact: OutcomeFact) -> None:
        """Take what the log says became of a group: it is so, whoever decided it."""
        group, group_id = fact.group, fact.group.id
        if group.split is Split.EVAL:
            self._held.pop(group_id, None)
            self._joiner.discard(group)
            self._closed_evaluations.add(group)
        elif fact.fate is Fate.TRAINED:
            if self.reads_log:
                self._require_attached().check_trained(group.number, fact.step)
        elif self._held.pop(group_id, None) is None:
            self._joiner.discard(group)
            was_ready = self._ready.pop(group.number, None) is not None
            if was_ready or group.number not in self._closed_numbers:
                self._closed_numbers.add(group.number)
                self._unreported_drops.append(group.number)

    def _drop_ready(self, scored: ScoredGroup, reason: DropReason, now_ns: int) -> Outcome | None:
        del self._ready[scored.group.number]
        return self._close(scored.dropped_outcome(reason, now_ns))

    def _close(self, outcome: Outcome) -> Outcome | None:
        """Close a group that is evaluated or dropped; returns the outcome, if it is to be published now."""
        if outcome.group.split is Split.EVAL:
            self._closed_evaluations.add(outcome.group)
        else:
            self._closed_numbers.add(outcome.group.number)
            self._unreported_drops.append(outcome.group.number)
        self._waiting_for = None
        if self.reads_log:
            self._held[outcome.group.id] = outcome
            return None
        self._count(outcome)
        return outcome

    def _count(self, outcome: Outcome) -> None:
        self.counts[outcome.drop_reason or outcome.fate] += 1
        if outcome.fate is Fate.DROPPED:
            self.judged_rewards.drop(outcome)

    def _explain_wait(self) -> str:
        if self._history is None:
            return "a learner to attach"
        wanted = self._settings.rollout.groups_per_step
        num_missing = wanted - len(self._ready)
        if num_missing <= 0:
            return "the learner to ask for a batch"
        waits = ", ".join(f"{count} {name}" for name, count in sorted(self._joiner.waiting().items()))
        return f"{num_missing} of {wanted} groups" + (f" (open ones wait for {waits})" if waits else "")

    def _position(self, step: int) -> LogPosition:
        """Where reading must start so that every group not settled by now is seen whole."""
        open_rounds = (round_of(state.group) for state in self._joiner if state.group.split is Split.EVAL)
        self._closed_evaluations.forget_old(step, open_rounds)
        unsettled = [state.first_offsets for state in self._joiner]
        unsettled += [scored.first_offsets for scored in self._ready.values()]
        return self._positions.before(unsettled, self._closed_evaluations.kept())
