"""What the logs of a run say, record by record, in a form that is small and does not depend on their order.

Each log is read in this order of its topics, effects before causes, so that whatever is published meanwhile is
never missed by what is known already: policy, outcomes, steps, commands, dead letters; prompts; rollouts, rewards.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tristream.assembler.facts import RewardFact, RolloutFact
from tristream.audit.final_rewards import FinalRewards
from tristream.audit.group_table import GroupTable, content_of
from tristream.audit.identity_counts import IdentityCounts
from tristream.runtime.bus.protocol import Record
from tristream.wire.events import (
    Command,
    DeadLetter,
    Group,
    Ledger,
    Outcome,
    PolicyVersion,
    Prompt,
    Split,
    StepReport,
    Weights,
)
from tristream.wire.ledger import IntervalSet
from tristream.wire.topics import EPOCH_HEADER, OUTCOMES, PROMPTS, REWARDS, ROLLOUTS

IsDue = Callable[[int, int], bool]
"""Whether a version of a run of so many steps is evaluated."""
TAIL_TOPICS = (PROMPTS.name, ROLLOUTS.name, REWARDS.name, OUTCOMES.name)


@dataclass(slots=True, kw_only=True)
class Report:
    """The newest report of one step."""

    numbers: "array[int]"
    contents: "array[int]"
    """Hash of the outcome of each group, in the order of the numbers."""


@dataclass(slots=True, kw_only=True)
class Announced:
    """The newest announcement of one version."""

    weights: Weights
    is_due: bool
    log: int
    """Which log it is on, from 0."""


@dataclass(slots=True)
class Round:
    """One attempt at one evaluation."""

    table: GroupTable = field(default_factory=lambda: GroupTable(1))
    sha256s: set[str] = field(default_factory=set)
    """Checksums of the weights that its prompts pin."""
    answered_before: IntervalSet = field(default_factory=IntervalSet)
    """Prompts answered on logs before the last."""
    log: int = 0
    """The last log that knows of it."""


class LogFacts:
    """Facts of one run.

    Args:
        run: its id; records of other runs are left out.
        group_size: rollouts of a training group.
        groups_per_step: groups of a training batch.
        window: groups in flight at most, roughly; so far from the last known ones facts may be lost with a log.
        is_due: which versions are evaluated.
    """

    def __init__(self, run: str, *, group_size: int, groups_per_step: int, window: int, is_due: IsDue) -> None:
        self._run = run
        self.groups_per_step = groups_per_step
        self._window = window
        self._is_due = is_due
        self.training = GroupTable(group_size)
        self.final_rewards = FinalRewards()
        self.counts = IdentityCounts(group_size)
        self.rounds: dict[tuple[int, int], Round] = {}
        """By evaluated step and attempt."""
        self.reports: dict[int, Report] = {}
        self.excused_reports: set[int] = set()
        """Steps whose report may have been lost with a log."""
        self.announced: dict[int, Announced] = {}
        self.total_steps: int | None = None
        """Steps of the run, as the learner said last."""
        self.newest_ledger: Ledger | None = None
        """The newest durable ledger that the learner told, by epoch and step."""
        self.ledger_findings: set[tuple[int, int, int]] = set()
        """Step, settled and dropped groups of ledgers that do not add up."""
        self.commands: list[Command] = []
        """Those that hold, each once, in the order in which they were given."""
        self.source_names: list[str] = []
        self.dead_letters: Counter[str] = Counter()
        self.unwritten: Counter[str] = Counter()
        """Records by topic that the monitor gave up."""
        self.num_void: Counter[str] = Counter()
        self.num_malformed: Counter[str] = Counter()
        self.log = 0
        """Number of the log that is read, from 0."""
        self._sources: dict[str, int] = {}
        self._known_commands: set[str] = set()
        self._known_letters: set[tuple[int, str, int, int]] = set()
        self._frontiers: dict[str, dict[int, int]] = {}
        self._last_report = 0

    @property
    def num_logs(self) -> int:
        """Logs that were begun."""
        return self.log + 1

    def observe(self, record: Record[Any]) -> None:
        """Take a record that is not void."""
        event = record.event
        if _run_of(event) == self._run:
            self.counts.observe(record)
            self._observe(event, record)

    def _observe(self, event: Any, record: Record[Any]) -> None:  # noqa: ANN401 - events are of many types
        if isinstance(event, RolloutFact | RewardFact | Outcome | Prompt):
            self._note_frontier(record, event.group)
        match event:
            case RewardFact() | RolloutFact():
                self._observe_answer(event)
            case Outcome():
                self._table(event.group).observe_outcome(event)
            case Prompt():
                self._observe_prompt(event)
            case PolicyVersion():
                self._observe_policy(event)
            case StepReport():
                self._observe_report(event)
            case Command():
                self._observe_command(event, record)
            case DeadLetter():
                self._observe_dead_letter(event)

    def refuse(self, record: Record[bytes], error: str) -> None:
        """A record counts for nothing: it is void, or cannot be decoded."""
        counter = self.num_void if error.startswith("void") else self.num_malformed
        counter[record.topic] += 1

    def begin_log(self, ledger: Ledger | None) -> None:
        """A broker that forgets was started anew; the run goes on there from a ledger, if it went on.

        What this ledger settles stays settled, also if the end of the log before is lost. All else is dispatched anew.
        """
        first_excused = self._first_excused()
        self._excuse_reports(ledger)
        self.log += 1
        self._frontiers.clear()
        self.final_rewards.begin_log()
        if ledger is not None:
            self.training.begin_log(IntervalSet(ledger.settled), first_excused)
        for round_ in self.rounds.values():
            table = round_.table
            for number in range(table.num_rows):
                if table.fates[number]:
                    round_.answered_before.add(number)
            round_.table = GroupTable(1)
        for evaluated in ledger.position.evaluated if ledger is not None else ():
            round_ = self.rounds.setdefault((evaluated.eval_step, evaluated.eval_attempt), Round())
            known = round_.answered_before.intervals
            round_.answered_before = IntervalSet((*known, *evaluated.numbers))

    def end_in_flight(self, ledger: Ledger | None) -> None:
        """The last log may lack its end too: the run is open, and its log was archived."""
        first = self._first_excused()
        self.training.excuse(range(first, self.training.num_rows))
        self._excuse_reports(ledger)

    @property
    def newest_version(self) -> int:
        """The largest version that was announced."""
        return max(self.announced, default=-1)

    def round_of(self, version: int, sha256: str) -> Round | None:
        """The newest evaluation of the weights of a version; one of which a ledger alone knows may be of any."""
        found = [
            (attempt, round_)
            for (step, attempt), round_ in self.rounds.items()
            if step == version and (sha256 in round_.sha256s or not round_.sha256s)
        ]
        return max(found, key=lambda pair: pair[0])[1] if found else None

    # Inside --------------------------------------------------------------------------------------

    def _table(self, group: Group) -> GroupTable:
        if group.split is Split.TRAIN:
            return self.training
        return self._round(group).table

    def _observe_answer(self, fact: RewardFact | RolloutFact) -> None:
        """Take it unless it is of nobody: prompts were read before, and only the end of a log may lack some."""
        group = fact.group
        round_ = self.rounds.get((group.eval_step, group.eval_attempt))
        table = self.training if group.split is Split.TRAIN else None if round_ is None else round_.table
        if table is None or not table.has_room(group.number, names_strays=False):
            return
        if isinstance(fact, RewardFact):
            self.final_rewards.observe(fact, table)
        else:
            table.observe_rollout(fact)

    def _round(self, group: Group) -> Round:
        round_ = self.rounds.setdefault((group.eval_step, group.eval_attempt), Round())
        round_.log = self.log
        return round_

    def _observe_prompt(self, prompt: Prompt) -> None:
        source = self._sources.setdefault(prompt.group.source, len(self._sources))
        if source == len(self.source_names):
            self.source_names.append(prompt.group.source)
        spec = self.final_rewards.position(prompt.reward)
        if prompt.group.split is Split.EVAL and prompt.pinned_weights is not None:
            self._round(prompt.group).sha256s.add(prompt.pinned_weights.sha256)
        self._table(prompt.group).observe_prompt(prompt, spec, source)

    def _observe_policy(self, policy: PolicyVersion) -> None:
        version, total_steps = policy.weights.version, policy.total_steps
        known = self.announced.get(version)
        is_due = self._is_due(version, total_steps)
        if known is not None and known.weights.sha256 == policy.weights.sha256:
            is_due = is_due or known.is_due
        self.announced[version] = Announced(weights=policy.weights, is_due=is_due, log=self.log)
        self.total_steps = total_steps
        ledger = policy.durable
        self.newest_ledger = newer(self.newest_ledger, ledger)
        num_settled = sum(interval.end - interval.start for interval in ledger.settled)
        if num_settled - ledger.num_dropped != ledger.step * self.groups_per_step:
            self.ledger_findings.add((ledger.step, num_settled, ledger.num_dropped))

    def _observe_report(self, report: StepReport) -> None:
        outcomes = sorted(report.outcomes, key=lambda outcome: outcome.group.number)
        self.reports[report.step] = Report(
            numbers=array("q", [outcome.group.number for outcome in outcomes]),
            contents=array("Q", map(content_of, outcomes)),
        )
        self._last_report = report.step

    def _observe_command(self, command: Command, record: Record[Any]) -> None:
        is_new = EPOCH_HEADER in record.headers and command.id not in self._known_commands
        if is_new and not command.refusal:
            self._known_commands.add(command.id)
            self.commands.append(command)

    def _observe_dead_letter(self, letter: DeadLetter) -> None:
        key = (self.log, letter.topic, letter.partition, letter.offset)
        if letter.part == "monitor":
            self.unwritten[letter.topic] += 1
        if key not in self._known_letters:
            self._known_letters.add(key)
            self.dead_letters[letter.topic] += 1

    def _note_frontier(self, record: Record[Any], group: Group) -> None:
        if group.split is Split.TRAIN:
            frontier = self._frontiers.setdefault(record.topic, {})
            frontier[record.partition] = max(frontier.get(record.partition, 0), group.number)

    def _first_excused(self) -> int:
        """The smallest number of which facts may be lost with the end of this log."""
        lasts = [min(self._frontiers.get(topic, {}).values(), default=0) for topic in TAIL_TOPICS]
        return max(0, min(lasts) - self._window)

    def _excuse_reports(self, ledger: Ledger | None) -> None:
        if ledger is not None:
            self.excused_reports.update(range(self._last_report + 1, ledger.step + 1))


def _run_of(event: Any) -> str:  # noqa: ANN401 - events are of many types
    group = getattr(event, "group", None)
    run: str = event.run if group is None else group.run
    return run


def newer(first: Ledger | None, second: Ledger | None) -> Ledger | None:
    """The newer one of two ledgers, by epoch and step; the second of two equal ones."""
    if first is None or second is None:
        return second if first is None else first
    return first if (first.epoch, first.step) > (second.epoch, second.step) else second
