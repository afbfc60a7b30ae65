"""What the log says of a run, taken in fact by fact in any order: what may be dispatched follows from it."""

from collections.abc import Callable, Mapping

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.admission import Admission
from tristream.dispatcher.evaluation_rounds import EvaluationRounds
from tristream.dispatcher.source_pauses import SourcePauses
from tristream.wire.events import Fate, Ledger, Outcome, PolicyVersion, Prompt, Split


class RunFacts:
    """The state of a dispatcher.

    Args:
        settings: the run.
        num_eval_prompts: held-out rows of all sources.
        clock: seconds by which paused sources are tried again.
    """

    def __init__(self, settings: DispatcherSettings, num_eval_prompts: int, clock: Callable[[], float]) -> None:
        rollout = settings.rollout
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
            [source.name for source in settings.sources],
            pause_after=rollout.pause_source_after,
            num_in_flight=(rollout.max_staleness + 1) * rollout.groups_per_step,
            clock=clock,
        )

    @property
    def durable(self) -> Ledger:
        """The learner's durable ledger as it was announced last."""
        return self._durable

    @property
    def is_finished(self) -> bool:
        """Whether the last version is durable, so that no learner goes back, and evaluated."""
        return self._durable.step >= self._total_steps and self.rounds.is_finished()

    def observe_policy(self, policy: PolicyVersion) -> None:
        """The learner announced a version."""
        self._durable = policy.durable
        self.admission.observe_policy(policy)
        self.rounds.observe_policy(policy)

    def observe_prompt(self, prompt: Prompt) -> None:
        """A prompt is on the log."""
        group = prompt.group
        if group.split is Split.TRAIN:
            self.admission.observe_dispatched(group.number)
            self.pauses.observe_dispatched(group.source, group.number)
        elif prompt.pinned_weights is not None:
            self.rounds.observe_dispatched(prompt.pinned_weights, group.eval_attempt, group.number)

    def observe_outcome(self, outcome: Outcome) -> None:
        """A group has its outcome."""
        group = outcome.group
        if group.split is Split.EVAL:
            self.rounds.observe_answered(group.eval_step, group.eval_attempt, group.number)
            return
        if outcome.fate is Fate.DROPPED:
            self.admission.observe_dropped(group.number)
        self.pauses.observe_outcome(group.source, group.number, outcome.drop_reason)

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
        }

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
