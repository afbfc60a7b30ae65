"""Groups of the log with the texts of their rollouts, what was said of them, and what they were worth in the end."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from kafka.admin import KafkaAdminClient

from tristream.config.run_file import RunFile
from tristream.runtime.archive.reader import ArchiveBus
from tristream.runtime.bus.kafka import KafkaBus
from tristream.runtime.bus.kafka_clients import close_in_background, connect, insist
from tristream.runtime.bus.protocol import Bus, Record
from tristream.runtime.errors import StoppedError, TryAgainError, UserError
from tristream.runtime.run_folder import RunFolder
from tristream.verifiers.service.answers import ANSWERS, Answer
from tristream.wire.events import Group, Outcome, Reward, RewardSpec, Split
from tristream.wire.topics import OUTCOMES, REWARDS, ROLLOUTS, Topic

TOPICS: tuple[Topic[Any], ...] = (ANSWERS, REWARDS, OUTCOMES)
CONNECT_SECONDS = 15.0

Components = Mapping[str, float | None]


@dataclass(slots=True, kw_only=True)
class LoggedGroup:
    """A training group, as far as it was read."""

    group: Group
    answers: dict[int, Answer] = field(default_factory=dict)
    """Rollouts by index, without their tokens."""
    components: dict[int, dict[str, Components]] = field(default_factory=dict)
    """Values by index and term, None where the verifier abstained."""
    outcome: Outcome | None = None

    @property
    def worths(self) -> Mapping[int, float]:
        """Final rewards by index, of the rollouts that were worth something."""
        found = self.outcome.rollouts if self.outcome else ()
        return {worth.index: worth.reward for worth in found if worth.valid}

    @property
    def step(self) -> int:
        """Training step that its prompt was dispatched for; 0 as long as no rollout of it is known."""
        return next((answer.rollout.progress.step for answer in self.answers.values()), 0)

    @property
    def is_whole(self) -> bool:
        """Whether it is settled and nothing of it is to come."""
        return self.outcome is not None and all(
            index in self.answers
            and self.components.get(index, {}).keys() >= counting_terms(self.answers[index].rollout.reward)
            for index in self.worths
        )


def counting_terms(spec: RewardSpec) -> set[str]:
    """Ids of the terms that count in a final reward."""
    return {term.id for term in spec.terms if term.counts}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which groups are wanted."""

    steps: range | None = None
    """Training steps that the prompts were dispatched for; None for all."""
    sources: frozenset[str] = frozenset()
    """Empty for all."""

    def has_source(self, source: str) -> bool:
        """Whether a source is wanted."""
        return not self.sources or source in self.sources

    def has_step(self, step: int) -> bool:
        """Whether a step is wanted."""
        return self.steps is None or step in self.steps


class GroupReader:
    """Joins records into groups.

    Args:
        choice: which groups are wanted.
        is_known: whether a group is not wanted again, by its number.
    """

    def __init__(self, choice: Choice, is_known: Callable[[int], bool]) -> None:
        self._choice = choice
        self._is_known = is_known
        self._open: dict[int, LoggedGroup] = {}
        self._left_out: set[int] = set()
        self.num_unsettled = 0
        """Groups without an outcome at the end of the last log."""

    def read(self, records: Iterator[Record[Any]]) -> Iterator[LoggedGroup]:
        """The groups of one log, each as soon as it is whole, and at its end those that were settled without that."""
        for record in records:
            logged = self._take(record.topic, record.event)
            if logged is not None and logged.is_whole:
                yield self._close(logged)
        for logged in list(self._open.values()):
            if logged.outcome is not None:
                yield self._close(logged)
        self.num_unsettled = len(self._open)
        self._open.clear()

    def _close(self, logged: LoggedGroup) -> LoggedGroup:
        self._left_out.add(logged.group.number)
        return self._open.pop(logged.group.number)

    def _take(self, topic: str, event: Any) -> LoggedGroup | None:  # noqa: ANN401 - an event of one of the topics
        logged = self._find(event.rollout.group if topic == ROLLOUTS.name else event.group)
        if logged is None:
            return None
        if topic == ROLLOUTS.name:
            return self._take_answer(logged, event)
        if topic == REWARDS.name:
            _take_reward(logged, event)
        elif logged.outcome is None:
            logged.outcome = event
        return logged

    def _find(self, group: Group) -> LoggedGroup | None:
        number = group.number
        is_wanted = group.split is Split.TRAIN and self._choice.has_source(group.source)
        if not is_wanted or number in self._left_out or self._is_known(number):
            return None
        return self._open.setdefault(number, LoggedGroup(group=group))

    def _take_answer(self, logged: LoggedGroup, answer: Answer) -> LoggedGroup | None:
        if not self._choice.has_step(answer.rollout.progress.step):
            self._close(logged)
            return None
        logged.answers.setdefault(answer.rollout.index, answer)
        return logged


def _take_reward(logged: LoggedGroup, reward: Reward) -> None:
    components: Components = {**reward.components, **dict.fromkeys(reward.abstained)}
    logged.components.setdefault(reward.index, {}).setdefault(reward.term_id, components)


@contextmanager
def open_logs(settings: RunFile, folder: RunFolder) -> Iterator[Sequence[Bus]]:
    """The logs of a run, oldest first: of its archive, or else the one on its brokers; reading joins no group.

    Raises:
        UserError: it has neither.
        TryAgainError: the brokers do not answer.
    """
    archive = ArchiveBus(folder.archive, settings.run.id)
    if archive.log_ids:
        yield [archive.on_log(log_id) for log_id in archive.log_ids]
        return
    if not settings.bus.bootstrap_servers:
        raise UserError(
            "there is neither an archive of the log nor a broker to read it from",
            where=str(folder),
            remedy="give the folder of a run, or a run file with [bus] bootstrap_servers",
        )
    stop = threading.Event()
    timer = threading.Timer(CONNECT_SECONDS, stop.set)
    timer.start()
    try:
        bus = _ReadOnlyKafkaBus(settings.run.id, settings.bus, "rescore", stop=stop)
        has_log = bus.has_log()
    except StoppedError:
        raise TryAgainError(f"the brokers at {settings.bus.bootstrap_servers} do not answer") from None
    finally:
        timer.cancel()
    with closing(bus):
        yield [bus] if has_log else []


class _ReadOnlyKafkaBus(KafkaBus):
    """Brokers for a reader that publishes no dead letters."""

    def dead_letter(self, record: Record[bytes], error: str) -> None:
        """A record that cannot be decoded is left out; the run has told of it."""

    def has_log(self) -> bool:
        """Whether the run has topics; asking makes none."""
        admin = connect(KafkaAdminClient, self.settings, self.patience, client_id=f"{self.client_id}-admin")
        try:
            return self.full_name(ROLLOUTS) in insist(self.patience, admin.list_topics)
        finally:
            close_in_background(admin)
