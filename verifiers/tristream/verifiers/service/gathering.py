"""Whole groups for verifiers that judge all rollouts of a group together.

The rollouts of a group are in one partition. A group that is not complete after a while, as the timestamps of its
partition count it, is given up: a log that stands still gives nothing up, and a log that is read late neither.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tristream.wire.events import Group, RewardTerm

MemberT = TypeVar("MemberT")

NUM_CLOSED_KEPT = 4096
"""Closed groups that are remembered: a producer that died may have answered a prompt twice."""


@dataclass(slots=True, kw_only=True)
class Gathering(Generic[MemberT]):
    """The rollouts of a group that are here."""

    group: Group
    term: RewardTerm
    since_ns: int
    """When the broker took the first one."""
    members: dict[int, MemberT] = field(default_factory=dict)
    """By index."""
    left_out: dict[int, MemberT] = field(default_factory=dict)
    """Those without an answer, by index."""

    @property
    def is_complete(self) -> bool:
        """Whether every rollout of the group is here."""
        return self.num_here == self.group.size

    @property
    def num_here(self) -> int:
        """Rollouts that are here, with an answer or without."""
        return len(self.members) + len(self.left_out)

    @property
    def in_order(self) -> Sequence[MemberT]:
        """The members by index."""
        return [member for _, member in sorted(self.members.items())]


class Gatherer(Generic[MemberT]):
    """Collects members until their groups are complete.

    Args:
        wait_seconds: how long a group is waited for.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._wait_ns = int(wait_seconds * 1e9)
        self._open: dict[Hashable, OrderedDict[Hashable, Gathering[MemberT]]] = {}
        """By partition, the one begun first first."""
        self._closed: OrderedDict[Hashable, None] = OrderedDict()

    def has(self, partition: Hashable, group: Group, term: RewardTerm, index: int) -> bool:
        """Whether this rollout of a group was taken before."""
        key = _key(partition, group, term)
        if key in self._closed:
            return True
        of_partition = self._open.get(partition)
        gathering = of_partition.get(key) if of_partition is not None else None
        return gathering is not None and (index in gathering.members or index in gathering.left_out)

    def add(
        self,
        partition: Hashable,
        group: Group,
        term: RewardTerm,
        index: int,
        member: MemberT,
        timestamp_ns: int,
        *,
        has_answer: bool = True,
    ) -> Gathering[MemberT] | None:
        """Take a rollout; returns its group if it is complete now."""
        key = _key(partition, group, term)
        of_partition = self._open.setdefault(partition, OrderedDict())
        gathering = of_partition.get(key)
        if gathering is None:
            gathering = of_partition[key] = Gathering(group=group, term=term, since_ns=timestamp_ns)
        (gathering.members if has_answer else gathering.left_out)[index] = member
        if not gathering.is_complete:
            return None
        del of_partition[key]
        self._close(key)
        return gathering

    def give_up(self, partition: Hashable, now_ns: int) -> Iterator[Gathering[MemberT]]:
        """The groups of a partition that were waited for long enough; they are closed."""
        of_partition = self._open.get(partition)
        while of_partition:
            key, gathering = next(iter(of_partition.items()))
            if now_ns - gathering.since_ns <= self._wait_ns:
                return
            del of_partition[key]
            self._close(key)
            yield gathering

    def forget(self) -> list[MemberT]:
        """Forget everything, as the partitions move and are read again; returns the members that were waiting."""
        members = [
            member
            for of_partition in self._open.values()
            for gathering in of_partition.values()
            for member in (*gathering.members.values(), *gathering.left_out.values())
        ]
        self._open.clear()
        self._closed.clear()
        return members

    def _close(self, key: Hashable) -> None:
        self._closed[key] = None
        if len(self._closed) > NUM_CLOSED_KEPT:
            self._closed.popitem(last=False)


def _key(partition: Hashable, group: Group, term: RewardTerm) -> Hashable:
    return partition, group.id, term.id, term.verifier, term.version, term.params_json, term.mode
