"""The join: prompts, rollouts and rewards become complete groups, in any order, each fact once.

Invariants: the first of two equal facts wins; a closed group is never opened again; a group is what its prompt says
that it is, and what comes before the prompt waits for it. Only rewards of exactly the terms and versions that the
prompt asks for, and counts, are a group's own. Others (shadows, other versions, unknown terms) stay on the log and are
never waited for. Two different prompts of one number never become one group.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from tristream.assembler.facts import JoinedRollout, JoinedScore, PromptFact, RewardFact, RolloutFact
from tristream.wire.events import Group, RewardSpec, Segment, Split

LOG = logging.getLogger("tristream.assembler")

Position = tuple[str, int, int]
"""Topic, partition and offset of a record."""
Key = int | tuple[int, int, int]
"""Number of a training group; evaluated step, attempt and number of an evaluation."""


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """What is known so far of one group."""

    group: Group
    """As its prompt says; as its first record says, until the prompt is here."""
    opened_seconds: float
    """When its first record was read."""
    generated_seconds: float | None = None
    """When the last of its rollouts was read."""
    definition: RewardSpec | None = None
    """Definition of reward of its prompt; None until that is here."""
    asked: tuple[tuple[str, str], ...] = ()
    """Id and version of the definition's terms that count."""
    rollouts: dict[int, JoinedRollout] = field(default_factory=dict)
    """By index."""
    scores: dict[tuple[int, str, str], JoinedScore] = field(default_factory=dict)
    """By rollout index, term id and version; those that count."""
    first_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """First offset by topic and partition, to know where reading must start again."""
    digest: str = ""
    """Digest of its prompt; empty until a record names one."""
    is_conflicting: bool = False
    """Whether there are two prompts of its number that differ."""
    num_unscored: int = 0
    """Scores that its rollouts still wait for."""
    _early: list[RolloutFact | RewardFact] = field(default_factory=list)
    """What came before its prompt."""
    _given: dict[Segment, Segment] = field(default_factory=dict)
    """Given segments (prompt and images), so that equal ones are kept once."""

    def add(self, fact: PromptFact | RolloutFact | RewardFact) -> None:
        """Take a fact."""
        if isinstance(fact, PromptFact):
            self.add_prompt(fact)
        elif self.definition is None:
            self._early.append(fact)
        elif isinstance(fact, RolloutFact):
            self.add_rollout(fact)
        else:
            self.add_reward(fact)

    def add_prompt(self, prompt: PromptFact) -> None:
        """Take the prompt and what came before it; a second prompt is the same one, or a conflict."""
        if self.definition is not None:
            self._compare(prompt.digest, is_same_group=prompt.group == self.group)
            return
        self.group, self.definition, self.digest = prompt.group, prompt.definition, prompt.digest
        self.asked = tuple((term.id, term.version) for term in prompt.definition.terms if term.counts)
        early, self._early = self._early, []
        for fact in early:
            self.add(fact)

    def add_rollout(self, fact: RolloutFact) -> None:
        """Take a rollout of the prompt; a second one of its index, or one of another prompt, changes nothing."""
        if self._compare(fact.digest, is_same_group=True) or not self._is_own(fact.group, "rollout"):
            return
        if fact.definition is not None and fact.definition != self.definition:
            LOG.warning("a rollout of group %s is left out: its definition of reward is another one", self.group.id)
            return
        index = fact.rollout.training.index
        if index in self.rollouts:
            return
        self.rollouts[index] = self._shared(fact.rollout)
        if fact.rollout.is_judged:
            self.num_unscored += sum((index, *term) not in self.scores for term in self.asked)

    def add_reward(self, fact: RewardFact) -> None:
        """Take a reward, if the group asks for it."""
        if (fact.term_id, fact.version) not in self.asked or not self._is_own(fact.group, "reward"):
            return
        key = (fact.index, fact.term_id, fact.version)
        if key in self.scores:
            return
        self.scores[key] = fact.score
        rollout = self.rollouts.get(fact.index)
        if rollout is not None and rollout.is_judged:
            self.num_unscored -= 1

    @property
    def is_dispatched(self) -> bool:
        """Whether its prompt is here."""
        return self.definition is not None

    @property
    def is_generated(self) -> bool:
        """Whether its prompt and all its rollouts are here."""
        return self.definition is not None and len(self.rollouts) == self.group.size

    def missing(self) -> Counter[str]:
        """What it still waits for: ``prompts``, ``rollouts``, or reward terms by id, with counts."""
        if self.definition is None:
            return Counter(prompts=1)
        waits = Counter(self._unscored())
        absent = self.group.size - len(self.rollouts)
        if absent:
            waits["rollouts"] = absent
        return waits

    def components(self, index: int) -> dict[str, Mapping[str, float | None]]:
        """Component rewards of one rollout by term id; terms without a reward are absent."""
        scores = {term_id: self.scores.get((index, term_id, version)) for term_id, version in self.asked}
        return {term_id: score.components for term_id, score in scores.items() if score is not None}

    def _compare(self, digest: str, *, is_same_group: bool) -> bool:
        """Whether a prompt, or the prompt of a rollout, is another one than this group's."""
        self.digest = self.digest or digest
        if is_same_group and digest in ("", self.digest):
            return False
        LOG.error("there are two different prompts of group %s", self.group.id)
        # What is evaluated is what was dispatched first; what is trained has to be beyond doubt.
        self.is_conflicting |= self.group.split is Split.TRAIN
        return True

    def _is_own(self, group: Group, what: str) -> bool:
        if group is self.group or group == self.group:
            return True
        LOG.warning("a %s of group %s is left out: it says %s, and the prompt %s", what, group.id, group, self.group)
        return False

    def _unscored(self) -> Iterator[str]:
        if self.num_unscored == 0:
            return
        for index, rollout in self.rollouts.items():
            if rollout.is_judged:
                yield from (term_id for term_id, version in self.asked if (index, term_id, version) not in self.scores)

    def _shared(self, rollout: JoinedRollout) -> JoinedRollout:
        """The rollout with the given segments that are kept already."""
        segments = rollout.training.segments
        known = tuple(s if s.is_sampled else self._given.setdefault(s, s) for s in segments)
        if all(one is other for one, other in zip(known, segments, strict=True)):
            return rollout
        return replace(rollout, training=replace(rollout.training, segments=known))


class Joiner:
    """Joins the records of many groups."""

    def __init__(self, is_closed: Callable[[Group], bool]) -> None:
        self._is_closed = is_closed
        self._generating: dict[Key, OpenGroup] = {}
        """Groups whose rollouts are not all here; the group that was opened first comes first."""
        self._scoring: dict[Key, OpenGroup] = {}
        """Groups whose rewards are not all here; the group that was generated first comes first."""

    def add(
        self, fact: PromptFact | RolloutFact | RewardFact, position: Position, now_seconds: float
    ) -> OpenGroup | None:
        """Take one record; return its group if that is complete or conflicting now, which closes it here."""
        key = _key_of(fact.group)
        state = self._scoring.get(key) or self._generating.get(key)
        if state is None:
            if self._is_closed(fact.group):
                return None
            state = self._generating[key] = OpenGroup(group=fact.group, opened_seconds=now_seconds)
        topic, partition, offset = position
        if (topic, partition) not in state.first_offsets:
            state.first_offsets[topic, partition] = offset
        state.add(fact)
        if state.is_conflicting:
            return self.discard(state.group)
        if state.is_generated:
            if state.num_unscored == 0:
                return self.discard(state.group)
            if state.generated_seconds is None:
                state.generated_seconds = now_seconds
                self._scoring[key] = self._generating.pop(key)
        return None

    def discard(self, group: Group) -> OpenGroup | None:
        """Forget a group; returns it if it was open."""
        key = _key_of(group)
        return self._scoring.pop(key, None) or self._generating.pop(key, None)

    def take_overdue(
        self, now_seconds: float, *, generation_timeout_seconds: float, scoring_timeout_seconds: float
    ) -> list[OpenGroup]:
        """Remove and return the groups that have waited for too long for their rollouts, or for their rewards."""
        overdue = []
        for state in self._generating.values():
            if now_seconds - state.opened_seconds <= generation_timeout_seconds:
                break
            overdue.append(state)
        for state in self._scoring.values():
            if state.generated_seconds is None or now_seconds - state.generated_seconds <= scoring_timeout_seconds:
                break
            overdue.append(state)
        for state in overdue:
            self.discard(state.group)
        return overdue

    def has_overdue(
        self, now_seconds: float, *, generation_timeout_seconds: float, scoring_timeout_seconds: float
    ) -> bool:
        """Whether there are any."""
        opened = next(iter(self._generating.values()), None)
        if opened is not None and now_seconds - opened.opened_seconds > generation_timeout_seconds:
            return True
        generated = next(iter(self._scoring.values()), None)
        if generated is None or generated.generated_seconds is None:
            return False
        return now_seconds - generated.generated_seconds > scoring_timeout_seconds

    def waiting(self) -> Counter[str]:
        """What the open training groups wait for, with counts."""
        total: Counter[str] = Counter()
        for state in self:
            if state.group.split is Split.TRAIN:
                total += state.missing()
        return total

    def __iter__(self) -> Iterator[OpenGroup]:
        return chain(self._generating.values(), self._scoring.values())

    def __len__(self) -> int:
        return len(self._generating) + len(self._scoring)


def _key_of(group: Group) -> Key:
    if group.split is Split.TRAIN:
        return group.number
    return group.eval_step, group.eval_attempt, group.number
