"""The join: rollouts and rewards become complete groups, in any order, each fact once.

Invariants: the first of two equal facts wins; a closed group is never opened again; rewards of
verifiers that the sample did not ask for are ignored.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tristream.wire.events import Group, Reward, Rollout, Split, Status

Position = tuple[str, int, int]
"""Topic, partition and offset of a record."""


@dataclass(slots=True, kw_only=True)
class OpenGroup:
    """What is known so far of one group."""

    group: Group
    opened_seconds: float
    """Monotonic time of its first record."""
    rollouts: dict[int, Rollout] = field(default_factory=dict)
    rewards: dict[tuple[int, str], Reward] = field(default_factory=dict)
    first_offsets: dict[tuple[str, int], int] = field(default_factory=dict)
    """First offset by topic and partition, to know where reading must start again."""

    def missing(self) -> Counter[str]:
        """What it still waits for: ``rollouts``, or verifiers by name, with counts."""
        waits: Counter[str] = Counter()
        absent = self.group.size - len(self.rollouts)
        if absent:
            waits["rollouts"] = absent
        for index, rollout in self.rollouts.items():
            if not rollout.completion_tokens:
                continue  # nothing to judge
            for term in rollout.reward.terms:
                if (index, term.verifier) not in self.rewards:
                    waits[term.verifier] += 1
        return waits

    def components(self, index: int) -> dict[str, dict[str, float]]:
        """Component rewards of one rollout by verifier; verifiers that did not score are absent."""
        return {
            verifier: dict(reward.components)
            for (rollout_index, verifier), reward in self.rewards.items()
            if rollout_index == index and reward.status is Status.SCORED
        }


class Joiner:
    """Joins the records of many groups."""

    def __init__(self, is_closed: Callable[[Group], bool]) -> None:
        self._is_closed = is_closed
        self._open: dict[str, OpenGroup] = {}

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
            state.rollouts.setdefault(event.index, event)
        else:
            state.rewards.setdefault((event.index, event.verifier), event)
        if len(state.rollouts) < state.group.size or state.missing():
            return None
        return self._open.pop(group_id)

    def take_overdue(self, now_seconds: float, timeout_seconds: float) -> list[OpenGroup]:
        """Remove and return the groups that have been open for too long."""
        overdue = [state for state in self._open.values() if now_seconds - state.opened_seconds > timeout_seconds]
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
