"""What the log says of a run, taken in fact by fact in any order: what may be dispatched follows from it."""

from collections.abc import Callable, Mapping

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.admission import Admission
from tristream.dispatcher.evaluation_rounds import EvaluationRounds
from tristream.dispatcher.source_pauses import SourcePauses
from tristream.dispatcher.verifier_plan import VerifierPlan
from tristream.dispatcher.verifier_watch import VerifierWatch
from tristream.dispatcher.waiting_groups import WaitingGroups
from tristream.wire.events import Fate, Ledger, Outcome, PartStatus, PolicyVersion, Prompt, Split
from tristream.wire.events.parts import NEEDED_VERIFIERS


class RunFacts:
    """The state of a dispatcher.

    Args:
        settings: the run.
        num_eval_prompts: held-out rows of all sources.
        plan: says which verifiers the prompts need.
        clock: seconds by which paused sources are tried again.
        patience_seconds: how long a verifier that is needed may be served by nobody.
    """

    def __init__(
        self,
        settings: DispatcherSettings,
        num_eval_prompts: int,
        plan: VerifierPlan,
        clock: Callable[[], float],
        patience_seconds: float,
    ) -> None:
        rollout = settings.rollout
        self._sources = [source.name for source in settings.sources]
        self._plan = plan
        self._watch = VerifierWatch(patience_seconds)
        self._waiting = WaitingGroups()
        self._newest_version = -1
        self._shown_needs: set[str] = set()
        self._total_steps = settings.run.steps
        self._groups_per_step = rollout.groups_per_step
        self._durable = Ledger(step=-1)
        """As of the newest announcement."""
        self.admission = Admission(
            total_steps=settings.run.steps,
            groups_per_step=rollout.groups_per_step,
            max_staleness=rollout.max_staleness,
        )
        self.rounds = EvaluationRounds(
            settings.evaluation, num_prompts=num_eval_prompts, total_steps=settings.run.steps
        )
        self.pauses = SourcePauses(
            self._sources,
            pause_after=rollout.pause_source_after,
            num_in_flight=(rollout.max_staleness + 1) * rollout.groups_per_step,
            clock=clock,
        )

    @property
    def durable(self) -> Ledger:
        """The learner's durable ledger as it was announced last."""
        return self._durable

    @property
    def first_open_version(self) -> int:
        """The smallest policy version such that neither it nor any greater one was announced."""
        return self._newest_version + 1

    @property
    def is_finished(self) -> bool:
        """Whether the last version is durable, so that no learner goes back, and evaluated."""
        return self._durable.step >= self._total_steps and self.rounds.is_finished()

    def observe_policy(self, policy: PolicyVersion) -> None:
        """The learner announced a version."""
        self._durable = policy.durable
        self._newest_version = max(self._newest_version, policy.weights.version)
        self.admission.observe_policy(policy)
        self.rounds.observe_policy(policy)

    def observe_prompt(self, prompt: Prompt) -> None:
        """A prompt is on the log."""
        group = prompt.group
        if group.split is Split.TRAIN:
            self.admission.observe_dispatched(group.number)
            self.pauses.observe_dispatched(group.source, group.number)
        elif prompt.pinned_weights is not None:
            self._newest_version = max(self._newest_version, prompt.pinned_weights.version)
            self.rounds.observe_dispatched(prompt.pinned_weights, group.eval_attempt, group.number)

    def observe_outcome(self, outcome: Outcome) -> None:
        """A group has its outcome."""
        group = outcome.group
        if group.split is Split.EVAL:
            self.rounds.observe_answered(group.eval_step, group.eval_attempt, group.number)
            return
        if outcome.fate is Fate.DROPPED:
            self.admission.observe_dropped(group.number)
            self._waiting.observe_dropped(group.source, outcome.created_ns)
        self.pauses.observe_outcome(group.source, group.number, outcome.drop_reason)

    def observe_status(self, status: PartStatus, now_seconds: float) -> None:
        """A process told what it does."""
        self._watch.observe(status, now_seconds)
        self._waiting.observe_status(status)

    def find_waiting_sources(self, now_seconds: float) -> None:
        """See which sources need a verifier that no worker serves; their groups take no place of others.

        Args:
            now_seconds: the time of the log.
        """
        waiting = set(self.pauses.waiting())
        needed = {name: self._plan.needed(name) for name in self._sources}
        is_begun = self.admission.version is not None  # nobody is missed before the first prompt
        missing = self._watch.find_missing(frozenset().union(*needed.values()) if is_begun else (), now_seconds)
        for name, verifiers in needed.items():
            # One that waits goes on only when its verifiers were seen at work.
            absent = self._watch.find_unseen(verifiers, now_seconds) if name in waiting else verifiers & missing
            self.pauses.observe_unserved(name, ", ".join(sorted(absent)))
        self.admission.observe_waiting(self._waiting.count(waiting))

    def waiting_for(self, *, are_all_paused: bool) -> str:
        """What the dispatcher waits for, in words."""
        paused = self.pauses.describe()
        if are_all_paused:
            return f"a source that is not paused; {paused}"
        words = self._next_fact()
        return f"{words}; {paused}" if words and paused else words or paused

    def measures(self) -> Mapping[str, float]:
        """The numbers of a status."""
        version = self.admission.version or 0
        return {
            "num_dispatched": self.admission.num_dispatched,
            "num_dropped": self.admission.num_dropped,
            "num_trained": version * self._groups_per_step,
            "version": version,
            "total_steps": self._total_steps,
            "num_rounds_answered": self.rounds.num_answered,
            **self.pauses.measures(),
            **self._needs(),
        }

    def _needs(self) -> Mapping[str, float]:
        needs = {
            f"{NEEDED_VERIFIERS}{name}/{verifier}" for name in self._sources for verifier in self._plan.needed(name)
        }
        self._shown_needs |= needs
        return {name: float(name in needs) for name in self._shown_needs}

    def _next_fact(self) -> str:
        version = self.admission.version
        if version is None:
            return "policy version from the learner"
        if version < self._total_steps:
            return f"policy version {version + 1} (staleness bound)"
        unanswered = self.rounds.num_unanswered()
        if unanswered is not None:
            return f"{unanswered[1]} evaluation answers of step {unanswered[0]}"
        return "" if self.is_finished else f"the checkpoint of step {self._total_steps}"
