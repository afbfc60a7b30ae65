"""The dispatcher: admits prompts and evaluation rounds, and holds no state that is not on the log.

    prompts, outcomes, policy --> facts --> Admission         --> training prompts
                                        --> EvaluationRounds  --> evaluation prompts

On start it reads the three topics to their end; afterwards each fact is handled as it arrives. Facts are sets, so
repeats change nothing. A prompt counts as dispatched when it is published; publishing is flushed
before the next facts are read, and a prompt that was lost with the process is missing on the log and
so is dispatched by the next process.
"""

import threading
from collections.abc import Sequence
from typing import Any

from tristream.config.parts import DispatcherSettings
from tristream.dispatcher.admission import Admission
from tristream.dispatcher.evaluation_rounds import EvaluationRounds
from tristream.dispatcher.prompt_making import PromptMaker
from tristream.runtime.bus.protocol import Bus, Reader, Record
from tristream.runtime.status import PartReporter
from tristream.wire.events import Fate, Outcome, PartState, PolicyVersion, Prompt, Split
from tristream.wire.topics import OUTCOMES, POLICY, PROMPTS

POLL_SECONDS = 0.1


class Dispatcher:
    """Dispatches the prompts of one run until the last version is evaluated."""

    def __init__(self, settings: DispatcherSettings, bus: Bus, maker: PromptMaker, reporter: PartReporter) -> None:
        self._bus = bus
        self._maker = maker
        self._reporter = reporter
        self._total_steps = settings.run.steps
        self._groups_per_step = settings.rollout.groups_per_step
        self._admission = Admission(
            total_steps=settings.run.steps,
            groups_per_step=settings.rollout.groups_per_step,
            max_staleness=settings.rollout.max_staleness,
        )
        self._rounds = EvaluationRounds(
            settings.evaluation, num_prompts=maker.num_eval_prompts, total_steps=settings.run.steps
        )

    def run(self, stop: threading.Event) -> None:
        """Dispatch until the run is complete or a stop is asked for; the topics exist."""
        reader = self._rebuild()
        try:
            while not stop.is_set():
                self._dispatch()
                if self._is_finished():
                    break
                self._report(PartState.READY, self._waiting_for())
                self._observe(reader.poll(POLL_SECONDS))
            self._report(PartState.DONE)
        finally:
            reader.close()

    def _rebuild(self) -> Reader:
        """Learn what is on the log, and return a reader that goes on from there."""
        self._report(PartState.STARTING, "what is on the log")
        prompts = self._bus.reader([PROMPTS])
        try:
            self._observe(prompts.read_to_end())
        finally:
            prompts.close()
        facts = self._bus.reader([POLICY, OUTCOMES])
        self._observe(facts.read_to_end())
        return facts

    def _observe(self, records: Sequence[Record[Any]]) -> None:
        # A version tells which rounds exist, an outcome what became of them: versions first.
        for record in sorted(records, key=lambda record: not isinstance(record.event, PolicyVersion)):
            match record.event:
                case PolicyVersion() as policy:
                    self._admission.observe_policy(policy)
                    self._rounds.observe_version(policy.weights)
                case Prompt() as prompt:
                    self._observe_prompt(prompt)
                case Outcome() as outcome:
                    self._observe_outcome(outcome)

    def _observe_prompt(self, prompt: Prompt) -> None:
        if prompt.group.split is Split.TRAIN:
            self._admission.observe_dispatched(prompt.group.number)
        elif prompt.pinned_weights is not None:
            self._rounds.observe_dispatched(prompt.pinned_weights, prompt.group.number)

    def _observe_outcome(self, outcome: Outcome) -> None:
        if outcome.group.split is Split.EVAL:
            self._rounds.observe_answered(outcome.group.eval_step, outcome.group.number)
        elif outcome.fate is Fate.DROPPED:
            self._admission.observe_dropped(outcome.group.number)

    def _dispatch(self) -> None:
        for work in self._rounds.take_work():
            self._bus.publish(PROMPTS, self._maker.evaluation_prompt(work.number, work.weights))
        while (admitted := self._admission.admit()) is not None:
            self._bus.publish(PROMPTS, self._maker.training_prompt(admitted.number, admitted.progress))
        self._bus.flush()

    def _is_finished(self) -> bool:
        return self._admission.version == self._total_steps and self._rounds.is_finished()

    def _waiting_for(self) -> str:
        version = self._admission.version
        if version is None:
            return "policy version from the learner"
        if version < self._total_steps:
            return f"policy version {version + 1} (staleness bound)"
        unanswered = self._rounds.num_unanswered()
        return "" if unanswered is None else f"{unanswered[1]} evaluation answers of step {unanswered[0]}"

    def _report(self, state: PartState, waiting_for: str = "") -> None:
        version = self._admission.version or 0
        self._reporter.report(
            state,
            waiting_for,
            measures={
                "num_dispatched": self._admission.num_dispatched,
                "num_dropped": self._admission.num_dropped,
                "num_trained": version * self._groups_per_step,
                "version": version,
                "total_steps": self._total_steps,
                "num_rounds_answered": self._rounds.num_answered,
            },
        )
