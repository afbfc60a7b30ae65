"""The join: rollouts and rewards become complete groups, in any order, each fact once.

Invariants: the first of two equal facts wins; a closed group is never opened again; a group has one definition
of reward, and only rewards of exactly the terms and versions that it asks for, and counts, are its own. Others
(shadows, other versions, unknown terms) stay on the log and are never waited for.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from tristream.wire.batches import TrainingRollout
from tristream.wire.events import FinishReason, Group, Reward, RewardSpec, Rollout, Segment, Split, Status

LOG = logging.getLogger("tristream.assembler")

Position = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedRollout:
    """What is kept of a rollout: what the learner trains and what judging needs, without the texts."""

    training: TrainingRollout
    has_failed: bool
    """Whether its generation ended in an error."""
    is_judged: bool
    """Whether verifiers judge it: something was sampled."""
    oldest_version: int


@dataclass(frozen=True, slots=True)
class JoinedScore:
    """What is kept of a reward."""

    status: Status
    components: Mapping[str, float]


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """What is known so far of one group."""

    group: Group
    opened_seconds: float
    """When its first record was read."""
    definition: RewardSpec | None = None
    """Definition of reward of its first rollout, and so of all; None until one is here."""
    asked: tuple[tuple[str, str], ...] = ()
    """Id and version of the definition's terms that count."""
    rollouts: dict[int, JoinedRollout] = field(default_factory=dict)
    """By index."""
    scores: dict[tuple[int, str, str], JoinedScore] = field(default_factory=dict)
    """By rollout index, term id and version; once the definition is here, only those that count."""
    first_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """First offset by topic and partition, to know where reading must start again."""
    _given: dict[Segment, Segment] = field(default_factory=dict)
    """Given segments (prompt and images), so that equal ones are kept once."""

    def add_rollout(self, rollout: Rollout) -> None:
        """Take a rollout; a second one of its index, or one under another definition, changes nothing."""
        if self.definition is None:
            self.definition = rollout.reward
            self.asked = tuple((term.id, term.version) for term in rollout.reward.terms if term.counts)
            self.scores = {key: score for key, score in self.scores.items() if key[1:] in self.asked}
        elif rollout.reward != self.definition:
            LOG.warning("rollout %s is left out: its group has another definition of reward", rollout.id)
            return
        if rollout.index not in self.rollouts:
            self.rollouts[rollout.index] = JoinedRollout(
                training=TrainingRollout(
                    index=rollout.index,
                    segments=tuple(map(self._share, rollout.segments)),
                    temperature=rollout.temperature,
                ),
                has_failed=rollout.finish_reason is FinishReason.ERROR,
                is_judged=rollout.num_sampled_tokens > 0,
                oldest_version=rollout.oldest_version,
            )

    def add_reward(self, reward: Reward) -> None:
        """Take a reward, if the group asks for it or has not yet said what it asks for."""
        if self.definition is not None and (reward.term_id, reward.version) not in self.asked:
            return
        key = (reward.index, reward.term_id, reward.version)
        if key not in self.scores:
            self.scores[key] = JoinedScore(reward.status, reward.components)

    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return len(self.rollouts) == self.group.size and next(self._unscored(), None) is None

    def missing(self) -> Counter[str]:
        """What it still waits for: ``rollouts``, or reward terms by id, with counts."""
        waits = Counter(self._unscored())
        absent = self.group.size - len(self.rollouts)
        if absent:
            waits["rollouts"] = absent
        return waits

    def components(self, index: int) -> dict[str, Mapping[str, float]]:
        """Component rewards of one rollout by term id; terms that were not scored are absent."""
        scores = {term_id: self.scores.get((index, term_id, version)) for term_id, version in self.asked}
        return {
            term_id: score.components
            for term_id, score in scores.items()
            if score is not None and score.status is Status.SCORED
        }

    def _unscored(self) -> Iterator[str]:
        for index, rollout in self.rollouts.items():
            if rollout.is_judged:
                yield from (term_id for term_id, version in self.asked if (index, term_id, version) not in self.scores)

    def _share(self, segment: Segment) -> Segment:
        return segment if segment.is_sampled else self._given.setdefault(segment, segment)


class Joiner:
    """Joins the records of many groups."""

    def __init__(self, is_closed: Callable[[Group], bool]) -> None:
        self._is_closed = is_closed
        self._open: dict[str, OpenGroup] = {}
        """By id; the group that was opened first comes first."""

    def add(self, event: Rollout | Reward, position: Position, now_seconds: float) -> OpenGroup | None:
        """Take one record; return its group if that is complete now, which closes it here."""
        if self._is_closed(event.group):
            return None
        group_id = event.group.id
        state = self._open.get(group_id)
        if state is None:
            state = self._open[group_id] = OpenGroup(group=event.group, opened_seconds=now_seconds)
        topic, partition, offset = position
        state.first_offsets.setdefault((topic, partition), offset)
        if isinstance(event, Rollout):
            state.add_rollout(event)
        else:
            state.add_reward(event)
        return self._open.pop(group_id) if state.is_complete() else None

    def take_overdue(self, now_seconds: float, timeout_seconds: float) -> list[OpenGroup]:
        """Remove and return the groups that have been open for too long."""
        overdue = []
        for state in self._open.values():
            if now_seconds - state.opened_seconds <= timeout_seconds:
                break
            overdue.append(state)
        for state in overdue:
            del self._open[state.group.id]
        return overdue

    def waiting(self) -> Counter[str]:
        """What the open training groups wait for, with counts."""
        total: Counter[str] = Counter()
        for state in self._open.values():
            if state.group.split is Split.TRAIN:
                total += state.missing()
        return total

    def __iter__(self) -> Iterator[OpenGroup]:
        return iter(self._open.values())

    def __len__(self) -> int:
        return len(self._open)
